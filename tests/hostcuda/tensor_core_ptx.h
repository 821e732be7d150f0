// The host's twin of kernels/mma.cuh: the same names, in plain C++ instead of PTX.

#pragma once

#include "intrinsics.h"

namespace hostcuda {

// ---- copies in the background: nothing is moved before it is waited for --------------------------

struct Copy {
    vec16_t* to;
    const vec16_t* from;
};

constexpr unsigned most_copies = 64;

struct Copies {
    unsigned block, count;
    Copy copies[most_copies];
};

static Copies begun[most_threads];

inline Copies& own_copies() {
    Copies& own = begun[threadIdx.x];
    if (own.block != blockIdx.x) own.count = 0;  // of a block that ended without waiting
    own.block = blockIdx.x;
    return own;
}

inline void check_shared(const void* address, const char* what, Where at) {
    check_aligned(address, 16, what, at);
    if (!is_shared(address))
        fail("%s:%d: %s of %p, which is not shared memory", at.file, at.line, what, address);
}

// ---- what a warp does together ------------------------------------------------------------------

struct Rows {
    vec16_t row;       // lane i brings row i % 8 of matrix i / 8
    unsigned words[4];
};

inline void all_lanes(unsigned active, const char* what) {
    if (active != ~0u) fail("%s: lanes %08x take part, it takes all 32", what, active);
}

inline void deal_rows(void* const* brought, unsigned active) {
    all_lanes(active, "load_matrices");
    for (unsigned lane = 0; lane < lanes_of_warp; ++lane)
        for (unsigned matrix = 0; matrix < 4; ++matrix) {
            const auto& from = *static_cast<Rows*>(brought[8 * matrix + lane / 4]);
            static_cast<Rows*>(brought[lane])->words[matrix] = from.row.w[lane % 4];
        }
}

struct Factors {
    const unsigned *a, *b;
    float* sum;
};

// The numbers of a word, as the processor sees them.
inline float number(half_t, unsigned word, unsigned i) {
    return to_acc(half_t{static_cast<unsigned short>(word >> 16 * i)});
}
inline float number(bfloat16_t, unsigned word, unsigned i) {
    return to_acc(bfloat16_t{static_cast<unsigned short>(word >> 16 * i)});
}
inline float number(float, unsigned word, unsigned) { return __uint_as_float(word & 0xFFFFE000u); }

// Tensor cores cut sums off where they end, instead of rounding them.
inline float cut_off(double value) {
    const float nearest = static_cast<float>(value);
    const bool beyond = std::fabs(static_cast<double>(nearest)) > std::fabs(value);
    return beyond && std::isfinite(value) ? std::nextafterf(nearest, 0.0f) : nearest;
}

template <class Scalar>
void multiply_lanes(void* const* brought, unsigned active) {
    all_lanes(active, "multiply_add");
    constexpr unsigned numbers = 4 / sizeof(Scalar), depth = 8 * numbers;
    double a[16][depth], b[8][depth];
    for (unsigned lane = 0; lane < lanes_of_warp; ++lane) {
        const auto& own = *static_cast<Factors*>(brought[lane]);
        for (unsigned unit = 0; unit < 2; ++unit)
            for (unsigned i = 0; i < numbers; ++i) {
                const unsigned k = (4 * unit + lane % 4) * numbers + i;
                a[lane / 4][k] = number(Scalar{}, own.a[2 * unit], i);
                a[lane / 4 + 8][k] = number(Scalar{}, own.a[2 * unit + 1], i);
                b[lane / 4][k] = number(Scalar{}, own.b[unit], i);
            }
    }
    for (unsigned lane = 0; lane < lanes_of_warp; ++lane)
        for (unsigned i = 0; i < 4; ++i) {
            float& sum = static_cast<Factors*>(brought[lane])->sum[i];
            const double* const row = a[lane / 4 + i / 2 * 8];
            const double* const column = b[lane % 4 * 2 + i % 2];
            double exact = sum;
            for (unsigned k = 0; k < depth; ++k) exact += row[k] * column[k];
            sum = cut_off(exact);
        }
}

template <class Scalar>
void multiply(Factors own, Where at) {
    meet_warp(~0u, &own, multiply_lanes<Scalar>, at);
}

}  // namespace hostcuda

inline void copy16_async(void* shared, const void* global,
                         hostcuda::Where at = hostcuda::here()) {
    hostcuda::check_shared(shared, "copy16_async", at);
    hostcuda::check_global(global, 16, "copy16_async", at);
    hostcuda::Copies& own = hostcuda::own_copies();
    if (own.count == hostcuda::most_copies)
        hostcuda::fail("%s:%d: more copies than the harness remembers", at.file, at.line);
    own.copies[own.count++] = {static_cast<vec16_t*>(shared), static_cast<const vec16_t*>(global)};
}

inline void wait_for_copies() {
    hostcuda::Copies& own = hostcuda::own_copies();
    for (unsigned i = 0; i < own.count; ++i) {
        hostcuda::count(&hostcuda::Launch::loaded, 16);
        *own.copies[i].to = *own.copies[i].from;
    }
    own.count = 0;
}

inline void load_matrices(const void* row, unsigned* words,
                          hostcuda::Where at = hostcuda::here()) {
    hostcuda::check_shared(row, "load_matrices", at);
    hostcuda::Rows own = {*static_cast<const vec16_t*>(row), {}};
    hostcuda::meet_warp(~0u, &own, hostcuda::deal_rows, at);
    for (int i = 0; i < 4; ++i) words[i] = own.words[i];
}

inline void multiply_add(half_t kind, const unsigned* a, const unsigned* b, float* sum,
                         hostcuda::Where at = hostcuda::here()) {
    hostcuda::multiply<half_t>({a, b, sum}, at);
}

inline void multiply_add(bfloat16_t kind, const unsigned* a, const unsigned* b, float* sum,
                         hostcuda::Where at = hostcuda::here()) {
    hostcuda::multiply<bfloat16_t>({a, b, sum}, at);
}

inline void multiply_add(float kind, const unsigned* a, const unsigned* b, float* sum,
                         hostcuda::Where at = hostcuda::here()) {
    hostcuda::multiply<float>({a, b, sum}, at);
}

inline float to_tf32(float value) {
    const unsigned bits = __float_as_uint(value);
    const bool finite = (bits & 0x7F800000u) != 0x7F800000u;
    return __uint_as_float(finite ? (bits + 0x1000u) & 0xFFFFE000u : bits);
}
