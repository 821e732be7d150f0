// ptx: the functions of kernels/common/ptx.cuh in C++ for the CPU.

#pragma once

#include "shim.h"

struct half_t {
    unsigned short bits;
};
struct bfloat16_t {
    unsigned short bits;
};
struct alignas(16) vec16_t {
    unsigned int w[4];
};

// ---- conversions: round to nearest even, as `cvt.rn` does; every NaN becomes 0x7FFF ------------

inline float to_acc(half_t x) {
    const unsigned sign = (x.bits & 0x8000u) << 16;
    const unsigned exponent = x.bits >> 10 & 31u;
    const unsigned fraction = x.bits & 0x3FFu;
    if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | fraction << 13);
    if (exponent > 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float denormal = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -denormal : denormal;
}

inline float to_acc(bfloat16_t x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
inline float to_acc(float x) { return x; }
inline double to_acc(double x) { return x; }

inline void from_acc(float x, half_t* result) {
    const unsigned bits = __float_as_uint(x);
    const unsigned sign = bits >> 16 & 0x8000u;
    unsigned size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) {
        result->bits = 0x7FFF;
        return;
    }
    if (size >= 0x47800000u) {  // 65536 and more; less can still round to infinity below
        size = 0x7C00;
    } else if (size < 0x38800000u) {  // denormal: adding 0.5 rounds to the bits that are left
        size = __float_as_uint(__uint_as_float(size) + 0.5f) - __float_as_uint(0.5f);
    } else {
        size = (size - (112u << 23) + 0xFFFu + (size >> 13 & 1u)) >> 13;
    }
    result->bits = static_cast<unsigned short>(sign | size);
}

inline void from_acc(float x, bfloat16_t* result) {
    const unsigned bits = __float_as_uint(x);
    const unsigned rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    result->bits = static_cast<unsigned short>(isnan(x) ? 0x7FFFu : rounded);
}

inline void from_acc(float x, float* result) { *result = x; }
inline void from_acc(double x, double* result) { *result = x; }

inline int floor_to_int(double value) {
    const double below = floor(value);
    return isnan(value) ? 0 : static_cast<int>(fmin(fmax(below, INT_MIN), INT_MAX));
}

inline int floor_to_int(float value) { return floor_to_int(static_cast<double>(value)); }

namespace hostcuda {

template <class T>
auto element(const vec16_t& raw, int i) {
    return to_acc(reinterpret_cast<const T*>(&raw)[i]);
}

}  // namespace hostcuda

inline float vec16_element(half_t type, const vec16_t& raw, int i) {
    return hostcuda::element<half_t>(raw, i);
}
inline float vec16_element(bfloat16_t type, const vec16_t& raw, int i) {
    return hostcuda::element<bfloat16_t>(raw, i);
}
inline float vec16_element(float type, const vec16_t& raw, int i) {
    return hostcuda::element<float>(raw, i);
}
inline double vec16_element(double type, const vec16_t& raw, int i) {
    return hostcuda::element<double>(raw, i);
}

// ---- memory -------------------------------------------------------------------------------------
//
// Always inlined, so that a fault has the line of the kernel's text.

namespace hostcuda {

inline void check_global(const void* address, std::size_t alignment, const char* what, Where at) {
    check_aligned(address, alignment, what, at);
    if (is_shared(address) || is_on_stack(address))
        fail("%s:%d: %s of %p, which is not global memory", at.file, at.line, what, address);
}

template <class T>
[[gnu::always_inline]]
inline void add(T* address, T value, const char* what, Where at) {
    check_global(address, sizeof(T), what, at);
    const Atomic scope;
    *address += value;
    count(&Launch::added, sizeof(T));
}

}  // namespace hostcuda

inline int opaque(int value) { return value; }

inline unsigned char* dynamic_shared() {
    return reinterpret_cast<unsigned char*>(hostcuda::launch->shared);
}

[[gnu::always_inline]]
inline vec16_t load16(const void* address, hostcuda::Where at = hostcuda::here()) {
    hostcuda::check_global(address, 16, "load16", at);
    hostcuda::count(&hostcuda::Launch::loaded, 16);
    return *static_cast<const vec16_t*>(address);
}

[[gnu::always_inline]]
inline vec16_t load16_if(unsigned condition, const void* address,
                         hostcuda::Where at = hostcuda::here()) {
    return condition ? load16(address, at) : vec16_t{};
}

[[gnu::always_inline]]
inline void store16(void* address, vec16_t value, hostcuda::Where at = hostcuda::here()) {
    hostcuda::check_global(address, 16, "store16", at);
    hostcuda::count(&hostcuda::Launch::stored, 16);
    *static_cast<vec16_t*>(address) = value;
}

[[gnu::always_inline]]
inline void add_global(float* address, float value, hostcuda::Where at = hostcuda::here()) {
    hostcuda::add(address, value, "add_global", at);
}

[[gnu::always_inline]]
inline void add_global(double* address, double value, hostcuda::Where at = hostcuda::here()) {
    hostcuda::add(address, value, "add_global", at);
}

[[gnu::always_inline]]
inline void add_global4(float* address, float a, float b, float c, float d,
                        hostcuda::Where at = hostcuda::here()) {
    hostcuda::check_global(address, 16, "add_global4", at);
    const float values[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) hostcuda::add(address + i, values[i], "add_global4", at);
}
