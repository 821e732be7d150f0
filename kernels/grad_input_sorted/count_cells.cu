// count_cells: count the samples of each cell, and weight them; step 1 of the sorted grad_input.
//
// A cell is the region between CORNERS adjacent pixels, of one image and one offset group. Samples
// of a cell have the same corners. An axis of n pixels has n + 1 cells, because the outermost cells
// extend beyond the image; a cell is numbered by the index of its last corner.
//
//   offset   (N, AXES*OG*taps, *out)   any strides
//   mask     (N, OG*taps, *out)        any strides; may be absent
//   offset_tangent, mask_tangent       as offset and mask, any strides; may be absent
//   counts   (images, OG, *(size+1))   incremented: number of samples of each cell; zero before
//   cells    (samples,)                written: the sample's cell, -1 if it touches no pixel
//   slots    (samples,)                written if the sample has a cell: a number within the cell,
//                                      each once, in no fixed order
//   weights  (samples, CORNERS) acc_t  written if the sample has a cell: corner weights, mask
//                                      included; their tangents if `params.weights_are_tangents`
//
// A thread processes one sample at a time.

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
        index_t cell = static_cast<index_t>(index.image) * sampling.problem.offset_groups
                + index.offset_group;
        for (int a = 0; a < AXES; ++a) {
            cell = cell * (sampling.problem.size[a] + 1) + s.low[a] + 1;
        }
        cells[sample] = cell;
        slots[sample] = atomicAdd(counts + cell, 1);
        acc_t* const weight = weights + CORNERS * sample;
        if (params.weights_are_tangents) {
            const SampleTangent tangent = load_sample_tangent(
                    sampling, params.tangents, s, offset_tangent, mask_tangent, index);
            for (int j = 0; j < CORNERS; ++j) {
                weight[j] = tangent.corner_weights[j];
            }
        } else {
            for (int j = 0; j < CORNERS; ++j) {
                weight[j] = scatter_weight(corner_weight(s.frac, j), s.mask);
            }
        }
    }
}
