// tensor_core_ptx: the functions of kernels/common/tensor_core_ptx.cuh in C++ for the CPU.

#pragma once

#include "ptx.h"

namespace hostcuda {

// ---- asynchronous copies: performed when they are waited for ------------------------------------

struct Copy {
    vec16_t* to;
    const vec16_t* from;
};

constexpr unsigned most_copies = 64;

struct Copies {
    unsigned block, count;
    Copy copies[most_copies];
};

static Copies pending[most_threads];

// Pending copies of the current thread.
inline Copies& my_copies() {
    Copies& copies = pending[threadIdx.x];
    if (copies.block != blockIdx.x) copies.count = 0;  // of a block that ended without waiting
    copies.block = blockIdx.x;
    return copies;
}

inline void check_shared(const void* address, const char* what, Where at) {
    check_aligned(address, 16, what, at);
    if (!is_shared(address))
        fail("%s:%d: %s of %p, which is not shared memory", at.file, at.line, what, address);
}

// ---- warp-wide operations -----------------------------------------------------------------------

struct Rows {
    vec16_t row;        // from lane i: row i % 8 of matrix i / 8
    unsigned words[4];  // result
};

inline void all_lanes(unsigned active, const char* what) {
    if (active != ~0u) fail("%s: lanes %08x take part, it takes all 32", what, active);
}

inline void distribute_rows(void* const* brought, unsigned active) {
    all_lanes(active, "load_matrices");
    for (unsigned lane = 0; lane < lanes_of_warp; ++lane)
        for (unsigned matrix = 0; matrix < 4; ++matrix) {
            const auto& from = *static_cast<Rows*>(brought[8 * matrix + lane / 4]);
            static_cast<Rows*>(brought[lane])->words[matrix] = from.row.w[lane % 4];
        }
}

struct Operands {
    const unsigned *a, *b;
    float* sum;
};

// Element i of a word, as the tensor cores read it.
inline float element(half_t, unsigned word, unsigned i) {
    return to_acc(half_t{static_cast<unsigned short>(word >> 16 * i)});
}
inline float element(bfloat16_t, unsigned word, unsigned i) {
    return to_acc(bfloat16_t{static_cast<unsigned short>(word >> 16 * i)});
}
inline float element(float, unsigned word, unsigned) { return __uint_as_float(word & 0xFFFFE000u); }

// Tensor cores truncate sums instead of rounding them.
inline float truncated(double value) {
    const float nearest = static_cast<float>(value);
    const bool beyond = fabs(static_cast<double>(nearest)) > fabs(value);
    return beyond && isfinite(value) ? nextafterf(nearest, 0.0f) : nearest;
}

template <class Scalar>
void multiply_lanes(void* const* brought, unsigned active) {
    all_lanes(active, "multiply_add");
    constexpr unsigned elements = 4 / sizeof(Scalar), depth = 8 * elements;
    double a[16][depth], b[8][depth];
    for (unsigned lane = 0; lane < lanes_of_warp; ++lane) {
        const auto& operands = *static_cast<Operands*>(brought[lane]);
        for (unsigned vec = 0; vec < 2; ++vec)
            for (unsigned i = 0; i < elements; ++i) {
                const unsigned k = (4 * vec + lane % 4) * elements + i;
                a[lane / 4][k] = element(Scalar{}, operands.a[2 * vec], i);
                a[lane / 4 + 8][k] = element(Scalar{}, operands.a[2 * vec + 1], i);
                b[lane / 4][k] = element(Scalar{}, operands.b[vec], i);
            }
    }
    for (unsigned lane = 0; lane < lanes_of_warp; ++lane)
        for (unsigned i = 0; i < 4; ++i) {
            float& sum = static_cast<Operands*>(brought[lane])->sum[i];
            const double* const row = a[lane / 4 + i / 2 * 8];
            const double* const column = b[lane % 4 * 2 + i % 2];
            double exact = sum;
            for (unsigned k = 0; k < depth; ++k) exact += row[k] * column[k];
            sum = truncated(exact);
        }
}

template <class Scalar>
void multiply(Operands operands, Where at) {
    meet_warp(~0u, &operands, multiply_lanes<Scalar>, at);
}

}  // namespace hostcuda

inline void copy16_async(void* shared, const void* global, hostcuda::Where at = hostcuda::here()) {
    hostcuda::check_shared(shared, "copy16_async", at);
    hostcuda::check_global(global, 16, "copy16_async", at);
    hostcuda::Copies& mine = hostcuda::my_copies();
    if (mine.count == hostcuda::most_copies)
        hostcuda::fail("%s:%d: too many pending copies for the harness", at.file, at.line);
    mine.copies[mine.count++] = {static_cast<vec16_t*>(shared),
                                 static_cast<const vec16_t*>(global)};
}

[[gnu::always_inline]]
inline void wait_for_copies() {
    hostcuda::Copies& mine = hostcuda::my_copies();
    for (unsigned i = 0; i < mine.count; ++i) {
        hostcuda::count(&hostcuda::Launch::loaded, 16);
        *mine.copies[i].to = *mine.copies[i].from;
    }
    mine.count = 0;
}

[[gnu::always_inline]]
inline void load_matrices(const void* row, unsigned* words, hostcuda::Where at = hostcuda::here()) {
    hostcuda::check_shared(row, "load_matrices", at);
    hostcuda::Rows rows = {*static_cast<const vec16_t*>(row), {}};
    hostcuda::meet_warp(~0u, &rows, hostcuda::distribute_rows, at);
    for (int i = 0; i < 4; ++i) words[i] = rows.words[i];
}

inline void multiply_add(half_t type, const unsigned* a, const unsigned* b, float* sum,
                         hostcuda::Where at = hostcuda::here()) {
    hostcuda::multiply<half_t>({a, b, sum}, at);
}

inline void multiply_add(bfloat16_t type, const unsigned* a, const unsigned* b, float* sum,
                         hostcuda::Where at = hostcuda::here()) {
    hostcuda::multiply<bfloat16_t>({a, b, sum}, at);
}

inline void multiply_add(float type, const unsigned* a, const unsigned* b, float* sum,
                         hostcuda::Where at = hostcuda::here()) {
    hostcuda::multiply<float>({a, b, sum}, at);
}

inline float to_tf32(float value) {
    const unsigned bits = __float_as_uint(value);
    const bool finite = (bits & 0x7F800000u) != 0x7F800000u;
    return __uint_as_float(finite ? (bits + 0x1000u) & 0xFFFFE000u : bits);
}
