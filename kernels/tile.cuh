// tile: a product of matrices on tensor cores, by a block, of what lies in shared memory.
//
// A block multiplies TILE_M rows of a by TILE_N columns of b, STAGE units of each at a time; its warps
// share the tile, WARPS_M by WARPS_N of them. Where numbers are float, PRODUCTS is 1 for TF32, or 3 for
// nearly all digits of float32: both factors are then split in two, and only the product of the two
// small parts is left out.

const int STAGE = 4;  // units of a row
const int THREADS = 32 * WARPS_M * WARPS_N;
const int WARP_ROWS = TILE_M / WARPS_M / 16, WARP_COLUMNS = TILE_N / WARPS_N / 16;

struct Sums { float v[WARP_ROWS][2 * WARP_COLUMNS][4]; };

// Where a unit of a row lies. Units change places from row to row, so that the same unit of eight
// rows lies in different banks; after eight rows they do so anew.
__device__ inline int unit_at(int row, int unit) { return row * STAGE + (unit ^ (row / 2 % STAGE)); }

// Which row and which column of the tile a thread's first sum is of.
__device__ inline int first_row() {
    return (threadIdx.x >> 5) % WARPS_M * (16 * WARP_ROWS) + (threadIdx.x >> 2 & 7);
}

__device__ inline int first_column() {
    return (threadIdx.x >> 5) / WARPS_M * (16 * WARP_COLUMNS) + (threadIdx.x & 3) * 2;
}

__device__ inline void clear(Sums* sums) {
#pragma unroll
    for (int i = 0; i < WARP_ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < 2 * WARP_COLUMNS; ++j) {
            sums->v[i][j][0] = sums->v[i][j][1] = sums->v[i][j][2] = sums->v[i][j][3] = 0;
        }
    }
}

#if PRODUCTS == 3
// Split numbers into what TF32 holds of them and the rest. An infinity has no rest, nor has a NaN.
__device__ inline void split_words(unsigned* words, unsigned* rests) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float whole = __uint_as_float(words[i]);
        words[i] = whole == whole ? words[i] & 0xFFFFE000u : 0x7FC00000u;
        const float high = __uint_as_float(words[i]);
        rests[i] = __float_as_uint(high == whole ? 0.0f : to_tf32(whole - high));
    }
}

// Tensor cores cut sums off instead of rounding them; over many stages that would add up. So they sum
// two units from zero, and the rest is rounded additions.
__device__ inline void add_products(
        const unsigned* a, const unsigned* a_rest, const unsigned* b, const unsigned* b_rest,
        float* sum) {
    float part[4] = {0, 0, 0, 0};
    multiply_add(scalar_t(), a_rest, b, part);
    multiply_add(scalar_t(), a, b_rest, part);
    // An infinity times a rest of 0; a NaN that counts comes again with the large parts.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        part[i] = part[i] == part[i] ? part[i] : 0.0f;
    }
    multiply_add(scalar_t(), a, b, part);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sum[i] += part[i];
    }
}
#endif

// The units whose addresses a thread gives when its warp loads matrices.
struct Given { int a, b; };

__device__ inline Given given_units() {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int row = warp % WARPS_M * (16 * WARP_ROWS) + (lane & 15);
    const int column = warp / WARPS_M * (16 * WARP_COLUMNS) + (lane & 7) + (lane >> 4) * 8;
    return {kept(unit_at(row, lane >> 4)), kept(unit_at(column, lane >> 3 & 1))};
}

// Add the product of the first `units` units of a stage, two at a time: behind the last there is a 0.
__device__ inline void multiply_stage(
        const vec16_t* a, const vec16_t* b, Given given, int units, Sums* sums) {
#pragma unroll
    for (int unit = 0; unit < STAGE; unit += 2) {
        if (unit >= units) {
            break;
        }
        unsigned rows[WARP_ROWS][4];
#pragma unroll
        for (int i = 0; i < WARP_ROWS; ++i) {
            load_matrices(a + (given.a ^ unit) + 16 * STAGE * i, rows[i]);
        }
#if PRODUCTS == 3
        unsigned row_rests[WARP_ROWS][4], column_rests[4];
#pragma unroll
        for (int i = 0; i < WARP_ROWS; ++i) {
            split_words(rows[i], row_rests[i]);
        }
#endif
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS; ++j) {
            unsigned columns[4];
            load_matrices(b + (given.b ^ unit) + 16 * STAGE * j, columns);
#if PRODUCTS == 3
            split_words(columns, column_rests);
#endif
#pragma unroll
            for (int k = 0; k < 2 * WARP_ROWS; ++k) {
                const int i = k / 2, half = k % 2;
                float* const sum = sums->v[i][2 * j + half];
#if PRODUCTS == 3
                add_products(rows[i], row_rests[i], columns + 2 * half, column_rests + 2 * half, sum);
#else
                multiply_add(scalar_t(), rows[i], columns + 2 * half, sum);
#endif
            }
        }
    }
}
