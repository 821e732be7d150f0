// allot_cells: a run of the list for each cell, second step of the ordered gather.
//
//   counts  (cells,)  samples of each cell
//   starts  (cells,)  where its run begins; runs do not overlap, their order is not fixed
//   total   (1,)      zero before; how much of the list is given away
//
// A block adds up the counts of its cells in shared memory and takes a piece of the list at once.
// Nothing depends on where a run lies, so blocks need not wait for each other.

extern "C" __global__ void allot_cells(
        const int* __restrict__ counts, int* __restrict__ starts, int* __restrict__ total,
        Launch p) {
    int* sums = reinterpret_cast<int*>(dynamic_shared());
    const int last = blockDim.x - 1;
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.cells;
         first += item_stride()) {
        const index_t cell = first + threadIdx.x;
        const int count = cell < p.cells ? counts[cell] : 0;
        sums[threadIdx.x] = count;
        __syncthreads();
        for (int distance = 1; distance < blockDim.x; distance *= 2) {
            const int before = threadIdx.x >= distance ? sums[threadIdx.x - distance] : 0;
            __syncthreads();
            sums[threadIdx.x] += before;
            __syncthreads();
        }
        if (threadIdx.x == last) {
            sums[blockDim.x] = atomicAdd(total, sums[last]);
        }
        __syncthreads();
        if (cell < p.cells) {
            starts[cell] = sums[blockDim.x] + sums[threadIdx.x] - count;
        }
    }
}
