// sample: where a tap reads the input, and which pixels around that point are in bounds.
//
// A sample is one (position, tap, offset group) of the launch, numbered in that order with the
// offset group fastest. A position is one output pixel of the launch's images and rows. The corners
// of a sample are the CORNERS pixels around it; see axes.cuh. A launch has less than 2^31 samples
// (checked on the host), so that 32-bit divisions find the index of a sample.

struct SampleIndex {
    int image;     // numbered from the first of the launch
    int at[AXES];  // output position
    int tap, offset_group;
    index_t position;
};

struct Sample {
    int low[AXES];     // corner 0; 0 if no corner can be in bounds
    acc_t frac[AXES];  // distance from it, in [0, 1); 0 if no corner can be in bounds
    acc_t mask;        // 1 without a mask
    unsigned flags;    // IN_BOUNDS bits of the corners, AT_MINUS_ONE, NAN_COORD
};

// Output positions of a row: those that differ in the last axis alone. The rows of an image are all
// its other axes merged. In one dimension, every position is a row.
__device__ inline int row_positions(const Problem& problem) {
    return AXES > 1 ? problem.out[AXES - 1] : 1;
}

__device__ inline SampleIndex sample_index(
        const Sampling& sampling, index_t position, int tap, int offset_group) {
    const Problem& problem = sampling.problem;
    SampleIndex index;
    index.offset_group = offset_group;
    index.tap = tap;
    index.position = position;
    int row = static_cast<int>(position);
    if (AXES > 1) {
        row = fast_div(row, problem.by_out[AXES - 1]);
        index.at[AXES - 1] = static_cast<int>(position) - row * problem.out[AXES - 1];
    }
    index.image = fast_div(row, sampling.chunk.by_rows);
    int rest = row - index.image * sampling.chunk.rows + sampling.chunk.first_row;
    for (int a = AXES - 2; a > 0; --a) {
        const int quotient = fast_div(rest, problem.by_out[a]);
        index.at[a] = rest - quotient * problem.out[a];
        rest = quotient;
    }
    index.at[0] = rest;
    return index;
}

// The index of a sample that is given by its number.
__device__ inline SampleIndex unravel_sample(const Sampling& sampling, index_t sample) {
    const int number = static_cast<int>(sample);
    const int pair = fast_div(number, sampling.problem.by_offset_groups);  // (position, tap)
    const int position = fast_div(pair, sampling.problem.by_taps);
    const int tap = pair - position * sampling.problem.taps;
    return sample_index(sampling, position, tap, number - pair * sampling.problem.offset_groups);
}

// Read offset and mask of a sample and work out where it lies. The range test comes before any use
// as an index, so NaN, infinities and huge displacements never address memory.
__device__ inline Sample locate_sample(
        const Sampling& sampling, const scalar_t* offset, const scalar_t* mask, SampleIndex index) {
    const Problem& problem = sampling.problem;
    const int n = sampling.chunk.first_image + index.image;
    const int channel = index.offset_group * problem.taps + index.tap;
    int tap_at[AXES];
    unravel(index.tap, problem.kernel, problem.by_kernel, tap_at);
    acc_t displacement[AXES];
    for (int a = 0; a < AXES; ++a) {
        displacement[a] =
                to_acc(offset[strided_index(sampling.offset, n, AXES * channel + a, index.at)]);
    }

    Sample s;
    s.mask = mask ? to_acc(mask[strided_index(sampling.mask, n, channel, index.at)])
                  : static_cast<acc_t>(1);
    bool reaches_image = true, nan_coord = false, at_minus_one = false;
    for (int a = 0; a < AXES; ++a) {
        const int base = index.at[a] * problem.stride[a] - problem.pad_begin[a]
                + tap_at[a] * problem.dilation[a];
        const bool reaches_axis =
                split_coordinate(displacement[a], base, problem.size[a], s.low + a, s.frac + a);
        reaches_image = reaches_image && reaches_axis;
        nan_coord = nan_coord || displacement[a] != displacement[a];
        at_minus_one = at_minus_one || (s.low[a] == -1 && s.frac[a] == 0);
    }
    reaches_image = reaches_image && !nan_coord;
    s.flags = reaches_image ? corners_in_bounds(problem.size, s.low) | (at_minus_one ? AT_MINUS_ONE : 0)
                            : (nan_coord ? NAN_COORD : 0);
    for (int a = 0; a < AXES; ++a) {
        s.frac[a] = reaches_image ? s.frac[a] : 0;
    }
    return s;
}
