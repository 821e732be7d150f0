// indexing: which items a thread processes, fast division, lane groups.

// Grid-stride loop: every kernel but deform_fused starts no more blocks than the device can use,
// and a thread processes items global_thread(), global_thread() + grid_threads(), and so on.

__device__ inline index_t global_thread() {
    return static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline index_t grid_threads() { return static_cast<index_t>(gridDim.x) * blockDim.x; }

// Quotient of a non-negative dividend, by a multiplier and a shift that the host has precomputed:
// an integer division takes five times as many instructions.

__device__ inline int fast_div(int dividend, Divisor d) {
    return static_cast<int>(
            __umulhi(2u * static_cast<unsigned>(dividend), d.multiplier) >> d.shift);
}

__device__ inline long long fast_div(long long dividend, Divisor d) { return dividend / d.by; }

// A lane group is `lanes` adjacent threads, a power of 2 up to a warp, that share an item.

__device__ inline int lane_of(int lanes) { return threadIdx.x & (lanes - 1); }
__device__ inline int lane_group_of(int lanes) { return threadIdx.x >> (__ffs(lanes) - 1); }
__device__ inline int lane_groups_of(int lanes) { return blockDim.x >> (__ffs(lanes) - 1); }
