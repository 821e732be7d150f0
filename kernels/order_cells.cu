// order_cells: put the samples of each cell in order, fourth step of the ordered gather.
//
//   cells    (samples,)  the sample's cell, -1 where it has none
//   counts   (cells,)    samples of each cell
//   starts   (cells,)    where the cell's run begins
//   list     (samples,)  samples, cell by cell, in no fixed order
//   ordered  (samples,)  samples, cell by cell, ascending
//
// A sample's place is the number of smaller ones in its cell: a stable counting sort that leaves no
// trace of the order in which the counters were incremented. A cell holds about KH*KW samples.

extern "C" __global__ void order_cells(
        const index_t* __restrict__ cells, const int* __restrict__ counts,
        const int* __restrict__ starts, const int* __restrict__ list, int* __restrict__ ordered,
        Launch p) {
    for (index_t sample = first_item(); sample < p.samples; sample += item_stride()) {
        const index_t cell = cells[sample];
        if (cell < 0) {
            continue;
        }
        const int start = starts[cell], end = start + counts[cell];
        int place = start;
        for (int i = start; i < end; ++i) {
            place += list[i] < sample;
        }
        ordered[place] = static_cast<int>(sample);
    }
}
