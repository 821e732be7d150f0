// gemm_tile: a block multiplies two tiles in shared memory on tensor cores.
//
// A block multiplies TILE_M rows of a by TILE_N columns of b, one stage at a time: STAGE_VECS
// vec16_t of each row. Its warps, WARPS_M by WARPS_N of them, share the tile. Half types have one
// product. float has PRODUCTS 1, TF32, or 3, 3xTF32: each operand is split into hi + lo; all lo
// words are stored after the hi words; the lo*lo term is omitted. The result is nearly as exact as
// in float32.

const int STAGE_VECS = 4;
const int OPERAND_TERMS = PRODUCTS == 3 ? 2 : 1;
const int A_TERM_VECS = TILE_M * STAGE_VECS, A_VECS = OPERAND_TERMS * A_TERM_VECS;
const int B_TERM_VECS = TILE_N * STAGE_VECS, B_VECS = OPERAND_TERMS * B_TERM_VECS;
const int THREADS = 32 * WARPS_M * WARPS_N;

// Blocks of 16 rows and of 16 columns that a warp multiplies.
const int WARP_ROWS = TILE_M / WARPS_M / 16, WARP_COLUMNS = TILE_N / WARPS_N / 16;

// Number of pairs of vec16_t whose fragments are loaded before any is multiplied. Large tiles have
// registers for only one.
const int UNROLLED_PAIRS = PRODUCTS == 3 || TILE_N == 256 ? 1 : STAGE_VECS / 2;

struct Accumulators {
    float v[WARP_ROWS][2 * WARP_COLUMNS][4];
};

// Index of a vec16_t of a row in shared memory. The order within a row changes every second row,
// with a period of 8 rows, so that the same vec16_t of eight rows lies in different banks.
__device__ inline int swizzled(int row, int vec) {
    return row * STAGE_VECS + (vec ^ (row / 2 % STAGE_VECS));
}

// Row and column of the tile of a thread's first accumulator.

__device__ inline int accumulator_row() {
    return (threadIdx.x >> 5) % WARPS_M * (16 * WARP_ROWS) + (threadIdx.x >> 2 & 7);
}

__device__ inline int accumulator_column() {
    return (threadIdx.x >> 5) / WARPS_M * (16 * WARP_COLUMNS) + (threadIdx.x & 3) * 2;
}

__device__ inline void clear(Accumulators* sums) {
#pragma unroll
    for (int i = 0; i < WARP_ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < 2 * WARP_COLUMNS; ++j) {
            sums->v[i][j][0] = sums->v[i][j][1] = sums->v[i][j][2] = sums->v[i][j][3] = 0;
        }
    }
}

#if PRODUCTS == 3
// Split a number into its TF32 part and the remainder. The remainder of an infinity is 0.
__device__ inline void split_tf32(float value, float* hi, float* lo) {
    const unsigned bits = __float_as_uint(value);
    *hi = __uint_as_float(value == value ? bits & 0xFFFFE000u : 0x7FC00000u);
    *lo = *hi == value ? 0.0f : to_tf32(value - *hi);
}

// Replace infinities and NaNs by 0. hi words are multiplied by lo words in this form, since an
// infinite hi times a lo of 0 would be NaN; hi*hi alone gives the right infinity or NaN.
__device__ inline void zero_non_finite(const unsigned* words, unsigned* finite) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float value = __uint_as_float(words[i]);
        finite[i] = fabsf(value) <= 3.4028235e38f ? words[i] : 0;
    }
}

struct Fragment {
    unsigned hi[4], finite_hi[4], lo[4];
};

__device__ inline Fragment load_fragment(const vec16_t* hi, int term_vecs) {
    Fragment fragment;
    load_matrices(hi, fragment.hi);
    load_matrices(hi + term_vecs, fragment.lo);
    zero_non_finite(fragment.hi, fragment.finite_hi);
    return fragment;
}

// Tensor cores truncate sums instead of rounding them, and these errors would accumulate over the
// stages. So they sum only two vec16_t, from zero, and ordinary additions, which round, do the
// rest.
__device__ inline void multiply_fragments(
        const Fragment& a, const Fragment& b, int half, float* sum) {
    float partial[4] = {0, 0, 0, 0};
    multiply_add(scalar_t(), a.lo, b.finite_hi + 2 * half, partial);
    multiply_add(scalar_t(), a.finite_hi, b.lo + 2 * half, partial);
    multiply_add(scalar_t(), a.hi, b.hi + 2 * half, partial);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sum[i] += partial[i];
    }
}
#else
struct Fragment {
    unsigned hi[4];
};

__device__ inline Fragment load_fragment(const vec16_t* hi, int term_vecs) {
    Fragment fragment;
    load_matrices(hi, fragment.hi);
    return fragment;
}

__device__ inline void multiply_fragments(
        const Fragment& a, const Fragment& b, int half, float* sum) {
    multiply_add(scalar_t(), a.hi, b.hi + 2 * half, sum);
}
#endif

// A vec16_t of an operand, in the terms that are multiplied: hi, then lo.
struct OperandVec {
    vec16_t term[OPERAND_TERMS];
};

__device__ inline OperandVec to_operand(const acc_t* values) {
    OperandVec vec;
    scalar_t* const to = reinterpret_cast<scalar_t*>(vec.term);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
#if PRODUCTS == 3
        split_tf32(values[i], to + i, to + VECTOR + i);
#elif ROUND_TO_TF32
        to[i] = to_tf32(values[i]);
#else
        from_acc(values[i], to + i);
#endif
    }
    return vec;
}

// Indices of the vec16_t of a and b whose addresses this thread passes to load_matrices.
struct LdmatrixRows {
    int a, b;
};

__device__ inline LdmatrixRows ldmatrix_rows() {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int row = warp % WARPS_M * (16 * WARP_ROWS) + (lane & 15);
    const int column = warp / WARPS_M * (16 * WARP_COLUMNS) + (lane & 7) + (lane >> 4) * 8;
    return {opaque(swizzled(row, lane >> 4)), opaque(swizzled(column, lane >> 3 & 1))};
}

// Add the product of a stage to the sums, two vec16_t at a time.
__device__ inline void multiply_stage(
        const vec16_t* a, const vec16_t* b, LdmatrixRows mine, Accumulators* sums) {
#pragma unroll UNROLLED_PAIRS
    for (int vec = 0; vec < STAGE_VECS; vec += 2) {
        Fragment rows[WARP_ROWS];
#pragma unroll
        for (int i = 0; i < WARP_ROWS; ++i) {
            rows[i] = load_fragment(a + (mine.a ^ vec) + 16 * STAGE_VECS * i, A_TERM_VECS);
        }
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS; ++j) {
            const Fragment columns =
                    load_fragment(b + (mine.b ^ vec) + 16 * STAGE_VECS * j, B_TERM_VECS);
#pragma unroll
            for (int k = 0; k < 2 * WARP_ROWS; ++k) {
                const int i = k / 2, half = k % 2;
                multiply_fragments(rows[i], columns, half, sums->v[i][2 * j + half]);
            }
        }
    }
}
