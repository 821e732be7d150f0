// gather_sum_grad_input: gradient of the input of a sum without atomics; step 5 of the sorted
// grad_input.
//
//   grad_output  (N, OH, OW, G, D)       any strides; contiguous channels if VECTOR > 1
//   counts, starts  (images, G, cells)   each cell's range of `ordered`
//   ordered      (samples,)              samples by cell, ascending
//   weights      (samples, CORNERS)      acc_t; factors of grad_output
//   grad_input   (images, pixels, G, D)  acc_t; every element written once or, if
//                                        `params.accumulate`, added to once
//
// A lane group takes a pixel of a group, and its lanes take adjacent vectors of channels. The sum
// has the same bits however the work was cut into launches; see gather_grad_input.

__device__ inline Vector gather_vector(
        const GatherSumGradInput& params, const scalar_t* __restrict__ grad_output,
        const int* __restrict__ ordered, const acc_t* __restrict__ weights,
        const CellRange* cell_ranges, int c, Vector sum) {
    CellRange ranges[CORNERS];
    for (int j = 0; j < CORNERS; ++j) {
        ranges[j] = cell_ranges[j];
    }
    while (true) {
        const LeastRange least = least_range(ranges);
        const int sample = least.range.sample;
        if (sample == NO_SAMPLE) {
            return sum;
        }
        advance(ordered, least, ranges);
        const acc_t weight = weights[CORNERS * static_cast<index_t>(sample) + least.corner];
        if (weight != 0) {
            const int number = fast_div(sample, params.sampling.problem.by_taps);
            const SumItem item = sum_item(params.sampling, number);
            add_scaled(&sum, weight, load_grad_output(params.grad_output, grad_output, item, c));
        }
    }
}

extern "C" __global__ void gather_sum_grad_input(
        const scalar_t* __restrict__ grad_output, const int* __restrict__ counts,
        const int* __restrict__ starts, const int* __restrict__ ordered,
        const acc_t* __restrict__ weights, acc_t* __restrict__ grad_input,
        const __grid_constant__ GatherSumGradInput params) {
    const SumProblem& problem = params.sampling.problem;
    const int lanes = problem.lanes;
    const index_t items = params.images * problem.pixels * problem.groups;
    for (index_t item = global_thread() / lanes; item < items; item += grid_threads() / lanes) {
        const index_t row = fast_div(item, problem.by_groups);
        const int group = static_cast<int>(item - row * problem.groups);
        const index_t image = row / problem.pixels, pixel = row - image * problem.pixels;
        int l = 0;
        while (l + 1 < problem.level_count && pixel >= problem.levels[l + 1].first_pixel) {
            ++l;
        }
        const SumLevel& level = problem.levels[l];
        const index_t local = pixel - level.first_pixel, y = local / level.size[0],
                      x = local - y * level.size[0];
        // The pixel is corner j of the cell of ranges[j].
        CellRange ranges[CORNERS];
        for (int j = 0; j < CORNERS; ++j) {
            const index_t cell =
                    (y + 1 - corner_step(j, 1)) * (level.size[0] + 1) + x + 1 - corner_step(j, 0);
            ranges[j] = range_of(
                    counts, starts, ordered,
                    (image * problem.groups + group) * problem.cells + level.first_cell + cell);
        }
        for (int c = lane_of(lanes) * VECTOR; c < problem.channels; c += lanes * VECTOR) {
            acc_t* const to = grad_input + (item * problem.channels + c);
            Vector sum = zero_vector();
            for (int i = 0; params.accumulate && i < VECTOR; ++i) {
                sum.v[i] = to[i];
            }
            sum = gather_vector(params, grad_output, ordered, weights, ranges, c, sum);
            for (int i = 0; i < VECTOR; ++i) {
                to[i] = sum.v[i];
            }
        }
    }
}
