// unpack_weight: round the gradient of a packed weight into the gradients of weight and bias.
//
//   packed       (O, ld_columns)        acc_t; row = taps * C/groups weights, the bias, padding
//   grad_weight  (O, C/groups, *kernel) contiguous, every element written once; may be absent
//   grad_bias    (O,)                   contiguous, every element written once; may be absent
//
// A thread writes one element at a time.

extern "C" __global__ void unpack_weight(
        const acc_t* __restrict__ packed, scalar_t* __restrict__ grad_weight,
        scalar_t* __restrict__ grad_bias, UnpackWeight params) {
    const int group_channels = params.problem.channels / params.problem.groups;
    const int taps = params.problem.taps;
    const index_t row = static_cast<index_t>(taps) * group_channels;
    const index_t size = params.problem.out_channels * row;
    for (index_t item = global_thread(); grad_weight && item < size; item += grid_threads()) {
        const index_t o = item / row;
        const int k = static_cast<int>(item - o * row);
        const int c = k / taps, tap = k - c * taps;
        from_acc(packed[o * params.ld_columns + tap * group_channels + c], grad_weight + item);
    }
    for (index_t o = global_thread(); grad_bias && o < params.problem.out_channels;
         o += grid_threads()) {
        from_acc(packed[o * params.ld_columns + row], grad_bias + o);
    }
}
