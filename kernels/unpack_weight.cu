// unpack_weight: gradients of weight and bias from the sum over all columns.
//
//   packed       (O, leading)            acc_t; row = taps * C/groups weights, then the bias
//   grad_weight  (O, C/groups, KH, KW)   contiguous, every element written once; may be absent
//   grad_bias    (O,)                    contiguous, every element written once; may be absent

extern "C" __global__ void unpack_weight(
        const acc_t* __restrict__ packed, scalar_t* __restrict__ grad_weight,
        scalar_t* __restrict__ grad_bias, Launch p) {
    const int group_channels = p.g.channels / p.g.groups;
    const int taps = p.g.kernel_h * p.g.kernel_w;
    const index_t row = static_cast<index_t>(taps) * group_channels;
    const index_t size = p.g.out_channels * row;
    for (index_t item = first_item(); grad_weight && item < size; item += item_stride()) {
        const index_t o = item / row;
        const int k = static_cast<int>(item - o * row);
        const int c = k / taps, tap = k - c * taps;
        from_acc(packed[o * p.leading + tap * group_channels + c], grad_weight + item);
    }
    for (index_t o = first_item(); grad_bias && o < p.g.out_channels; o += item_stride()) {
        from_acc(packed[o * p.leading + row], grad_bias + o);
    }
}
