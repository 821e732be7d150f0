// deform_direct_backward: gradients of input, offset and mask for groups of a few channels.
//
//   input         (images, *size, C)        channels contiguous, other strides free
//   offset        (N, AXES*OG*taps, *out)   any strides; one displacement per axis and tap
//   mask          (N, OG*taps, *out)        any strides; may be absent
//   weight        (C/groups, taps, O)       packed, see channel_slice.cuh
//   grad_output   (positions, O)            dense
//   grad_input    (images, *size, C)  acc_t accumulated in no fixed order; may be absent
//   grad_offset   as offset, contiguous     every element of the launch written; may be absent
//   grad_mask     as mask, contiguous       every element of the launch written; may be absent
//
// Threads work as in deform_backward, by channel slices instead of vectors. There are no columns: a
// thread computes the gradient of the columns of its slice, which takes GROUP_OUT products a
// channel.

// The gradient of the columns of a slice.
__device__ inline InSlice grad_columns_of(
        const Sampling& sampling, const SampleRecord& record, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ grad_output, int slice) {
    const index_t position = fast_div(record.position_tap, sampling.problem.by_taps);
    const int tap = static_cast<int>(record.position_tap - position * sampling.problem.taps);
    const OutSlice grad = load_out_slice(
            grad_output + (position * sampling.problem.out_channels + slice * SLICE_OUT));
    InSlice result;
    for (int c = 0; c < SLICE_IN; ++c) {
        result.v[c] = 0;
    }
    for (int i = 0; i < GROUP_IN; ++i) {
        const OutSlice factor = load_weight(sampling, weight, i, tap, slice);
        for (int o = 0; o < SLICE_OUT; ++o) {
            result.v[input_channel_of(o, i)] += factor.v[o] * grad.v[o];
        }
    }
    return result;
}

// Process one vector of channels of one sample: accumulate corner_dots, scatter to grad_input.
__device__ inline void backprop_vector(
        const Sampling& sampling, const SampleRecord& record, const scalar_t* __restrict__ input,
        acc_t* __restrict__ grad_input, const Vector& grad, int c, acc_t* corner_dots) {
    for (int j = 0; j < CORNERS; ++j) {
        const unsigned in_bounds = record.flags & 1 << j;
        add_dot(corner_dots + j, grad, load_corner(sampling, record, input, j, c, in_bounds));
    }
    for (int j = 0; j < CORNERS; ++j) {
        scatter_to_corner(sampling, record, grad, j, c, grad_input);
    }
}

__device__ inline void backprop_slice(
        const Sampling& sampling, const SampleRecord& shared_record,
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ grad_output, acc_t* __restrict__ grad_input, int c,
        acc_t* corner_dots) {
    const int slice = (shared_record.first_channel + c) / SLICE_IN;
    const InSlice grad = grad_columns_of(sampling, shared_record, weight, grad_output, slice);
    // Copied to registers only here: the gradient above needs few fields, and registers are scarce.
    const SampleRecord record = shared_record;
    for (int i = 0; i < SLICE_IN; i += VECTOR) {
        Vector part;
        for (int v = 0; v < VECTOR; ++v) {
            part.v[v] = grad.v[i + v];
        }
        backprop_vector(sampling, record, input, grad_input, part, c + i, corner_dots);
    }
}

extern "C" __global__ void deform_direct_backward(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ grad_output, acc_t* __restrict__ grad_input,
        scalar_t* __restrict__ grad_offset, scalar_t* __restrict__ grad_mask,
        DirectBackward params) {
    const Sampling& sampling = params.sampling;
    SampleRecord* records = reinterpret_cast<SampleRecord*>(dynamic_shared());
    SampleRecord* const my_record = records + threadIdx.x;
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < sampling.samples;
         first += grid_threads()) {
        const int count = record_count(sampling, first);
        if (threadIdx.x < count) {
            const SampleIndex index = unravel_sample(sampling, first + threadIdx.x);
            const Sample s = locate_sample(sampling, offset, mask, index);
            SampleRecord record = make_record(sampling, s, index);
            record.position_tap = index.position * sampling.problem.taps + index.tap;
            record.flags |= grad_input ? corners_receiving_grad(record) : 0;
            *my_record = record;
        }
        __syncthreads();
        acc_t corner_dots[CORNERS] = {};
        for (VectorIter it = first_vector(sampling); it.record < count;
             it = next_vector(sampling, it, SLICE_IN)) {
            const int k = it.record + lane_group_of(sampling.lanes);
            const int c = it.channel + lane_of(sampling.lanes) * SLICE_IN;
            if (k < count) {
                backprop_slice(
                        sampling, records[k], input, weight, grad_output, grad_input, c,
                        corner_dots);
            }
            if (next_vector(sampling, it, SLICE_IN).channel == 0) {
                reduce_lanes(sampling.lanes, corner_dots, k < count, dots_of(records[k]));
                for (int j = 0; j < CORNERS; ++j) {
                    corner_dots[j] = 0;
                }
            }
        }
        __syncthreads();
        if (threadIdx.x < count) {
            write_grads_of_record(sampling, first, *my_record, grad_offset, grad_mask);
        }
    }
}
