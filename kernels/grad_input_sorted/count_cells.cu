// count_cells: count the samples of each cell, and weight them; step 1 of the sorted grad_input.
//
// A cell is the square between four neighbouring pixels, of one image and one offset group. Samples
// of a cell have the same corners. There are (H + 1) x (W + 1) cells, since the outermost reach
// beyond the image; a cell is numbered by the row and column of its bottom right pixel.
//
//   offset   (N, 2*OG*KH*KW, OH, OW)  any strides
//   mask     (N, OG*KH*KW, OH, OW)    any strides; may be absent
//   offset_tangent, mask_tangent      as offset and mask, any strides; may be absent
//   counts   (images, OG, H+1, W+1)   incremented: samples of each cell; zero before
//   cells    (samples,)               written: the sample's cell, -1 if it touches no pixel
//   slots    (samples,)               written if the sample has a cell: a number within the cell,
//                                     each once, in no fixed order
//   weights  (samples, 4)  acc_t      written if the sample has a cell: corner weights, mask
//                                     included; their tangents if `params.weights_are_tangents`
//
// A thread works out a sample at a time.

extern "C" __global__ void count_cells(
        const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        const scalar_t* __restrict__ offset_tangent, const scalar_t* __restrict__ mask_tangent,
        int* __restrict__ counts, index_t* __restrict__ cells, int* __restrict__ slots,
        acc_t* __restrict__ weights, CountCells params) {
    const Sampling& sampling = params.sampling;
    for (index_t sample = global_thread(); sample < sampling.samples; sample += grid_threads()) {
        const SampleIndex index = unravel_sample(sampling, sample);
        const Sample s = locate_sample(sampling, offset, mask, index);
        if (!(params.weights_are_tangents ? s.flags & IN_BOUNDS : contributing_corners(s.flags))) {
            cells[sample] = -1;
            continue;
        }
        const index_t plane = static_cast<index_t>(index.image) * sampling.problem.offset_groups
                + index.offset_group;
        const index_t row = plane * (sampling.problem.in_h + 1) + s.low_y + 1;
        const index_t cell = row * (sampling.problem.in_w + 1) + s.low_x + 1;
        cells[sample] = cell;
        slots[sample] = atomicAdd(counts + cell, 1);
        acc_t* const weight = weights + 4 * sample;
        if (params.weights_are_tangents) {
            const SampleTangent tangent = load_sample_tangent(
                    sampling, params.tangents, s, offset_tangent, mask_tangent, index);
            for (int j = 0; j < 4; ++j) {
                weight[j] = tangent.corner_weights[j];
            }
        } else {
            weight[0] = scatter_weight((1 - s.frac_y) * (1 - s.frac_x), s.mask);
            weight[1] = scatter_weight((1 - s.frac_y) * s.frac_x, s.mask);
            weight[2] = scatter_weight(s.frac_y * (1 - s.frac_x), s.mask);
            weight[3] = scatter_weight(s.frac_y * s.frac_x, s.mask);
        }
    }
}
