// channel_slice: the channels that one thread of a direct kernel processes.
//
// A group has GROUP_IN input channels and GROUP_OUT output channels, a few of each. A slice is the
// smallest run of contiguous channels that is made of whole groups and of whole vectors of the
// input: SLICE_IN input channels, and the SLICE_OUT output channels of the same groups. The packed
// weight is (GROUP_IN, taps, O): weight[i][tap][o] multiplies input channel i of output channel o's
// group.

const int SLICE_IN = VECTOR > GROUP_IN ? VECTOR : GROUP_IN;
const int SLICE_OUT = SLICE_IN / GROUP_IN * GROUP_OUT;

struct InSlice {
    acc_t v[SLICE_IN];
};
struct OutSlice {
    acc_t v[SLICE_OUT];
};

// The input channel of the slice that is channel i of output channel o's group.
__device__ inline int input_channel_of(int o, int i) { return o / GROUP_OUT * GROUP_IN + i; }

// Load a slice of an array whose last axis is O; by vectors if SLICE_OUT is a multiple of VECTOR.
__device__ inline OutSlice load_out_slice(const scalar_t* from) {
    const int step = SLICE_OUT % VECTOR == 0 ? VECTOR : 1;
    OutSlice result;
    for (int o = 0; o < SLICE_OUT; o += step) {
        if (step == VECTOR) {
            const Vector part = load_vector(from + o);
            for (int i = 0; i < VECTOR; ++i) {
                result.v[(o + i) % SLICE_OUT] = part.v[i];
            }
        } else {
            result.v[o] = to_acc(from[o]);
        }
    }
    return result;
}

__device__ inline OutSlice load_weight(
        const Sampling& sampling, const scalar_t* __restrict__ weight, int i, int tap, int slice) {
    const int row = i * sampling.problem.taps + tap;
    return load_out_slice(
            weight + static_cast<index_t>(row) * sampling.problem.out_channels + slice * SLICE_OUT);
}

// A slice of a sample, mask included; c counts from the first channel of the offset group.
__device__ inline InSlice sample_slice(
        const Sampling& sampling, const SampleRecord& record, const scalar_t* __restrict__ input,
        int c) {
    InSlice result;
    for (int k = 0; k < SLICE_IN; k += VECTOR) {
        const Vector part = sample_vector(sampling, record, input, c + k);
        for (int i = 0; i < VECTOR; ++i) {
            result.v[k + i] = part.v[i];
        }
    }
    return result;
}

// The record of the sample (position, tap, offset group).
__device__ inline SampleRecord record_sample(
        const Sampling& sampling, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, index_t position, int tap, int offset_group) {
    const SampleIndex index = sample_index(sampling, position, tap, offset_group);
    return make_record(sampling, locate_sample(sampling, offset, mask, index), index);
}
