// ptx: storage types, conversions, 128-bit accesses and atomic additions, as functions with inline
// PTX.
//
// Kernels need no header of the CUDA toolkit: everything that is specific to the GPU is here and in
// tensor_core_ptx.cuh. tests/hostcuda has the same functions in C++ for the CPU.

struct half_t {
    unsigned short bits;
};
struct bfloat16_t {
    unsigned short bits;
};
struct alignas(16) vec16_t {
    unsigned int w[4];
};

__device__ inline float to_acc(half_t value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}

__device__ inline float to_acc(bfloat16_t value) {
    return __uint_as_float(static_cast<unsigned int>(value.bits) << 16);
}

__device__ inline float to_acc(float value) { return value; }
__device__ inline double to_acc(double value) { return value; }

// Round to nearest, ties to even.

__device__ inline void from_acc(float value, half_t* result) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result->bits) : "f"(value));
}

__device__ inline void from_acc(float value, bfloat16_t* result) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result->bits) : "f"(value));
#else
    const unsigned int bits = __float_as_uint(value);
    // The shift could remove all payload bits of a NaN, so every NaN becomes the same quiet one.
    result->bits = value != value ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#endif
}

__device__ inline void from_acc(float value, float* result) { *result = value; }
__device__ inline void from_acc(double value, double* result) { *result = value; }

// floor(value) as int, saturating at the int32 limits; unspecified for NaN.
__device__ inline int floor_to_int(float value) { return __float2int_rd(value); }
__device__ inline int floor_to_int(double value) { return __double2int_rd(value); }

// Element i of 16 bytes; the type of the first argument is the element type.

__device__ inline float vec16_element(half_t type, const vec16_t& raw, int i) {
    return to_acc(reinterpret_cast<const half_t*>(&raw)[i]);
}

// Indexes words, because for an index of halves the compiler would first split every word.
__device__ inline float vec16_element(bfloat16_t type, const vec16_t& raw, int i) {
    const unsigned int word = raw.w[i / 2];
    return __uint_as_float(i % 2 ? word & 0xffff0000 : word << 16);
}

__device__ inline float vec16_element(float type, const vec16_t& raw, int i) {
    return reinterpret_cast<const float*>(&raw)[i];
}

__device__ inline double vec16_element(double type, const vec16_t& raw, int i) {
    return reinterpret_cast<const double*>(&raw)[i];
}

// 128-bit accesses to global memory. Addresses are multiples of 16.

__device__ inline vec16_t load16(const void* from) {
    const uint4 value = *static_cast<const uint4*>(from);
    return {{value.x, value.y, value.z, value.w}};
}

// Load if `condition` is not 0, else return zeros without an access. The load is predicated, so
// there is no branch. It uses the read-only cache: no kernel may write the memory meanwhile.
__device__ inline vec16_t load16_if(unsigned condition, const void* from) {
    vec16_t value;
    // clang-format off
    asm("{ .reg .pred condition; setp.ne.u32 condition, %4, 0;"
        " mov.u32 %0, 0; mov.u32 %1, 0; mov.u32 %2, 0; mov.u32 %3, 0;"
        " @condition ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%5]; }"
        : "=&r"(value.w[0]), "=&r"(value.w[1]), "=&r"(value.w[2]), "=&r"(value.w[3])
        : "r"(condition), "l"(__cvta_generic_to_global(from)));
    // clang-format on
    return value;
}

__device__ inline void store16(void* to, vec16_t value) {
    *static_cast<uint4*>(to) = make_uint4(value.w[0], value.w[1], value.w[2], value.w[3]);
}

// Atomic additions to global memory. The result is unused, so that they compile to reductions
// (red).

__device__ inline void add_global(float* to, float value) { atomicAdd(to, value); }
__device__ inline void add_global(double* to, double value) { atomicAdd(to, value); }

#if __CUDA_ARCH__ >= 900
// Four contiguous elements at once; the address is a multiple of 16.
__device__ inline void add_global4(float* to, float a, float b, float c, float d) {
    // clang-format off
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
                 :: "l"(__cvta_generic_to_global(to)), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
    // clang-format on
}
#endif

// Returns its argument, but hides it from the optimiser, which then keeps the value in a register
// instead of recomputing it (rematerialisation).
__device__ inline int opaque(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

// The block's dynamic shared memory.
__device__ inline unsigned char* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char buffer[];
    return buffer;
}
