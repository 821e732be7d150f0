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
