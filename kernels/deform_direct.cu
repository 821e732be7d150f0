// deform_direct: the whole forward pass for groups of a few channels, without columns.
//
//   input    (images, H, W, C)        channels are neighbours, other strides are free
//   offset   (N, 2*OG*KH*KW, OH, OW)  any strides; (dy, dx) of each tap
//   mask     (N, OG*KH*KW, OH, OW)    any strides; may be absent
//   weight   (C/groups, KH*KW, O)     packed, see unit.cuh
//   bias     (O,)                     any stride; may be absent
//   output   (N, O, OH, OW)           contiguous; every element of the launch written once
//
// A block takes a tile: `lanes` units of channels by as many positions as that leaves it threads. It
// plans `lanes` taps of each position at a time, one sample a thread; then each thread adds them to
// the outputs of its unit. Loads run along the channels. The outputs go through shared memory, so
// that stores run along the positions; one more column keeps the banks apart.

__device__ inline void add_sample(
        const Launch& p, const Plan plan, const scalar_t* __restrict__ input,
        const scalar_t* __restrict__ weight, int tap, int unit, Out* sums) {
    const In value = sample_unit(p, plan, input, unit * UNIT_IN - plan.channel);
    for (int i = 0; i < GROUP_IN; ++i) {
        const Out factor = weight_of(p, weight, i, tap, unit);
        for (int o = 0; o < UNIT_OUT; ++o) {
            sums->v[o] += factor.v[o] * value.v[partner_of(o, i)];
        }
    }
}

// Where a position lies in the output's first plane.
__device__ inline index_t output_of(const Launch& p, index_t position) {
    const index_t plane = static_cast<index_t>(p.g.out_h) * p.g.out_w;
    const index_t pixels = static_cast<index_t>(p.rows) * p.g.out_w;
    const index_t image = position / pixels;
    return (p.first_image + image) * p.g.out_channels * plane
        + static_cast<index_t>(p.first_row) * p.g.out_w + position - image * pixels;
}

extern "C" __global__ void deform_direct(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ output, Launch p) {
    Plan* plans = reinterpret_cast<Plan*>(dynamic_shared());
    scalar_t* tile = reinterpret_cast<scalar_t*>(dynamic_shared());  // once the plans are done with
    const int slots = slots_of(p), width = slots + 1;
    const int lane = lane_of(p), slot = slot_of(p);
    const int column = threadIdx.x % slots, line = threadIdx.x / slots;
    const int down = p.g.channels / (UNIT_IN * p.lanes);
    const index_t across = (p.positions + slots - 1) / slots;
    for (index_t square = blockIdx.x; square < across * down; square += gridDim.x) {
        const index_t first = square / down * slots;
        const int unit0 = static_cast<int>(square % down) * p.lanes, unit = unit0 + lane;
        const int og = unit0 * UNIT_IN / p.offset_channels;
        Out sums;
        for (int o = 0; o < UNIT_OUT; ++o) {
            sums.v[o] = bias ? to_acc(bias[(unit * UNIT_OUT + o) * p.bias]) : static_cast<acc_t>(0);
        }
        for (int tap0 = 0; tap0 < p.taps; tap0 += p.lanes) {
            const int tap = tap0 + line;
            if (tap < p.taps && first + column < p.positions) {
                plans[threadIdx.x] = plan_sample(p, offset, mask, first + column, tap, og);
            }
            __syncthreads();
            const int left = first + slot < p.positions ? p.taps - tap0 : 0;
            const int count = left < p.lanes ? left : p.lanes;
            for (int k = 0; k < count; ++k) {
                add_sample(p, plans[k * slots + slot], input, weight, tap0 + k, unit, &sums);
            }
            __syncthreads();
        }
        for (int o = 0; o < UNIT_OUT; ++o) {
            from_acc(sums.v[o], tile + (lane * UNIT_OUT + o) * width + slot);
        }
        __syncthreads();
        if (first + column < p.positions) {
            const index_t plane = static_cast<index_t>(p.g.out_h) * p.g.out_w;
            scalar_t* const to = output + output_of(p, first + column) + unit0 * UNIT_OUT * plane;
            for (int o = line; o < p.lanes * UNIT_OUT; o += p.lanes) {
                to[o * plane] = tile[o * width + column];
            }
        }
        __syncthreads();
    }
}
