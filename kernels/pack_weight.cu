// pack_weight: the weight with its taps in front of its channels, and the bias behind them.
//
//   weight  (O, C/groups, KH, KW)  any strides
//   bias    (O,)                   any stride; may be absent
//   packed  (O, leading)           row = taps * C/groups weights, the bias, zeros; each written once
//
// The columns end in a 1 where the row holds the bias: the product adds it.

extern "C" __global__ void pack_weight(
        const scalar_t* __restrict__ weight, const scalar_t* __restrict__ bias,
        scalar_t* __restrict__ packed, Launch p) {
    const int group_channels = p.g.channels / p.g.groups;
    const int used = p.g.kernel_h * p.g.kernel_w * group_channels;
    const index_t size = p.g.out_channels * p.leading;
    for (index_t item = first_item(); item < size; item += item_stride()) {
        const int o = static_cast<int>(item / p.leading);
        const int k = static_cast<int>(item - o * p.leading);
        if (k < used) {
            const int tap = k / group_channels, c = k - tap * group_channels;
            const int i = tap / p.g.kernel_w, j = tap - i * p.g.kernel_w;
            packed[item] = weight[element_of(p.weight, o, c, i, j)];
        } else if (k == used && bias) {
            packed[item] = bias[o * p.bias];
        } else {
            from_acc(static_cast<acc_t>(0), packed + item);
        }
    }
}
