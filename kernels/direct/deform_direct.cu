// deform_direct: the whole forward pass for groups of a few channels, without columns.
//
//   input    (images, *size, C)       channels contiguous, other strides free
//   offset   (N, AXES*OG*taps, *out)  any strides; one displacement per axis and tap
//   mask     (N, OG*taps, *out)       any strides; may be absent
//   weight   (C/groups, taps, O)      packed, see channel_slice.cuh
//   bias     (O,)                     any stride; may be absent
//   output   (N, O, *out)             contiguous; every element of the launch written once
//
// A block computes `lanes` channel slices at as many positions as it has lane groups. It records
// `lanes` taps of each position at a time, one sample per thread; then each thread adds these taps
// to the outputs of its slice at its position. Loads run along the channels. The outputs are
// transposed in shared memory, so that stores run along the positions; rows are padded to avoid
// bank conflicts.

__device__ inline void add_sample(
        const Sampling& sampling, const SampleRecord record, const scalar_t* __restrict__ input,
        const scalar_t* __restrict__ weight, int tap, int slice, OutSlice* sums) {
    const InSlice value =
            sample_slice(sampling, record, input, slice * SLICE_IN - record.first_channel);
    for (int i = 0; i < GROUP_IN; ++i) {
        const OutSlice factor = load_weight(sampling, weight, i, tap, slice);
        for (int o = 0; o < SLICE_OUT; ++o) {
            sums->v[o] += factor.v[o] * value.v[input_channel_of(o, i)];
        }
    }
}

// Index of a position in the output, in the plane of channel 0.
__device__ inline index_t output_index(const Sampling& sampling, index_t position) {
    const Problem& problem = sampling.problem;
    const index_t plane = element_count(problem.out);
    const index_t pixels = static_cast<index_t>(sampling.chunk.rows) * row_positions(problem);
    const index_t image = position / pixels;
    return (sampling.chunk.first_image + image) * problem.out_channels * plane
            + static_cast<index_t>(sampling.chunk.first_row) * row_positions(problem) + position
            - image * pixels;
}

extern "C" __global__ void deform_direct(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ output, Direct params) {
    const Sampling& sampling = params.sampling;
    // Shared memory contains records (taps, positions); after their last use, outputs (channels,
    // positions + 1).
    SampleRecord* records = reinterpret_cast<SampleRecord*>(dynamic_shared());
    scalar_t* outputs = reinterpret_cast<scalar_t*>(dynamic_shared());
    const int block_positions = lane_groups_of(sampling.lanes), width = block_positions + 1;
    // A thread computes the slice of its lane at the position of its lane group. To record a sample
    // or to store outputs, it uses position `column` and tap or channel `line` instead.
    const int lane = lane_of(sampling.lanes), lane_group = lane_group_of(sampling.lanes);
    const int column = threadIdx.x % block_positions, line = threadIdx.x / block_positions;
    const int slice_blocks = sampling.problem.channels / (SLICE_IN * sampling.lanes);
    const index_t position_blocks =
            (sampling.chunk.positions + block_positions - 1) / block_positions;
    for (index_t item = blockIdx.x; item < position_blocks * slice_blocks; item += gridDim.x) {
        const index_t first = item / slice_blocks * block_positions;
        const int slice0 = static_cast<int>(item % slice_blocks) * sampling.lanes,
                  slice = slice0 + lane;
        const int offset_group = slice0 * SLICE_IN / sampling.problem.offset_channels;
        OutSlice sums;
        for (int o = 0; o < SLICE_OUT; ++o) {
            sums.v[o] = bias ? to_acc(bias[(slice * SLICE_OUT + o) * params.bias_stride])
                             : static_cast<acc_t>(0);
        }
        for (int tap0 = 0; tap0 < sampling.problem.taps; tap0 += sampling.lanes) {
            const int tap = tap0 + line;
            if (tap < sampling.problem.taps && first + column < sampling.chunk.positions) {
                records[threadIdx.x] =
                        record_sample(sampling, offset, mask, first + column, tap, offset_group);
            }
            __syncthreads();
            const int left = first + lane_group < sampling.chunk.positions
                    ? sampling.problem.taps - tap0
                    : 0;
            const int count = left < sampling.lanes ? left : sampling.lanes;
            for (int k = 0; k < count; ++k) {
                add_sample(
                        sampling, records[k * block_positions + lane_group], input, weight,
                        tap0 + k, slice, &sums);
            }
            __syncthreads();
        }
        for (int o = 0; o < SLICE_OUT; ++o) {
            from_acc(sums.v[o], outputs + (lane * SLICE_OUT + o) * width + lane_group);
        }
        __syncthreads();
        if (first + column < sampling.chunk.positions) {
            const index_t plane = element_count(sampling.problem.out);
            scalar_t* const to =
                    output + output_index(sampling, first + column) + slice0 * SLICE_OUT * plane;
            for (int o = line; o < sampling.lanes * SLICE_OUT; o += sampling.lanes) {
                to[o * plane] = outputs[o * width + column];
            }
        }
        __syncthreads();
    }
}
