// sum_sample: where a tap of a sum lies, and which pixels around that point are in bounds.
//
// An item is one (position, group) of the launch, numbered in that order with the group fastest.
// Axis 0 is x and axis 1 is y, in the order of the pairs of an offset. The lanes of a lane group
// share an item: each works out every lanes-th sample of it and passes what all need to the others
// by shuffles. A thread whose item does not exist takes part with item 0 and writes nothing.

struct SumItem {
    int image, group, at[AXES];
};

struct SumSample {
    index_t pixel;     // corner 0 among the pixels of the image, of all levels
    int level, low_y;  // low_y: the row of corner 0
    acc_t frac[AXES];  // distance from corner 0, in [0, 1); 0 if no corner can be in bounds
    acc_t mask;
    unsigned flags;  // IN_BOUNDS bits of the corners, AT_MINUS_ONE, NAN_COORD
};

__device__ inline SumItem sum_item(const SumSampling& sampling, index_t number) {
    const SumProblem& problem = sampling.problem;
    const index_t local = fast_div(number, problem.by_groups);
    const index_t position = sampling.first_position + local;
    const index_t row = fast_div(position, problem.by_out[0]);
    const index_t image = fast_div(row, problem.by_out[1]);
    SumItem item;
    item.group = static_cast<int>(number - local * problem.groups);
    item.at[0] = static_cast<int>(position - row * problem.out[0]);
    item.at[1] = static_cast<int>(row - image * problem.out[1]);
    item.image = static_cast<int>(image);
    return item;
}

// Index of tap 0 of an item in an (N, OH, OW, G, taps, 2) or (N, OH, OW, G, taps) array, or of
// channel 0 in an (N, OH, OW, G, D) array.
__device__ inline index_t item_index(const PositionStrides& strides, const SumItem& item) {
    return item.image * strides.n + item.at[1] * strides.row + item.at[0] * strides.col
            + item.group * strides.group;
}

// Channel c of a group; vectors are loaded only from contiguous channels.
__device__ inline index_t channel_index(index_t stride, int c) {
    return VECTOR > 1 ? c : c * stride;
}

// Index of channel c of an item's group in the first pixel of its image.
__device__ inline index_t image_index(const PixelStrides& strides, const SumItem& item, int c) {
    return item.image * strides.n + item.group * strides.group + channel_index(strides.channel, c);
}

// Distance from the first pixel of the image to corner 0.
__device__ inline index_t pixel_index(const PixelStrides& strides, const SumSample& s) {
    return s.pixel * strides.pixel + s.low_y * strides.row_gap;
}

// Distance from corner 0 to corner j, in a level of some width.
__device__ inline index_t pixel_step(const PixelStrides& strides, int width, int j) {
    return corner_step(j, 0) * strides.pixel
            + corner_step(j, 1) * (width * strides.pixel + strides.row_gap);
}

// The level of a tap, no level before `level`.
__device__ inline int level_of(const SumProblem& problem, int tap, int level) {
    while (tap >= problem.levels[level].end_tap) {
        ++level;
    }
    return level;
}

// Read offset and mask of a sample and work out where it lies. The range test comes before any use
// as an index, so NaN, infinities and huge offsets never address memory.
__device__ inline SumSample locate_sum_sample(
        const SumSampling& sampling, const coord_t* __restrict__ offset,
        const coord_t* __restrict__ mask, const SumItem& item, int tap, int level) {
    const SumProblem& problem = sampling.problem;
    const SumLevel& image = problem.levels[level];
    const index_t pair = item_index(sampling.offset, item) + tap * sampling.offset.tap;
    // The tap as a point of a grid: column by column, without its centre if that is left out.
    const int number = tap + (tap >= problem.center_tap);
    int grid_at[AXES];
    grid_at[0] = fast_div(number, problem.by_grid_rows);
    grid_at[1] = number - grid_at[0] * problem.by_grid_rows.by;
    SumSample s;
    s.level = level;
    s.mask = to_acc(mask[item_index(sampling.mask, item) + tap * sampling.mask.tap]);
    bool reaches_image = true, nan_coord = false, at_minus_one = false;
    int low[AXES];
    for (int a = 0; a < AXES; ++a) {
        const int base = problem.base[a] + grid_at[a] * problem.base_step[a]
                + item.at[a] * problem.stride[a];
        const int arm = problem.arm[a] + grid_at[a] * problem.arm_step[a];
        const acc_t displacement = problem.shift + static_cast<acc_t>(arm) * problem.arm_scale
                + image.factor[a] * to_acc(offset[pair + a * sampling.offset.element]);
        const bool reaches_axis =
                split_coordinate(displacement, base, image.size[a], low + a, s.frac + a);
        reaches_image = reaches_image && reaches_axis;
        nan_coord = nan_coord || displacement != displacement;
        at_minus_one = at_minus_one || (low[a] == -1 && s.frac[a] == 0);
    }
    reaches_image = reaches_image && !nan_coord;
    s.flags = reaches_image ? corners_in_bounds(image.size, low) | (at_minus_one ? AT_MINUS_ONE : 0)
                            : (nan_coord ? NAN_COORD : 0);
    for (int a = 0; a < AXES; ++a) {
        s.frac[a] = reaches_image ? s.frac[a] : 0;
    }
    s.low_y = low[1];
    s.pixel = image.first_pixel + low[1] * static_cast<index_t>(image.size[0]) + low[0];
    return s;
}

// The factor of corner j in the value of a sample: 0 unless the corner contributes. A NaN
// coordinate makes the value NaN, by way of corner 0.
__device__ inline acc_t weight_in_sum(const SumSample& s, int j) {
    const bool contributes = contributing_corners(s.flags) >> j & 1;
    const acc_t weight = scatter_weight(corner_weight(s.frac, j), s.mask);
    const acc_t none = static_cast<acc_t>(j == 0 && s.flags & NAN_COORD ? nanf("") : 0.0f);
    return contributes ? weight : none;
}
