// sample: where a tap reads the input, and which pixels around that point are in bounds.
//
// A sample is one (position, tap, offset group) of the launch, numbered in that order with the
// offset group fastest. A position is one output pixel of the launch's images and rows. The corners
// of a sample are the four pixels around it, numbered 0 to 3: top left, top right, bottom left,
// bottom right.

struct SampleIndex {
    int image, row, col;  // output position; images are numbered from the first of the launch
    int tap, offset_group;
    index_t position;
};

struct Sample {
    int low_y, low_x;      // top left corner; 0 if no corner can be in bounds
    acc_t frac_y, frac_x;  // distance from it, in [0, 1); 0 if no corner can be in bounds
    acc_t mask;            // 1 without a mask
    unsigned flags;        // IN_BOUNDS bits of the corners, AT_MINUS_ONE, NAN_COORD
};

const unsigned IN_BOUNDS_TL = 1;  // bit j: corner j is a pixel of the image
const unsigned IN_BOUNDS_TR = 2;
const unsigned IN_BOUNDS_BL = 4;
const unsigned IN_BOUNDS_BR = 8;
const unsigned IN_BOUNDS = 15;
const unsigned AT_MINUS_ONE = 16;  // a coordinate is exactly -1: the sample is 0
const unsigned NAN_COORD = 32;     // a coordinate is NaN

__device__ inline SampleIndex sample_index(
        const Sampling& sampling, index_t position, int tap, int offset_group) {
    SampleIndex index;
    index.offset_group = offset_group;
    index.tap = tap;
    index.position = position;
    const index_t row = fast_div(position, sampling.problem.by_out_w);
    index.col = static_cast<int>(position - row * sampling.problem.out_w);
    index.image = static_cast<int>(fast_div(row, sampling.chunk.by_rows));
    index.row = static_cast<int>(row - static_cast<index_t>(index.image) * sampling.chunk.rows)
            + sampling.chunk.first_row;
    return index;
}

// The index of a sample that is given by its number.
__device__ inline SampleIndex unravel_sample(const Sampling& sampling, index_t sample) {
    const index_t pair = fast_div(sample, sampling.problem.by_offset_groups);  // (position, tap)
    const index_t position = fast_div(pair, sampling.problem.by_taps);
    const int tap = static_cast<int>(pair - position * sampling.problem.taps);
    return sample_index(
            sampling, position, tap,
            static_cast<int>(sample - pair * sampling.problem.offset_groups));
}

// Split the coordinate base + displacement into its floor `low` and the fraction above it. The
// fraction comes from the displacement alone, so that a large base costs no precision. False, and
// low = 0, if no pixel of the axis is a corner. size + padding < 2^31 (checked on the host), so
// neither bound overflows; floor_to_int saturates, so a huge displacement fails the test.
__device__ inline bool split_coordinate(
        acc_t displacement, int base, int size, int* low, acc_t* frac) {
    const int step = floor_to_int(displacement);
    const bool reaches_image = step >= -1 - base && step < size - base;
    *low = reaches_image ? step + base : 0;
    *frac = displacement - floor(displacement);
    return reaches_image;
}

__device__ inline unsigned corners_in_bounds(const Problem& problem, int low_y, int low_x) {
    const unsigned rows = (low_y >= 0 ? IN_BOUNDS_TL | IN_BOUNDS_TR : 0)
            | (low_y < problem.in_h - 1 ? IN_BOUNDS_BL | IN_BOUNDS_BR : 0);
    const unsigned cols = (low_x >= 0 ? IN_BOUNDS_TL | IN_BOUNDS_BL : 0)
            | (low_x < problem.in_w - 1 ? IN_BOUNDS_TR | IN_BOUNDS_BR : 0);
    return rows & cols;
}

// Read offset and mask of a sample and work out where it lies. The range test comes before any use
// as an index, so NaN, infinities and huge displacements never address memory.
__device__ inline Sample locate_sample(
        const Sampling& sampling, const scalar_t* offset, const scalar_t* mask, SampleIndex index) {
    const Problem& problem = sampling.problem;
    const int n = sampling.chunk.first_image + index.image;
    const int channel = index.offset_group * problem.taps + index.tap;
    const int i = fast_div(index.tap, problem.by_kernel_w);
    const int j = index.tap - i * problem.kernel_w;
    const acc_t dy =
            to_acc(offset[strided_index(sampling.offset, n, 2 * channel, index.row, index.col)]);
    const acc_t dx = to_acc(
            offset[strided_index(sampling.offset, n, 2 * channel + 1, index.row, index.col)]);

    Sample s;
    s.mask = mask ? to_acc(mask[strided_index(sampling.mask, n, channel, index.row, index.col)])
                  : static_cast<acc_t>(1);
    const int base_y = index.row * problem.stride_h - problem.pad_top + i * problem.dilation_h;
    const int base_x = index.col * problem.stride_w - problem.pad_left + j * problem.dilation_w;
    const bool reaches_y = split_coordinate(dy, base_y, problem.in_h, &s.low_y, &s.frac_y);
    const bool reaches_x = split_coordinate(dx, base_x, problem.in_w, &s.low_x, &s.frac_x);
    const bool nan_coord = dy != dy || dx != dx;
    const bool reaches_image = reaches_y && reaches_x && !nan_coord;
    const bool at_minus_one = (s.low_y == -1 && s.frac_y == 0) || (s.low_x == -1 && s.frac_x == 0);
    s.flags = reaches_image
            ? corners_in_bounds(problem, s.low_y, s.low_x) | (at_minus_one ? AT_MINUS_ONE : 0)
            : (nan_coord ? NAN_COORD : 0);
    s.frac_y = reaches_image ? s.frac_y : 0;
    s.frac_x = reaches_image ? s.frac_x : 0;
    return s;
}

// The bilinear weight of corner j.
__device__ inline acc_t corner_weight(acc_t frac_y, acc_t frac_x, int j) {
    return (j >> 1 ? frac_y : 1 - frac_y) * (j & 1 ? frac_x : 1 - frac_x);
}

// The factor between the gradient of a sample and what it adds to the gradient of a corner. It is 0
// for a bilinear weight of 0, even if the mask is infinite or NaN.
__device__ inline acc_t scatter_weight(acc_t bilinear, acc_t mask) {
    return bilinear == 0 ? static_cast<acc_t>(0) : bilinear * mask;
}

// IN_BOUNDS bits of the corners that contribute to the value of a sample: none at a coordinate of
// -1.
__device__ inline unsigned contributing_corners(unsigned flags) {
    return flags & AT_MINUS_ONE ? 0 : flags & IN_BOUNDS;
}
