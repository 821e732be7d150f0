// sample_record: samples in shared memory, computed once for all channels of an offset group.
//
// Kernels that use it share a scheme. Each thread of a block makes one record: it reads offset and
// mask and computes what all channels of the sample share. After a barrier, each lane group takes
// one record at a time: adjacent lanes process adjacent vectors of the sample's channels, so that
// their accesses coalesce.

// Loaded 16 bytes at a time. Every kernel reads the fields up to `flags`.
struct alignas(16) SampleRecord {
    acc_t corner_weights[CORNERS];  // multilinear; later the corner dots, see dots_of
    index_t input_index;            // corner 0, first channel, in the input; may be out of bounds
    union {
        index_t column_index;  // first channel in the columns, see record_column
        index_t position_tap;  // position * taps + tap, of kernels without columns
    };
    acc_t mask;
    unsigned flags;  // those of the sample, CONTRIBUTES and RECEIVES_GRAD bits
    acc_t frac[AXES];
    index_t dense_index;  // corner 0, first channel, in dense channels-last images
    int first_channel;    // of the offset group
};

// The corner dots of a sample replace its corner weights after their last use. A union would
// express this, but with a union the compiler keeps copies of records in more registers.
__device__ inline acc_t* dots_of(SampleRecord& record) { return record.corner_weights; }
__device__ inline const acc_t* dots_of(const SampleRecord& record) { return record.corner_weights; }

// Bit j of the IN_BOUNDS bits times CONTRIBUTES: corner j contributes to the value of the sample.
// Times RECEIVES_GRAD: the sample adds to the gradient of corner j.
const unsigned CONTRIBUTES = 1 << 8, RECEIVES_GRAD = 1 << 16;

// The record of a sample, without a column index.
__device__ inline SampleRecord make_record(
        const Sampling& sampling, const Sample& s, SampleIndex index) {
    SampleRecord record;
    record.first_channel = index.offset_group * sampling.problem.offset_channels;
    record.input_index = strided_index(sampling.input, index.image, record.first_channel, s.low);
    index_t pixel = index.image;
    for (int a = 0; a < AXES; ++a) {
        pixel = pixel * sampling.problem.size[a] + s.low[a];
    }
    record.dense_index = pixel * sampling.problem.channels + record.first_channel;
    record.column_index = 0;
    for (int j = 0; j < CORNERS; ++j) {
        record.corner_weights[j] = corner_weight(s.frac, j);
    }
    for (int a = 0; a < AXES; ++a) {
        record.frac[a] = s.frac[a];
    }
    // With a NaN coordinate, the mask makes every channel NaN.
    record.mask = s.flags & NAN_COORD ? static_cast<acc_t>(nanf("")) : s.mask;
    record.flags = s.flags | contributing_corners(s.flags) * CONTRIBUTES;
    return record;
}

// RECEIVES_GRAD bits: contributing corners whose weight is not 0; see scatter_weight.
__device__ inline unsigned corners_receiving_grad(const SampleRecord& record) {
    unsigned receiving = 0;
    for (int j = 0; j < CORNERS; ++j) {
        const acc_t weight = scatter_weight(record.corner_weights[j], record.mask);
        receiving |= weight != 0 ? RECEIVES_GRAD << j : 0;
    }
    return receiving & contributing_corners(record.flags) * RECEIVES_GRAD;
}

// Distance from corner 0 to corner j in an array with arbitrary strides.
__device__ inline index_t strided_step(Strides strides, int j) {
    index_t step = 0;
    for (int a = 0; a < AXES; ++a) {
        step += corner_step(j, a) * strides.axis[a];
    }
    return step;
}

// The same in dense channels-last images.
__device__ inline index_t dense_step(const Sampling& sampling, int j) {
    index_t pixels = corner_step(j, 0);
    for (int a = 1; a < AXES; ++a) {
        pixels = pixels * sampling.problem.size[a] + corner_step(j, a);
    }
    return pixels * sampling.problem.channels;
}

// VECTOR channels of corner j, zeros without an access if `condition` is 0; c counts from the first
// channel of the offset group.
__device__ inline Vector load_corner(
        const Sampling& sampling, const SampleRecord& record, const scalar_t* __restrict__ input,
        int j, int c, unsigned condition) {
    const scalar_t* const from = input + (record.input_index + strided_step(sampling.input, j) + c);
    return load_vector_if(condition, from);
}

// VECTOR channels of a sample, mask included; c counts from the first channel of the offset group.
__device__ inline Vector sample_vector(
        const Sampling& sampling, const SampleRecord& record, const scalar_t* __restrict__ input,
        int c) {
    Vector value = zero_vector();
    for (int j = 0; j < CORNERS; ++j) {
        const unsigned contributes = record.flags & CONTRIBUTES << j;
        const Vector pixel = load_corner(sampling, record, input, j, c, contributes);
        add_scaled(&value, record.corner_weights[j], pixel);
    }
    return scaled(record.mask, value);
}

// Number of records that a block makes from sample `first` on: one per thread, or fewer at the end.
__device__ inline int record_count(const Sampling& sampling, index_t first) {
    const index_t left = sampling.samples - first;
    return left < blockDim.x ? static_cast<int>(left) : blockDim.x;
}

// Iterates over the vectors of a block's records: record and channel of the block's first thread.
// It is uniform across the block, and the compiler must be able to prove it, because the loop body
// contains warp shuffles.
struct VectorIter {
    int record, channel;
};

// Already at the end if there are no channels.
__device__ inline VectorIter first_vector(const Sampling& sampling) {
    return {sampling.problem.offset_channels ? 0 : static_cast<int>(blockDim.x), 0};
}

// A thread processes `width` channels per step; the lanes of a group divide a sample's channels
// evenly.
__device__ inline VectorIter next_vector(const Sampling& sampling, VectorIter it, int width) {
    const int c = it.channel + sampling.lanes * width;
    return c < sampling.problem.offset_channels
            ? VectorIter{it.record, c}
            : VectorIter{it.record + lane_groups_of(sampling.lanes), 0};
}
