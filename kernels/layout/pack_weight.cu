// pack_weight: the weight in the order of the columns' rows: taps, then channels, then the bias.
//
//   weight  (O, C/groups, *kernel)  any strides
//   bias    (O,)                    any stride; may be absent
//   packed  (O, ld_columns)         row = taps * C/groups weights, the bias, zero padding; every
//                                   element written once
//
// A row of the columns contains a 1 at the index of the bias, so the product adds the bias. A
// thread writes one element at a time.

extern "C" __global__ void pack_weight(
        const scalar_t* __restrict__ weight, const scalar_t* __restrict__ bias,
        scalar_t* __restrict__ packed, PackWeight params) {
    const int group_channels = params.problem.channels / params.problem.groups;
    const int used = params.problem.taps * group_channels;
    const index_t size = params.problem.out_channels * params.ld_columns;
    for (index_t item = global_thread(); item < size; item += grid_threads()) {
        const int o = static_cast<int>(item / params.ld_columns);
        const int k = static_cast<int>(item - o * params.ld_columns);
        if (k < used) {
            const int tap = k / group_channels, c = k - tap * group_channels;
            int tap_at[AXES];
            unravel(tap, params.problem.kernel, params.problem.by_kernel, tap_at);
            packed[item] = weight[strided_index(params.weight, o, c, tap_at)];
        } else if (k == used && bias) {
            packed[item] = bias[o * params.bias_stride];
        } else {
            from_acc(static_cast<acc_t>(0), packed + item);
        }
    }
}
