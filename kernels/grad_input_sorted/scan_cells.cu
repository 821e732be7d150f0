// scan_cells: give each cell a range of the list of samples; step 2 of the sorted grad_input.
//
//   counts  (cells,)  samples of each cell
//   starts  (cells,)  written: start of the cell's range. Ranges do not overlap; their order is not
//                     fixed
//   total   (1,)      incremented: length of all assigned ranges; zero before
//
// A block scans the counts of its cells in shared memory and reserves one range for all of them by
// an atomic addition. No result depends on where a range lies, so blocks need not wait for each
// other.

extern "C" __global__ void scan_cells(
        const int* __restrict__ counts, int* __restrict__ starts, int* __restrict__ total,
        ScanCells params) {
    int* sums = reinterpret_cast<int*>(dynamic_shared());  // one per thread, then the block's start
    const int last = blockDim.x - 1;
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < params.cells;
         first += grid_threads()) {
        const index_t cell = first + threadIdx.x;
        const int count = cell < params.cells ? counts[cell] : 0;
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
        if (cell < params.cells) {
            starts[cell] = sums[blockDim.x] + sums[threadIdx.x] - count;
        }
    }
}
