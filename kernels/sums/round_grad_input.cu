// round_grad_input: the gradient of the input in the dtype of the input.
//
//   sums        (elements,)  acc_t
//   grad_input  (elements,)  written once
//
// A thread takes VECTOR elements at a time.

extern "C" __global__ void round_grad_input(
        const acc_t* __restrict__ sums, scalar_t* __restrict__ grad_input, RoundGradInput params) {
    for (index_t thread = global_thread(); thread < params.vectors; thread += grid_threads()) {
        Vector value;
        for (int i = 0; i < VECTOR; ++i) {
            value.v[i] = sums[thread * VECTOR + i];
        }
        store_vector(grad_input + thread * VECTOR, value);
    }
}
