// plan: the samples of a block in shared memory, so that geometry is worked out once for each
// (position, tap, offset group) and not for each channel.

// Loaded 16 bytes at a time, the first two thirds by every kernel.
struct alignas(16) Plan {
    acc_t weight[4];  // bilinear, in the order of the HELD bits
    index_t pixel;    // top left corner in the input; may lie outside, see flags
    index_t cell;     // first channel in the columns, see cell_of; or what a kernel keeps in its place
    acc_t mask;
    unsigned flags;  // those of the sample, COUNTS and GAINS
    acc_t ly, lx;
    index_t table;  // top left corner in dense images of channels last
    int channel;    // first channel of the offset group
};

// Bits in the order of the HELD bits: of corners that count for the value of their sample, and of those
// that gain from it.
const unsigned COUNTS = 1 << 8, GAINS = 1 << 16;

// Element of a channel in the columns, (groups, positions, leading): the row of a position holds its
// taps, and each tap the channels of the group.
__device__ inline index_t column_of(const Launch& p, index_t position, int tap, int c) {
    const int group = quotient(c, p.by_group_channels);
    return (group * p.positions + position) * p.leading + tap * p.group_channels
        + (c - group * p.group_channels);
}

// The same for a channel of a plan, which counts from the first of the offset group. Where the channels
// of an offset group belong to several groups, the plan has the cell as if there were but one.
__device__ inline index_t cell_of(const Launch& p, const Plan& plan, int c) {
    index_t cell = plan.cell + c;
    if (p.crossing) {
        const int group = quotient(plan.channel + c, p.by_group_channels);
        cell += group * (p.positions * p.leading - p.group_channels);
    }
    return cell;
}

__device__ inline acc_t corner_weight(acc_t ly, acc_t lx, int j) {
    return (j >> 1 ? ly : 1 - ly) * (j & 1 ? lx : 1 - lx);
}

// Plan one sample of an image whose channels are neighbours, but for its cell.
__device__ inline Plan plan_of(const Launch& p, const Sample& s, Place at) {
    Plan plan;
    plan.channel = at.og * p.offset_channels;
    plan.pixel = element_of(p.input, at.image, plan.channel, s.y0, s.x0);
    const index_t row = static_cast<index_t>(at.image) * p.g.in_h + s.y0;
    plan.table = (row * p.g.in_w + s.x0) * p.g.channels + plan.channel;
    plan.cell = 0;
    for (int j = 0; j < 4; ++j) {
        plan.weight[j] = corner_weight(s.ly, s.lx, j);
    }
    plan.ly = s.ly;
    plan.lx = s.lx;
    // A NaN coordinate gives NaN: the mask carries it to every channel.
    plan.mask = s.flags & LOST ? static_cast<acc_t>(nanf("")) : s.mask;
    plan.flags = s.flags | corners_of(s.flags) * COUNTS;
    return plan;
}

// The same for a kernel that has columns.
__device__ inline Plan column_plan_of(const Launch& p, const Sample& s, Place at) {
    Plan plan = plan_of(p, s, at);
    if (p.crossing) {
        plan.cell = at.position * p.leading + at.tap * p.group_channels + plan.channel;
    } else {
        plan.cell = column_of(p, at.position, at.tap, plan.channel);
    }
    return plan;
}

// Which corners of a plan gain: a corner of weight 0 gains nothing, whatever the mask.
__device__ inline unsigned gains_of(const Plan& plan) {
    unsigned gains = 0;
    for (int j = 0; j < 4; ++j) {
        gains |= scatter_weight(plan.weight[j], plan.mask) != 0 ? GAINS << j : 0;
    }
    return gains & corners_of(plan.flags) * GAINS;
}

// Distance from the top left corner to corner j: in the input, in dense images.
__device__ inline index_t corner_step(const Launch& p, int j) {
    return (j >> 1) * p.input.h + (j & 1) * p.input.w;
}

__device__ inline index_t table_step(const Launch& p, int j) {
    return (static_cast<index_t>(j >> 1) * p.g.in_w + (j & 1)) * p.g.channels;
}

// Fill what no channel fills of a position's rows: a 1, which the product multiplies by the bias, and
// zeros up to a whole vector.
__device__ inline void end_rows(const Launch& p, index_t position, scalar_t* columns) {
    const int used = p.taps * p.group_channels;
    for (int k = used; k < p.leading; k += VECTOR) {
        Vector end = zero_vector();
        end.v[0] = k == used;
#pragma unroll 1
        for (int group = 0; group < p.g.groups; ++group) {
            store_vector(columns + (group * p.positions + position) * p.leading + k, end);
        }
    }
}

// How a block goes through the vectors of its plans: the sample and the channel of its first thread. It
// is the same in all threads, and the compiler shall see that: there may be shuffles.
struct Round { int k, c; };

__device__ inline int lane_of(const Launch& p) { return threadIdx.x & (p.lanes - 1); }

// Where there are no channels, it is at its end.
__device__ inline Round first_round(const Launch& p) {
    return {p.offset_channels ? 0 : static_cast<int>(blockDim.x), 0};
}

// A thread takes `width` channels at a time; lanes divide those of a sample evenly.
__device__ inline Round next_round(const Launch& p, Round at, int width) {
    const int c = at.c + p.lanes * width;
    return c < p.offset_channels ? Round{at.k, c} : Round{at.k + slots_of(p), 0};
}

// How many samples a block takes from `first` on: one for each thread, or what is left.
__device__ inline int samples_from(const Launch& p, index_t first) {
    const index_t left = p.samples - first;
    return left < blockDim.x ? static_cast<int>(left) : blockDim.x;
}

// The first sample of a position also ends the rows of its columns.
__device__ inline void end_rows_once(const Launch& p, Place at, scalar_t* columns) {
    if (at.tap == 0 && at.og == 0) {
        end_rows(p, at.position, columns);
    }
}
