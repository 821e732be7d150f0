// vector: VECTOR contiguous channels in accumulation precision; 16 bytes, or 1 element.

struct Vector {
    acc_t v[VECTOR];
};

#if VECTOR > 1
__device__ inline Vector to_vector(vec16_t raw) {
    Vector result;
    for (int i = 0; i < VECTOR; ++i) {
        result.v[i] = vec16_element(scalar_t(), raw, i);
    }
    return result;
}
#endif

__device__ inline Vector load_vector(const scalar_t* from) {
#if VECTOR > 1
    return to_vector(load16(from));
#else
    return {{to_acc(*from)}};
#endif
}

// Load if `condition` is not 0, else return zeros without an access. No kernel may write the memory
// meanwhile.
__device__ inline Vector load_vector_if(unsigned condition, const scalar_t* from) {
#if VECTOR > 1
    return to_vector(load16_if(condition, from));
#else
    return {{condition ? to_acc(*from) : static_cast<acc_t>(0)}};
#endif
}

__device__ inline void store_vector(scalar_t* to, Vector value) {
#if VECTOR > 1
    vec16_t raw;
    scalar_t* values = reinterpret_cast<scalar_t*>(&raw);
#else
    scalar_t* values = to;
#endif
    for (int i = 0; i < VECTOR; ++i) {
        from_acc(value.v[i], values + i);
    }
#if VECTOR > 1
    store16(to, raw);
#endif
}

// Add atomically to VECTOR contiguous elements of global memory, ATOMIC_WIDTH per instruction.
__device__ inline void add_vector(acc_t* to, Vector value) {
#if ATOMIC_WIDTH == 4
    for (int i = 0; i < VECTOR; i += 4) {
        add_global4(to + i, value.v[i], value.v[i + 1], value.v[i + 2], value.v[i + 3]);
    }
#else
    for (int i = 0; i < VECTOR; ++i) {
        add_global(to + i, value.v[i]);
    }
#endif
}

__device__ inline Vector zero_vector() {
    Vector result;
    for (int i = 0; i < VECTOR; ++i) {
        result.v[i] = 0;
    }
    return result;
}

__device__ inline void add_scaled(Vector* sum, acc_t factor, const Vector& value) {
    for (int i = 0; i < VECTOR; ++i) {
        sum->v[i] += factor * value.v[i];
    }
}

__device__ inline Vector scaled(acc_t factor, const Vector& value) {
    Vector result;
    for (int i = 0; i < VECTOR; ++i) {
        result.v[i] = factor * value.v[i];
    }
    return result;
}

__device__ inline void add_dot(acc_t* sum, const Vector& a, const Vector& b) {
    for (int i = 0; i < VECTOR; ++i) {
        *sum += a.v[i] * b.v[i];
    }
}
