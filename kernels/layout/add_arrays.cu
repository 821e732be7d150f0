// add_arrays: add an array, or a number for each channel, to a contiguous array (N, C, *size).
//
//   target  (N, C, *size)  contiguous; every element read and written once
//   other   (N, C, *size)  contiguous; may be absent
//   bias    (C,)           any stride; may be absent
//
// A thread adds to one element at a time.

extern "C" __global__ void add_arrays(
        scalar_t* __restrict__ target, const scalar_t* __restrict__ other,
        const scalar_t* __restrict__ bias, AddArrays params) {
    for (index_t item = global_thread(); item < params.items; item += grid_threads()) {
        acc_t sum = to_acc(target[item]);
        if (other) {
            sum += to_acc(other[item]);
        }
        if (bias) {
            sum += to_acc(bias[item / params.pixels % params.channels * params.bias_stride]);
        }
        from_acc(sum, target + item);
    }
}
