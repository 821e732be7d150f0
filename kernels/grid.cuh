// grid: which items a thread works on. Every kernel but deform_fused takes
// as many blocks as it gets and strides.

__device__ inline index_t first_item() {
    return static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline index_t item_stride() {
    return static_cast<index_t>(gridDim.x) * blockDim.x;
}

// Where an element lies in an array of any strides.

__device__ inline index_t element_of(Strides s, int n, int c, int h, int w) {
    return n * s.n + c * s.c + h * s.h + w * s.w;
}

// Quotient of what is not negative. The host has worked out what to multiply by: to divide takes five
// times as many instructions.

__device__ inline int quotient(int dividend, Divisor d) {
    return static_cast<int>(__umulhi(2u * static_cast<unsigned>(dividend), d.multiplier) >> d.shift);
}

__device__ inline long long quotient(long long dividend, Divisor d) { return dividend / d.by; }

// `lanes` neighbouring threads, a power of 2, share an item: which of a block's, and as how many.

__device__ inline int slot_of(const Launch& p) { return threadIdx.x >> (__ffs(p.lanes) - 1); }

__device__ inline int slots_of(const Launch& p) { return blockDim.x >> (__ffs(p.lanes) - 1); }
