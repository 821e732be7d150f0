// gather_grad_input: gradient of the input without atomics; step 5 of the sorted grad_input.
//
//   columns     (groups, positions, ld_columns)  gradient of the columns
//   counts, starts  (images, OG, *(size+1))      each cell's range of `ordered`
//   ordered     (samples,)                       samples by cell, ascending
//   weights     (samples, CORNERS)  acc_t        corner weights, mask included
//   grad_input  (images, *size, C)  acc_t        every element written once or, if
//                                                `params.accumulate`, added to once
//
// A lane group processes a pixel of an offset group; its lanes process adjacent vectors of
// channels. The pixel is a corner of CORNERS cells. Their ranges are merged, so that samples are
// added in ascending order. So the sum has the same bits for any division of the work into
// launches.

// Add the samples of the ranges to a vector of channels of the pixel.
__device__ inline Vector gather_vector(
        const GatherGradInput& params, const scalar_t* __restrict__ columns,
        const int* __restrict__ ordered, const acc_t* __restrict__ weights,
        const CellRange* cell_ranges, int channel, Vector sum) {
    const index_t first = column_index(params.problem, params.layout, 0, 0, channel);
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
        const int pair = fast_div(sample, params.problem.by_offset_groups);  // (position, tap)
        const int position = fast_div(pair, params.problem.by_taps);
        const index_t row = first + position * params.layout.ld_columns;
        const index_t from =
                row + (pair - position * params.problem.taps) * params.problem.group_channels;
        const acc_t weight = weights[CORNERS * static_cast<index_t>(sample) + least.corner];
        if (weight != 0) {
            add_scaled(&sum, weight, load_vector(columns + from));
        }
    }
}

extern "C" __global__ void gather_grad_input(
        const scalar_t* __restrict__ columns, const int* __restrict__ counts,
        const int* __restrict__ starts, const int* __restrict__ ordered,
        const acc_t* __restrict__ weights, acc_t* __restrict__ grad_input, GatherGradInput params) {
    const index_t items =
            params.images * element_count(params.problem.size) * params.problem.offset_groups;
    for (index_t item = global_thread() / params.lanes; item < items;
         item += grid_threads() / params.lanes) {
        const int offset_group = static_cast<int>(item % params.problem.offset_groups);
        const index_t pixel = item / params.problem.offset_groups;
        int at[AXES];
        index_t image = pixel;
        for (int a = AXES - 1; a >= 0; --a) {
            at[a] = static_cast<int>(image % params.problem.size[a]);
            image /= params.problem.size[a];
        }
        const index_t plane = image * params.problem.offset_groups + offset_group;
        // The pixel is corner j of the cell of ranges[j].
        CellRange ranges[CORNERS];
        for (int j = 0; j < CORNERS; ++j) {
            index_t cell = plane;
            for (int a = 0; a < AXES; ++a) {
                cell = cell * (params.problem.size[a] + 1) + at[a] + 1 - corner_step(j, a);
            }
            ranges[j] = range_of(counts, starts, ordered, cell);
        }
        for (int c = lane_of(params.lanes) * VECTOR; c < params.problem.offset_channels;
             c += params.lanes * VECTOR) {
            const int channel = offset_group * params.problem.offset_channels + c;
            acc_t* const to = grad_input + pixel * params.problem.channels + channel;
            Vector sum = zero_vector();
            for (int i = 0; params.accumulate && i < VECTOR; ++i) {
                sum.v[i] = to[i];
            }
            sum = gather_vector(params, columns, ordered, weights, ranges, channel, sum);
            for (int i = 0; i < VECTOR; ++i) {
                to[i] = sum.v[i];
            }
        }
    }
}
