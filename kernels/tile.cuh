// tile: a product of matrices on tensor cores, by a block, of what lies in shared memory.
//
// A block multiplies TILE_M rows of a by TILE_N columns of b, STAGE units of each at a time; its warps
// share the tile, WARPS_M by WARPS_N of them. Where numbers are float, PRODUCTS is 1 for TF32, or 3 for
// nearly all digits of float32: both factors are then split in two, the rests of all their numbers lie
// behind what TF32 holds of them, and only the product of the rests is left out.

const int STAGE = 4;  // units of a row
const int FACTOR_PARTS = PRODUCTS == 3 ? 2 : 1;
const int A_PART = TILE_M * STAGE, A_UNITS = FACTOR_PARTS * A_PART;
const int B_PART = TILE_N * STAGE, B_UNITS = FACTOR_PARTS * B_PART;
const int THREADS = 32 * WARPS_M * WARPS_N;
const int WARP_ROWS = TILE_M / WARPS_M / 16, WARP_COLUMNS = TILE_N / WARPS_N / 16;

// Pairs of units that are loaded before they are multiplied; large tiles have no registers for both.
const int PAIRS_AT_ONCE = PRODUCTS == 3 || TILE_N == 256 ? 1 : STAGE / 2;

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
// Split a number into what TF32 holds of it and the rest. An infinity has no rest.
__device__ inline void split_tf32(float whole, float* large, float* rest) {
    const unsigned bits = __float_as_uint(whole);
    *large = __uint_as_float(whole == whole ? bits & 0xFFFFE000u : 0x7FC00000u);
    *rest = *large == whole ? 0.0f : to_tf32(whole - *large);
}

// What rests are multiplied by: an infinity times a rest of 0 would be a NaN.
__device__ inline void keep_finite(const unsigned* words, unsigned* finite) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float number = __uint_as_float(words[i]);
        finite[i] = fabsf(number) <= 3.4028235e38f ? words[i] : 0;
    }
}

struct Factor { unsigned large[4], finite[4], rest[4]; };

__device__ inline Factor load_factor(const vec16_t* large, int part) {
    Factor factor;
    load_matrices(large, factor.large);
    load_matrices(large + part, factor.rest);
    keep_finite(factor.large, factor.finite);
    return factor;
}

// Tensor cores cut sums off instead of rounding them; over many stages that would add up. So they sum
// two units from zero, and the rest is rounded additions.
__device__ inline void add_products(const Factor& a, const Factor& b, int half, float* sum) {
    float part[4] = {0, 0, 0, 0};
    multiply_add(scalar_t(), a.rest, b.finite + 2 * half, part);
    multiply_add(scalar_t(), a.finite, b.rest + 2 * half, part);
    multiply_add(scalar_t(), a.large, b.large + 2 * half, part);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sum[i] += part[i];
    }
}
#else
struct Factor { unsigned large[4]; };

__device__ inline Factor load_factor(const vec16_t* large, int part) {
    Factor factor;
    load_matrices(large, factor.large);
    return factor;
}

__device__ inline void add_products(const Factor& a, const Factor& b, int half, float* sum) {
    multiply_add(scalar_t(), a.large, b.large + 2 * half, sum);
}
#endif

// A unit of a factor, in the parts that are multiplied.
struct Unit { vec16_t part[FACTOR_PARTS]; };

__device__ inline Unit unit_of(const acc_t* values) {
    Unit unit;
    scalar_t* const to = reinterpret_cast<scalar_t*>(unit.part);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
#if PRODUCTS == 3
        split_tf32(values[i], to + i, to + VECTOR + i);
#elif ROUNDS
        to[i] = to_tf32(values[i]);
#else
        from_acc(values[i], to + i);
#endif
    }
    return unit;
}

// The units whose addresses a thread gives when its warp loads matrices.
struct Given { int a, b; };

__device__ inline Given given_units() {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int row = warp % WARPS_M * (16 * WARP_ROWS) + (lane & 15);
    const int column = warp / WARPS_M * (16 * WARP_COLUMNS) + (lane & 7) + (lane >> 4) * 8;
    return {kept(unit_at(row, lane >> 4)), kept(unit_at(column, lane >> 3 & 1))};
}

// Add the product of a stage, two units at a time.
__device__ inline void multiply_stage(
        const vec16_t* a, const vec16_t* b, Given given, Sums* sums) {
#pragma unroll PAIRS_AT_ONCE
    for (int unit = 0; unit < STAGE; unit += 2) {
        Factor rows[WARP_ROWS];
#pragma unroll
        for (int i = 0; i < WARP_ROWS; ++i) {
            rows[i] = load_factor(a + (given.a ^ unit) + 16 * STAGE * i, A_PART);
        }
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS; ++j) {
            const Factor columns = load_factor(b + (given.b ^ unit) + 16 * STAGE * j, B_PART);
#pragma unroll
            for (int k = 0; k < 2 * WARP_ROWS; ++k) {
                const int i = k / 2, half = k % 2;
                add_products(rows[i], columns, half, sums->v[i][2 * j + half]);
            }
        }
    }
}
