// mma: what tensor cores and their copies can do, as small functions with inline PTX; from sm_80 on.
//
// A *unit* is 16 bytes of a row: 8 numbers of 16 bits or 4 of 32. A warp multiplies 16 rows by 8
// columns, 2 units of each at a time; with lane = 4 * g + t, it holds
//
//   a    words (row g, word t of unit 0), (g + 8, t, 0), (g, t, 1), (g + 8, t, 1)
//   b    words (column g, word t of unit 0), (g, t, 1)
//   sum  (row g, column 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)

__device__ inline unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Copy 16 bytes from global to shared memory in the background; addresses are multiples of 16.
__device__ inline void copy16_async(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)) : "memory");
}

// Wait until the copies that this thread began are done.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Load four matrices of 8 rows of a unit: lane i gives the address of row i % 8 of matrix i / 8, in
// shared memory, and gets word t of row g of each.
__device__ inline void load_matrices(const void* row, unsigned* words) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row)) : "memory");
}

// sum += a * b; volatile, so that no branch draws it in. The first argument says of which numbers the
// words are; of a float the processor takes the 19 bits of TF32.

__device__ inline void multiply_add(half_t kind, const unsigned* a, const unsigned* b, float* sum) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void multiply_add(bfloat16_t kind, const unsigned* a, const unsigned* b, float* sum) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void multiply_add(float kind, const unsigned* a, const unsigned* b, float* sum) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Round to TF32, ties away from zero.
__device__ inline float to_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
}
