// deform_direct_weight: partial gradients of weight and bias for groups of a few channels.
//
//   input, offset, mask, grad_output              as for deform_direct_backward
//   partial  (parts, KH*KW*C/groups + 1, O) acc_t  every element written once or, where
//                                                  `p.accumulate`, added to once; row (tap, i) is the
//                                                  gradient of weight (o, i, tap), the last row that
//                                                  of the bias
//
// A block takes one tap, `lanes` units of channels and one part of the positions; a thread adds up
// every slots-th position of the part. Threads and warps are then added in a fixed order, and the
// parts, whose number depends on sizes alone, by sum_parts: no atomics, so sums are reproducible. The
// bias counts as one more tap whose samples are 1.

struct Products { Out of[GROUP_IN]; };  // for each channel of a group

__device__ inline void add_products(
        const Out& grad, const In& value, Products* sums) {
    for (int i = 0; i < GROUP_IN; ++i) {
        for (int o = 0; o < UNIT_OUT; ++o) {
            sums->of[i].v[o] += grad.v[o] * value.v[partner_of(o, i)];
        }
    }
}

// Add up the block's sums and write them; every thread takes part.
__device__ inline void write_products(
        const Launch& p, const Products& sums, index_t row, int last, int unit0, acc_t* partial) {
    acc_t* shared = reinterpret_cast<acc_t*>(dynamic_shared());  // (warps, GROUP_IN, lanes, UNIT_OUT)
    const int lane = threadIdx.x % p.lanes, size = GROUP_IN * UNIT_OUT * p.lanes;
    for (int i = 0; i < GROUP_IN; ++i) {
        for (int o = 0; o < UNIT_OUT; ++o) {
            acc_t sum = sums.of[i].v[o];
            for (int distance = p.lanes; distance < 32; distance *= 2) {
                sum += __shfl_xor_sync(0xffffffff, sum, distance);
            }
            if (threadIdx.x % 32 < p.lanes) {
                const int to = (i * p.lanes + lane) * UNIT_OUT + o;
                shared[threadIdx.x / 32 * size + to] = sum;
            }
        }
    }
    __syncthreads();
    for (int item = threadIdx.x; item < size; item += blockDim.x) {
        const int i = item / (p.lanes * UNIT_OUT), o = item % (p.lanes * UNIT_OUT);
        acc_t sum = 0;
        for (int warp = 0; warp < blockDim.x / 32; ++warp) {
            sum += shared[warp * size + item];
        }
        if (i < last) {
            acc_t* const to = partial + (row + i) * p.g.out_channels + unit0 * UNIT_OUT + o;
            *to = p.accumulate ? *to + sum : sum;
        }
    }
    __syncthreads();
}

extern "C" __global__ void deform_direct_weight(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const scalar_t* __restrict__ grad_output,
        acc_t* __restrict__ partial, Launch p) {
    Plan* plans = reinterpret_cast<Plan*>(dynamic_shared());
    const int taps = p.taps, lane = lane_of(p);
    const int down = p.g.channels / (UNIT_IN * p.lanes);
    const index_t most = (p.positions + p.parts - 1) / p.parts;
    const index_t items = static_cast<index_t>(p.parts) * down * (taps + 1);
    for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
        const index_t part = item / (taps + 1) / down;
        const int tap = static_cast<int>(item % (taps + 1));
        const int unit0 = static_cast<int>(item / (taps + 1) % down) * p.lanes, unit = unit0 + lane;
        const int og = unit0 * UNIT_IN / p.offset_channels;
        const index_t end = (part + 1) * most < p.positions ? (part + 1) * most : p.positions;
        Products sums = {};
        for (index_t first = part * most; first < end; first += blockDim.x) {
            const int count = end - first < blockDim.x ? static_cast<int>(end - first) : blockDim.x;
            if (tap < taps && threadIdx.x < count) {
                plans[threadIdx.x] = plan_sample(p, offset, mask, first + threadIdx.x, tap, og);
            }
            __syncthreads();
            for (int k = slot_of(p); k < count; k += slots_of(p)) {
                const index_t from = (first + k) * p.g.out_channels + unit * UNIT_OUT;
                In value;
                for (int c = 0; c < UNIT_IN; ++c) {
                    value.v[c] = 1;
                }
                if (tap < taps) {
                    const Plan plan = plans[k];
                    value = sample_unit(p, plan, input, unit * UNIT_IN - plan.channel);
                }
                add_products(load_out(grad_output + from), value, &sums);
            }
            __syncthreads();
        }
        const index_t row = part * (taps * GROUP_IN + 1) + tap * GROUP_IN;
        write_products(p, sums, row, tap < taps ? GROUP_IN : 1, unit0, partial);
    }
}
