// tensor_core_ptx: asynchronous copies, ldmatrix and mma, with inline PTX; from sm_80 on.
//
// A row of an operand is stored in vec16_t: 8 elements of 16 bits or 4 of 32 bits. One multiply_add
// multiplies 16 rows of a by 8 columns of b over 2 vec16_t of each. With lane = 4 * g + t, a lane
// holds
//
//   a    words (row g, word t of vec16_t 0), (g + 8, t, 0), (g, t, 1), (g + 8, t, 1)
//   b    words (column g, word t of vec16_t 0), (g, t, 1)
//   sum  (row g, column 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)

// clang-format off: asm

__device__ inline unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Start an asynchronous copy of 16 bytes from global to shared memory; addresses are multiples of
// 16.
__device__ inline void copy16_async(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)) : "memory");
}

// Wait for all asynchronous copies that this thread has started.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Load four matrices of 8 rows by one vec16_t from shared memory. Lane i passes the address of row
// i % 8 of matrix i / 8, and receives word t of row g of each matrix.
__device__ inline void load_matrices(const void* row, unsigned* words) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row)) : "memory");
}

// sum += a * b. volatile: must not be sunk into a conditional. The type of the first argument is
// the element type of a and b; tensor cores read a float as TF32 (its upper 19 bits).

__device__ inline void multiply_add(half_t type, const unsigned* a, const unsigned* b, float* sum) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void multiply_add(
        bfloat16_t type, const unsigned* a, const unsigned* b, float* sum) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void multiply_add(float type, const unsigned* a, const unsigned* b, float* sum) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// clang-format on

// Round to TF32, ties away from zero.
__device__ inline float to_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
}
