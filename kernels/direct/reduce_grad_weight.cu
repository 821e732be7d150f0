// reduce_grad_weight: gradients of weight and bias from their partial sums.
//
//   partial      (splits, taps*C/groups + 1, O) acc_t, see deform_direct_grad_weight
//   grad_weight  (O, C/groups, *kernel) contiguous, every element written once; may be absent
//   grad_bias    (O,)                   contiguous, every element written once; may be absent
//
// A block reduces ITEMS sums at a time. Thread t adds every n-th split of sum t % ITEMS, where n is
// the number of threads per sum. Then one thread per sum adds these partial sums, always in the
// same order.

const int ITEMS = 8;

__device__ inline void write_sum(
        const Problem& problem, int item, acc_t sum, scalar_t* grad_weight, scalar_t* grad_bias) {
    const int group_in = problem.channels / problem.groups;
    const int taps = problem.taps;
    const int o = item % problem.out_channels, row = item / problem.out_channels;
    const int tap = row / group_in, i = row % group_in;
    if (tap == taps && grad_bias) {
        from_acc(sum, grad_bias + o);
    }
    if (tap < taps && grad_weight) {
        from_acc(sum, grad_weight + (static_cast<index_t>(o) * group_in + i) * taps + tap);
    }
}

extern "C" __global__ void reduce_grad_weight(
        const acc_t* __restrict__ partial, scalar_t* __restrict__ grad_weight,
        scalar_t* __restrict__ grad_bias, ReduceGradWeight params) {
    acc_t* sums = reinterpret_cast<acc_t*>(dynamic_shared());  // one per thread
    const Problem& problem = params.problem;
    const int rows = problem.taps * (problem.channels / problem.groups) + 1;
    const int size = rows * problem.out_channels, item_threads = blockDim.x / ITEMS;
    for (int first = blockIdx.x * ITEMS; first < size; first += gridDim.x * ITEMS) {
        const int item = first + threadIdx.x % ITEMS;
        acc_t sum = 0;
        for (int split = threadIdx.x / ITEMS; split < params.splits && item < size;
             split += item_threads) {
            sum += partial[static_cast<index_t>(split) * size + item];
        }
        sums[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < ITEMS && item < size) {
            for (int i = 1; i < item_threads; ++i) {
                sum += sums[i * ITEMS + threadIdx.x];
            }
            write_sum(problem, item, sum, grad_weight, grad_bias);
        }
        __syncthreads();
    }
}
