// axes: arrays with AXES spatial axes, and the corners of a cell between pixels.
//
// AXES is 1, 2 or 3: (width), (height, width) or (depth, height, width). Shapes in the kernels'
// contracts name all axes at once: in two dimensions (images, *size, C) is (images, H, W, C), and
// (N, AXES*OG*taps, *out) is (N, 2*OG*KH*KW, OH, OW). Loops over axes and corners are unrolled.

const int CORNERS = 1 << AXES;

// The corners of a cell are numbered such that corner j lies at the upper end of axis a if bit
// `corner_bit(a)` of j is set; the bit of the last axis is bit 0. In two dimensions: top left, top
// right, bottom left, bottom right.
__device__ inline int corner_bit(int a) { return 1 << (AXES - 1 - a); }

// 1 if corner j lies at the upper end of axis a, else 0.
__device__ inline int corner_step(int j, int a) { return j >> (AXES - 1 - a) & 1; }

// Index of an element of an (N, C, *axes) array with arbitrary strides.
__device__ inline index_t strided_index(Strides s, int n, int c, const int* at) {
    index_t index = n * s.n + c * s.c;
    for (int a = 0; a < AXES; ++a) {
        index += at[a] * s.axis[a];
    }
    return index;
}

// The index along each axis of element `index` of a dense array of the given sizes. Divisors are
// those of the sizes; the first divisor is not used.
__device__ inline void unravel(int index, const int* sizes, const Divisor* by, int* at) {
    for (int a = AXES - 1; a > 0; --a) {
        const int rest = fast_div(index, by[a]);
        at[a] = index - rest * sizes[a];
        index = rest;
    }
    at[0] = index;
}

// Number of elements of an array of the given sizes.
__device__ inline index_t element_count(const int* sizes) {
    index_t count = sizes[0];
    for (int a = 1; a < AXES; ++a) {
        count *= sizes[a];
    }
    return count;
}
