// count_sum_cells: count the samples of each cell of a sum, and weight them; step 1 of the sorted
// grad_input. See count_cells.cu for cells; here each level has its own.
//
//   offset   (N, OH, OW, G, taps, 2)   any strides
//   mask     (N, OH, OW, G, taps)      any strides
//   offset_tangent, mask_tangent       likewise; may be absent
//   counts   (images, G, cells)        incremented: samples of each cell; zero before
//   cells    (samples,)                written: the sample's cell, -1 if it touches no pixel
//   slots    (samples,)                written if the sample has a cell: a number within the cell,
//                                      each once, in no fixed order
//   weights  (samples, CORNERS) acc_t  written if the sample has a cell: corner weights, mask
//                                      included; their tangents if `params.weights_are_tangents`
//
// A thread processes one sample at a time; they are numbered by item, then tap.

extern "C" __global__ void count_sum_cells(
        const coord_t* __restrict__ offset, const coord_t* __restrict__ mask,
        const coord_t* __restrict__ offset_tangent, const coord_t* __restrict__ mask_tangent,
        int* __restrict__ counts, index_t* __restrict__ cells, int* __restrict__ slots,
        acc_t* __restrict__ weights, const __grid_constant__ CountSumCells params) {
    const SumSampling& sampling = params.sampling;
    const SumProblem& problem = sampling.problem;
    const index_t samples = sampling.items * problem.taps;
    for (index_t sample = global_thread(); sample < samples; sample += grid_threads()) {
        const index_t number = fast_div(sample, problem.by_taps);
        const int tap = static_cast<int>(sample - number * problem.taps);
        const SumItem item = sum_item(sampling, number);
        const SumSample s =
                locate_sum_sample(sampling, offset, mask, item, tap, level_of(problem, tap, 0));
        if (!(params.weights_are_tangents ? s.flags & IN_BOUNDS : contributing_corners(s.flags))) {
            cells[sample] = -1;
            continue;
        }
        const SumLevel& level = problem.levels[s.level];
        const index_t low_x =
                s.pixel - level.first_pixel - s.low_y * static_cast<index_t>(level.size[0]);
        const index_t cell = (static_cast<index_t>(item.image - params.first_image) * problem.groups
                              + item.group)
                        * problem.cells
                + level.first_cell + (s.low_y + 1) * static_cast<index_t>(level.size[0] + 1) + low_x
                + 1;
        cells[sample] = cell;
        slots[sample] = atomicAdd(counts + cell, 1);
        acc_t* const weight = weights + CORNERS * sample;
        if (params.weights_are_tangents) {
            const SumTangent tangent = sum_tangent(
                    problem, params.tangents, s, offset_tangent, mask_tangent, item, tap);
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
