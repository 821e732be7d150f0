// sample_record: samples worked out in shared memory, so that geometry costs once a sample, not a channel.
//
// Kernels that use it share a scheme. A block makes as many records as it has threads, one each:
// offset and mask are read and reduced to what all channels share. After a barrier, lane groups share
// the records: neighbouring lanes process neighbouring vectors of a sample's channels, so that their
// accesses coalesce.
//
// Columns are (groups, positions, ld_columns). The row of a position holds its taps, each tap the
// channels of the group, then a 1 that the product multiplies by the bias, then zero padding.

// Loaded 16 bytes at a time; every kernel loads the first two thirds.
struct alignas(16) SampleRecord {
    acc_t corner_weights[4];  // bilinear
    index_t input_index;      // top left corner, first channel, in the input; may be out of bounds
    index_t column_index;     // first channel in the columns, see record_column; kernels without
                              // columns store another index here
    acc_t mask;
    unsigned flags;  // those of the sample, CONTRIBUTES and RECEIVES_GRAD bits
    acc_t frac_y, frac_x;
    index_t dense_index;  // top left corner, first channel, in dense channels-last images
    int first_channel;    // of the offset group
};

// Bit j of the IN_BOUNDS bits times CONTRIBUTES: corner j contributes to the value of the sample.
// Times RECEIVES_GRAD: the sample adds to the gradient of corner j.
const unsigned CONTRIBUTES = 1 << 8, RECEIVES_GRAD = 1 << 16;

// Index of (position, tap, channel) in the columns.
__device__ inline index_t column_index(const Launch& params, index_t position, int tap, int c) {
    const int group = fast_div(c, params.by_group_channels);
    return (group * params.positions + position) * params.ld_columns + tap * params.group_channels
        + (c - group * params.group_channels);
}

// Index in the columns of channel c of a record, counted from the first of its offset group. If an offset
// group spans several groups, record.column_index is that of a convolution of one group.
__device__ inline index_t record_column(const Launch& params, const SampleRecord& record, int c) {
    index_t column = record.column_index + c;
    if (params.spans_groups) {
        const int group = fast_div(record.first_channel + c, params.by_group_channels);
        column += group * (params.positions * params.ld_columns - params.group_channels);
    }
    return column;
}

// The record of a sample, without a column index.
__device__ inline SampleRecord make_record(const Launch& params, const Sample& s, SampleIndex index) {
    SampleRecord record;
    record.first_channel = index.offset_group * params.offset_channels;
    record.input_index =
        strided_index(params.input, index.image, record.first_channel, s.low_y, s.low_x);
    const index_t row = static_cast<index_t>(index.image) * params.g.in_h + s.low_y;
    record.dense_index = (row * params.g.in_w + s.low_x) * params.g.channels + record.first_channel;
    record.column_index = 0;
    for (int j = 0; j < 4; ++j) {
        record.corner_weights[j] = corner_weight(s.frac_y, s.frac_x, j);
    }
    record.frac_y = s.frac_y;
    record.frac_x = s.frac_x;
    // A NaN coordinate makes every channel NaN, by way of the mask.
    record.mask = s.flags & NAN_COORD ? static_cast<acc_t>(nanf("")) : s.mask;
    record.flags = s.flags | contributing_corners(s.flags) * CONTRIBUTES;
    return record;
}

// The record of a sample, with its column index.
__device__ inline SampleRecord make_column_record(
        const Launch& params, const Sample& s, SampleIndex index) {
    SampleRecord record = make_record(params, s, index);
    if (params.spans_groups) {
        record.column_index = index.position * params.ld_columns + index.tap * params.group_channels
            + record.first_channel;
    } else {
        record.column_index = column_index(params, index.position, index.tap, record.first_channel);
    }
    return record;
}

// RECEIVES_GRAD bits: contributing corners whose weight is not 0; see scatter_weight.
__device__ inline unsigned corners_receiving_grad(const SampleRecord& record) {
    unsigned receiving = 0;
    for (int j = 0; j < 4; ++j) {
        const acc_t weight = scatter_weight(record.corner_weights[j], record.mask);
        receiving |= weight != 0 ? RECEIVES_GRAD << j : 0;
    }
    return receiving & contributing_corners(record.flags) * RECEIVES_GRAD;
}

// Distance from the top left corner to corner j in the input.
__device__ inline index_t input_step(const Launch& params, int j) {
    return (j >> 1) * params.input.h + (j & 1) * params.input.w;
}

// The same in dense channels-last images.
__device__ inline index_t dense_step(const Launch& params, int j) {
    return (static_cast<index_t>(j >> 1) * params.g.in_w + (j & 1)) * params.g.channels;
}

// VECTOR channels of a sample, mask included; c counts from the first channel of the offset group.
__device__ inline Vector sample_vector(
        const Launch& params, const SampleRecord& record, const scalar_t* __restrict__ input, int c) {
    Vector value = zero_vector();
    for (int j = 0; j < 4; ++j) {
        const scalar_t* const from = input + (record.input_index + input_step(params, j) + c);
        const Vector pixel = load_vector_if(record.flags & CONTRIBUTES << j, from);
        add_scaled(&value, record.corner_weights[j], pixel);
    }
    return scaled(record.mask, value);
}

// Write the tail of each column row of a position: the 1, then zero padding to the vector width.
__device__ inline void write_row_padding(
        const Launch& params, index_t position, scalar_t* columns) {
    const int used = params.taps * params.group_channels;
    for (int k = used; k < params.ld_columns; k += VECTOR) {
        Vector tail = zero_vector();
        tail.v[0] = k == used;
#pragma unroll 1
        for (int group = 0; group < params.g.groups; ++group) {
            store_vector(columns + (group * params.positions + position) * params.ld_columns + k, tail);
        }
    }
}

// The same, by the first sample of each position only.
__device__ inline void write_row_padding_once(
        const Launch& params, SampleIndex index, scalar_t* columns) {
    if (index.tap == 0 && index.offset_group == 0) {
        write_row_padding(params, index.position, columns);
    }
}

// Number of records that a block makes from sample `first` on: one a thread, or what is left.
__device__ inline int record_count(const Launch& params, index_t first) {
    const index_t left = params.samples - first;
    return left < blockDim.x ? static_cast<int>(left) : blockDim.x;
}

// Iterates over the vectors of a block's records: record and channel of the block's first thread. It is
// uniform across the block, and must be provably so: the loop body contains warp shuffles.
struct VectorIter { int record, channel; };

// Already at the end if there are no channels.
__device__ inline VectorIter first_vector(const Launch& params) {
    return {params.offset_channels ? 0 : static_cast<int>(blockDim.x), 0};
}

// A thread takes `width` channels a step; the lanes of a group divide a sample's channels evenly.
__device__ inline VectorIter next_vector(const Launch& params, VectorIter it, int width) {
    const int c = it.channel + params.lanes * width;
    return c < params.offset_channels ? VectorIter{it.record, c}
                                      : VectorIter{it.record + lane_groups_of(params), 0};
}
