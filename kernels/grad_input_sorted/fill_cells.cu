// fill_cells: list the samples of each cell; step 3 of the sorted grad_input.
//
//   cells   (samples,)  the sample's cell, -1 if it has none
//   slots   (samples,)  its number within the cell
//   starts  (cells,)    start of the cell's range
//   list    (samples,)  samples by cell, in no fixed order within a cell; written once for each
//                       sample that has a cell
//
// A thread lists one sample at a time.

extern "C" __global__ void fill_cells(
        const index_t* __restrict__ cells, const int* __restrict__ slots,
        const int* __restrict__ starts, int* __restrict__ list, FillCells params) {
    for (index_t sample = global_thread(); sample < params.samples; sample += grid_threads()) {
        if (cells[sample] >= 0) {
            list[starts[cells[sample]] + slots[sample]] = static_cast<int>(sample);
        }
    }
}
