// sum_splits: the output from what the parts of a fused forward pass add up to, and the bias.
//
//   partial  (parts, images, O, rows, OW) float, without gaps
//   bias     (O,)                         any stride; may be absent
//   output   (N, O, OH, OW)               any strides; every element of the launch written once
//
// A thread adds up the parts of an element, always in the same order.

extern "C" __global__ void sum_splits(
        const float* __restrict__ partial, const scalar_t* __restrict__ bias,
        scalar_t* __restrict__ output, Launch p) {
    const int out_w = p.g.out_w;
    for (index_t item = first_item(); item < p.part_size; item += item_stride()) {
        float sum = 0;
        for (int part = 0; part < p.parts; ++part) {
            sum += partial[part * p.part_size + item];
        }
        const index_t line = item / out_w, plane = line / p.rows, image = plane / p.g.out_channels;
        const int col = static_cast<int>(item - line * out_w);
        const int row = static_cast<int>(line - plane * p.rows) + p.first_row;
        const int o = static_cast<int>(plane - image * p.g.out_channels);
        const int n = static_cast<int>(image) + p.first_image;
        sum = bias ? sum + to_acc(bias[o * p.bias]) : sum;
        from_acc(sum, output + element_of(p.output, n, o, row, col));
    }
}
