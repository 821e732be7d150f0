// sum_parts: gradients of weight and bias from the partial sums of deform_direct_weight.
//
//   partial      (parts, KH*KW*C/groups + 1, O) acc_t
//   grad_weight  (O, C/groups, KH, KW)   contiguous, every element written once; may be absent
//   grad_bias    (O,)                    contiguous, every element written once; may be absent
//
// A block adds up ITEMS sums at a time: each of its threads every so many parts, then one thread for
// each sum what those have, always in the same order.

const int ITEMS = 8;

__device__ inline void write_sum(
        const Launch& p, int item, acc_t sum, scalar_t* grad_weight, scalar_t* grad_bias) {
    const int group_in = p.g.channels / p.g.groups, taps = p.g.kernel_h * p.g.kernel_w;
    const int o = item % p.g.out_channels, row = item / p.g.out_channels;
    const int tap = row / group_in, i = row % group_in;
    if (tap == taps && grad_bias) {
        from_acc(sum, grad_bias + o);
    }
    if (tap < taps && grad_weight) {
        from_acc(sum, grad_weight + (static_cast<index_t>(o) * group_in + i) * taps + tap);
    }
}

extern "C" __global__ void sum_parts(
        const acc_t* __restrict__ partial, scalar_t* __restrict__ grad_weight,
        scalar_t* __restrict__ grad_bias, Launch p) {
    acc_t* sums = reinterpret_cast<acc_t*>(dynamic_shared());
    const int rows = p.g.kernel_h * p.g.kernel_w * (p.g.channels / p.g.groups) + 1;
    const int size = rows * p.g.out_channels, slots = blockDim.x / ITEMS;
    for (int first = blockIdx.x * ITEMS; first < size; first += gridDim.x * ITEMS) {
        const int item = first + threadIdx.x % ITEMS;
        acc_t sum = 0;
        for (int part = threadIdx.x / ITEMS; part < p.parts && item < size; part += slots) {
            sum += partial[static_cast<index_t>(part) * size + item];
        }
        sums[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < ITEMS && item < size) {
            for (int slot = 1; slot < slots; ++slot) {
                sum += sums[slot * ITEMS + threadIdx.x];
            }
            write_sum(p, item, sum, grad_weight, grad_bias);
        }
        __syncthreads();
    }
}
