// sort_cells: sort the samples of each cell; step 4 of the sorted grad_input.
//
//   cells    (samples,)  the sample's cell, -1 if it has none
//   counts   (cells,)    samples of each cell
//   starts   (cells,)    start of the cell's range
//   list     (samples,)  samples by cell, in no fixed order within a cell
//   ordered  (samples,)  samples by cell, ascending; written once for each sample that has a cell
//
// A thread processes one sample at a time: it counts the samples of the cell that have smaller
// numbers.
// A cell has about as many samples as there are taps. The result does not depend on the order in
// which count_cells incremented its counters.

extern "C" __global__ void sort_cells(
        const index_t* __restrict__ cells, const int* __restrict__ counts,
        const int* __restrict__ starts, const int* __restrict__ list, int* __restrict__ ordered,
        SortCells params) {
    for (index_t sample = global_thread(); sample < params.samples; sample += grid_threads()) {
        const index_t cell = cells[sample];
        if (cell < 0) {
            continue;
        }
        const int start = starts[cell], end = start + counts[cell];
        int rank = start;
        for (int i = start; i < end; ++i) {
            rank += list[i] < sample;
        }
        ordered[rank] = static_cast<int>(sample);
    }
}
