// builtins: CUDA's built-in functions of a single thread: arithmetic, bits, atomics.

#pragma once

#include <climits>
#include <cstdlib>
#include <cstring>

#include "races.h"

using std::abs;

// Functions of C's <math.h>, overloaded. The header itself would triple the time that a compiler
// takes to load the precompiled shim.
#define HOSTCUDA_MATH(name)          \
    extern "C" double name(double);  \
    extern "C" float name##f(float); \
    inline float name(float x) { return name##f(x); }
HOSTCUDA_MATH(ceil)
HOSTCUDA_MATH(fabs)
HOSTCUDA_MATH(floor)
HOSTCUDA_MATH(rint)
HOSTCUDA_MATH(round)
HOSTCUDA_MATH(sqrt)
HOSTCUDA_MATH(trunc)
#define HOSTCUDA_MATH2(name)                \
    extern "C" double name(double, double); \
    extern "C" float name##f(float, float); \
    inline float name(float x, float y) { return name##f(x, y); }
HOSTCUDA_MATH2(fmax)
HOSTCUDA_MATH2(fmin)
HOSTCUDA_MATH2(fmod)
HOSTCUDA_MATH2(nextafter)
extern "C" double fma(double, double, double);
extern "C" float fmaf(float, float, float);
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
extern "C" double nan(const char*);
extern "C" float nanf(const char*);

template <class T>
bool isnan(T x) {
    return __builtin_isnan(x);
}
template <class T>
bool isinf(T x) {
    return __builtin_isinf(x);
}
template <class T>
bool isfinite(T x) {
    return __builtin_isfinite(x);
}

// If one floating-point argument is NaN, CUDA's min and max return the other.
#define HOSTCUDA_MIN_MAX(type)                                \
    inline type min(type a, type b) { return b < a ? b : a; } \
    inline type max(type a, type b) { return a < b ? b : a; }
HOSTCUDA_MIN_MAX(int)
HOSTCUDA_MIN_MAX(unsigned)
HOSTCUDA_MIN_MAX(long)
HOSTCUDA_MIN_MAX(unsigned long)
HOSTCUDA_MIN_MAX(long long)
HOSTCUDA_MIN_MAX(unsigned long long)
inline float min(float a, float b) { return fmin(a, b); }
inline float max(float a, float b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

namespace hostcuda {

template <class To, class From>
inline To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

// As on the GPU: NaN becomes 0; larger and smaller values saturate.
inline int saturated(float integer) {
    if (isnan(integer)) return 0;
    if (integer >= 2147483648.0f) return INT_MAX;
    return integer < -2147483648.0f ? INT_MIN : static_cast<int>(integer);
}

template <class T>
struct Same {
    using type = T;
};

// The types for which the GPU has an atomic addition; integers wrap around.
inline int sum(int a, int b) {
    return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}
inline unsigned sum(unsigned a, unsigned b) { return a + b; }
inline unsigned long long sum(unsigned long long a, unsigned long long b) { return a + b; }
inline float sum(float a, float b) { return a + b; }
inline double sum(double a, double b) { return a + b; }
template <class T>
T sum(T, T) = delete;

template <class T>
T integer(T value) {
    static_assert(T(1) / T(2) == T(0), "the GPU has this atomic for integers only");
    return value;
}

}  // namespace hostcuda

inline int __float_as_int(float x) { return hostcuda::same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return hostcuda::same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return hostcuda::same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return hostcuda::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return hostcuda::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return hostcuda::same_bits<double>(x); }

inline int __float2int_rd(float x) { return hostcuda::saturated(floor(x)); }
inline int __float2int_ru(float x) { return hostcuda::saturated(ceil(x)); }
inline int __float2int_rn(float x) { return hostcuda::saturated(rint(x)); }
inline int __float2int_rz(float x) { return hostcuda::saturated(trunc(x)); }

// Arithmetic that NVRTC does not contract to a fused multiply-add.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}

template <class T>
inline T __ldg(const T* address) {
    return *address;
}

// Atomics are plain code: one thread runs at a time, and it does not stop in between. They are always
// inlined, so that a fault has the line of the kernel's text.
#define HOSTCUDA_ATOMIC(name, result)                                 \
    template <class T>                                                \
    [[gnu::always_inline]]                                            \
    inline T name(T* address, typename hostcuda::Same<T>::type value, \
                  hostcuda::Where at = hostcuda::here()) {            \
        hostcuda::check_aligned(address, sizeof(T), #name, at);       \
        const hostcuda::Atomic scope;                                 \
        const T before = *address;                                    \
        *address = result;                                            \
        return before;                                                \
    }
HOSTCUDA_ATOMIC(atomicAdd, hostcuda::sum(before, value))
HOSTCUDA_ATOMIC(atomicMin, hostcuda::integer<T>(value < before ? value : before))
HOSTCUDA_ATOMIC(atomicMax, hostcuda::integer<T>(before < value ? value : before))
HOSTCUDA_ATOMIC(atomicOr, (before | value))
HOSTCUDA_ATOMIC(atomicAnd, (before & value))
HOSTCUDA_ATOMIC(atomicExch, value)

template <class T>
[[gnu::always_inline]]
inline T atomicCAS(T* address, typename hostcuda::Same<T>::type expected,
                   typename hostcuda::Same<T>::type value, hostcuda::Where at = hostcuda::here()) {
    hostcuda::check_aligned(address, sizeof(T), "atomicCAS", at);
    const hostcuda::Atomic scope;
    const T before = *address;
    if (before == expected) *address = value;
    return before;
}

inline void __threadfence() {}
inline void __threadfence_block() {}
