// list_cells: the samples of each cell, third step of the ordered gather.
//
//   cells   (samples,)  the sample's cell, -1 where it has none
//   slots   (samples,)  its number within the cell
//   starts  (cells,)    where the cell's run begins
//   list    (samples,)  samples, cell by cell, in no fixed order within a cell

extern "C" __global__ void list_cells(
        const index_t* __restrict__ cells, const int* __restrict__ slots,
        const int* __restrict__ starts, int* __restrict__ list, Launch p) {
    for (index_t sample = first_item(); sample < p.samples; sample += item_stride()) {
        if (cells[sample] >= 0) {
            list[starts[cells[sample]] + slots[sample]] = static_cast<int>(sample);
        }
    }
}
