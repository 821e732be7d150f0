// reduce_split_k: the output of deform_fused from the partial sums of its splits, and the bias.
//
//   partial  (splits, images, O, rows, OW) float  contiguous
//   bias     (O,)                                 any stride; may be absent
//   output   (N, O, OH, OW)                       any strides; every element of the launch written
//                                                 once
//
// A thread reduces the splits of one element at a time, always in the same order.

extern "C" __global__ void reduce_split_k(
        const float* __restrict__ partial, const scalar_t* __restrict__ bias,
        scalar_t* __restrict__ output, ReduceSplitK params) {
    const int out_w = params.out_w;
    for (index_t item = global_thread(); item < params.split_size; item += grid_threads()) {
        float sum = 0;
        for (int split = 0; split < params.splits; ++split) {
            sum += partial[split * params.split_size + item];
        }
        const index_t line = item / out_w, plane = line / params.chunk.rows;
        const index_t image = plane / params.out_channels;
        const int col = static_cast<int>(item - line * out_w);
        const int row = static_cast<int>(line - plane * params.chunk.rows) + params.chunk.first_row;
        const int pixel[] = {row, col};
        const int o = static_cast<int>(plane - image * params.out_channels);
        const int n = static_cast<int>(image) + params.chunk.first_image;
        sum = bias ? sum + to_acc(bias[o * params.bias_stride]) : sum;
        from_acc(sum, output + strided_index(params.output, n, o, pixel));
    }
}
