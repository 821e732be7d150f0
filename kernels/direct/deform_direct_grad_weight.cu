// deform_direct_grad_weight: partial gradients of weight and bias for groups of a few channels.
//
//   input, offset, mask, grad_output  as for deform_direct_backward
//   partial  (splits, taps*C/groups + 1, O)  acc_t; row (tap, i) is the gradient of weight
//            (o, i, tap), the last row that of the bias; every element written once or, if
//            `params.accumulate`, added to once
//
// The positions of the launch are cut into `splits` equal ranges, whose number depends on sizes
// alone. A block takes one tap, `lanes` channel slices and one range; each lane group sums over
// every n-th position of the range, n being the number of lane groups. Lane groups and warps are
// reduced in a fixed order, and the splits by reduce_grad_weight: no atomics, so sums are
// reproducible. The bias is one more tap, whose samples are 1.

// The sums of a thread, by input channel of a group.
struct WeightSums {
    OutSlice of[GROUP_IN];
};

__device__ inline void add_outer_product(
        const OutSlice& grad, const InSlice& value, WeightSums* sums) {
    for (int i = 0; i < GROUP_IN; ++i) {
        for (int o = 0; o < SLICE_OUT; ++o) {
            sums->of[i].v[o] += grad.v[o] * value.v[input_channel_of(o, i)];
        }
    }
}

// Reduce the sums of a block and write the first `rows` rows of them; every thread takes part.
__device__ inline void reduce_and_write(
        const DirectGradWeight& params, const WeightSums& sums, index_t first_row, int rows,
        int slice0, acc_t* partial) {
    // (warps, GROUP_IN, lanes, SLICE_OUT)
    acc_t* shared = reinterpret_cast<acc_t*>(dynamic_shared());
    const int lanes = params.sampling.lanes;
    const int lane = threadIdx.x % lanes, size = GROUP_IN * SLICE_OUT * lanes;
    for (int i = 0; i < GROUP_IN; ++i) {
        for (int o = 0; o < SLICE_OUT; ++o) {
            acc_t sum = sums.of[i].v[o];
            for (int distance = lanes; distance < 32; distance *= 2) {
                sum += __shfl_xor_sync(0xffffffff, sum, distance);
            }
            if (threadIdx.x % 32 < lanes) {
                const int to = (i * lanes + lane) * SLICE_OUT + o;
                shared[threadIdx.x / 32 * size + to] = sum;
            }
        }
    }
    __syncthreads();
    for (int item = threadIdx.x; item < size; item += blockDim.x) {
        const int i = item / (lanes * SLICE_OUT), o = item % (lanes * SLICE_OUT);
        acc_t sum = 0;
        for (int warp = 0; warp < blockDim.x / 32; ++warp) {
            sum += shared[warp * size + item];
        }
        if (i < rows) {
            acc_t* const to = partial + (first_row + i) * params.sampling.problem.out_channels
                    + slice0 * SLICE_OUT + o;
            *to = params.accumulate ? *to + sum : sum;
        }
    }
    __syncthreads();
}

extern "C" __global__ void deform_direct_grad_weight(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const scalar_t* __restrict__ grad_output,
        acc_t* __restrict__ partial, DirectGradWeight params) {
    const Sampling& sampling = params.sampling;
    SampleRecord* records = reinterpret_cast<SampleRecord*>(dynamic_shared());
    const int taps = sampling.problem.taps, lane = lane_of(sampling.lanes);
    const int slice_blocks = sampling.problem.channels / (SLICE_IN * sampling.lanes);
    const index_t split_positions = (sampling.chunk.positions + params.splits - 1) / params.splits;
    const index_t items = static_cast<index_t>(params.splits) * slice_blocks * (taps + 1);
    for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
        const index_t split = item / (taps + 1) / slice_blocks;
        const int tap = static_cast<int>(item % (taps + 1));
        const int slice0 = static_cast<int>(item / (taps + 1) % slice_blocks) * sampling.lanes;
        const int slice = slice0 + lane;
        const int offset_group = slice0 * SLICE_IN / sampling.problem.offset_channels;
        const index_t end = (split + 1) * split_positions < sampling.chunk.positions
                ? (split + 1) * split_positions
                : sampling.chunk.positions;
        WeightSums sums = {};
        for (index_t first = split * split_positions; first < end; first += blockDim.x) {
            const int count = end - first < blockDim.x ? static_cast<int>(end - first) : blockDim.x;
            if (tap < taps && threadIdx.x < count) {
                records[threadIdx.x] = record_sample(
                        sampling, offset, mask, first + threadIdx.x, tap, offset_group);
            }
            __syncthreads();
            for (int k = lane_group_of(sampling.lanes); k < count;
                 k += lane_groups_of(sampling.lanes)) {
                const index_t from =
                        (first + k) * sampling.problem.out_channels + slice * SLICE_OUT;
                InSlice value;
                for (int c = 0; c < SLICE_IN; ++c) {
                    value.v[c] = 1;
                }
                if (tap < taps) {
                    const SampleRecord record = records[k];
                    value = sample_slice(
                            sampling, record, input, slice * SLICE_IN - record.first_channel);
                }
                add_outer_product(load_out_slice(grad_output + from), value, &sums);
            }
            __syncthreads();
        }
        const index_t first_row = split * (taps * GROUP_IN + 1) + tap * GROUP_IN;
        reduce_and_write(params, sums, first_row, tap < taps ? GROUP_IN : 1, slice0, partial);
    }
}
