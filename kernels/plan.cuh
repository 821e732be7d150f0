// plan: the samples of a block in shared memory, so that geometry is worked out once for each
// (position, tap, offset group) and not for each channel.

struct Plan {
    index_t pixel;          // top left corner in the input; may lie outside, see flags
    index_t pixel_tangent;  // the same in the tangent of the input
    index_t table;          // the same in dense images of channels last
    index_t position;
    acc_t weight[4];        // bilinear, in the order of the HELD bits
    acc_t ly, lx, mask;
    unsigned flags;
    int tap, channel;  // first channel of the offset group
};

// Plan one sample of an image whose channels are neighbours.
__device__ inline Plan plan_of(const Launch& p, const Sample& s, Place at) {
    Plan plan;
    plan.channel = at.og * (p.g.channels / p.g.offset_groups);
    plan.pixel = element_of(p.input, at.image, plan.channel, s.y0, s.x0);
    plan.pixel_tangent = element_of(p.input_tangent, at.image, plan.channel, s.y0, s.x0);
    const index_t row = static_cast<index_t>(at.image) * p.g.in_h + s.y0;
    plan.table = (row * p.g.in_w + s.x0) * p.g.channels + plan.channel;
    plan.position = at.position;
    plan.tap = at.tap;
    plan.weight[0] = (1 - s.ly) * (1 - s.lx);
    plan.weight[1] = (1 - s.ly) * s.lx;
    plan.weight[2] = s.ly * (1 - s.lx);
    plan.weight[3] = s.ly * s.lx;
    plan.ly = s.ly;
    plan.lx = s.lx;
    // A NaN coordinate gives NaN: the mask carries it to every channel.
    plan.mask = s.flags & LOST ? static_cast<acc_t>(nanf("")) : s.mask;
    plan.flags = s.flags;
    return plan;
}

// Distance from the top left corner to corner j: in the input, in its tangent, in the dense table.
__device__ inline index_t corner_step(const Launch& p, int j) {
    return (j >> 1) * p.input.h + (j & 1) * p.input.w;
}

__device__ inline index_t tangent_step(const Launch& p, int j) {
    return (j >> 1) * p.input_tangent.h + (j & 1) * p.input_tangent.w;
}

__device__ inline index_t table_step(const Launch& p, int j) {
    return (static_cast<index_t>(j >> 1) * p.g.in_w + (j & 1)) * p.g.channels;
}

// Element of a channel in the columns, (groups, positions, leading): the row of a position holds its
// taps, and each tap the channels of the group.
__device__ inline index_t column_of(const Launch& p, index_t position, int tap, int c) {
    const int group_channels = p.g.channels / p.g.groups;
    const int group = c / group_channels;
    return (group * p.positions + position) * p.leading + tap * group_channels
        + (c - group * group_channels);
}

// Fill what no channel fills of a position's rows: a 1, which the product multiplies by the bias, and
// zeros up to a whole vector.
__device__ inline void end_rows(const Launch& p, index_t position, scalar_t* columns) {
    const int used = p.g.kernel_h * p.g.kernel_w * (p.g.channels / p.g.groups);
    for (int group = 0; group < p.g.groups; ++group) {
        const index_t row = (group * p.positions + position) * p.leading;
        for (int k = used; k < p.leading; ++k) {
            from_acc(static_cast<acc_t>(k == used), columns + row + k);
        }
    }
}

// How many samples a block takes from `first` on: one for each thread, or what is left.
__device__ inline int samples_from(const Launch& p, index_t first) {
    const index_t left = p.samples - first;
    return left < blockDim.x ? static_cast<int>(left) : blockDim.x;
}

// Plan a sample; the first of a position also ends the rows of its columns, unless these are null.
__device__ inline void put_plan(
        const Launch& p, const Sample& s, Place at, Plan* plan, scalar_t* columns) {
    const Plan made = plan_of(p, s, at);
    *plan = made;
    if (columns && made.tap == 0 && made.channel == 0) {
        end_rows(p, made.position, columns);
    }
}
