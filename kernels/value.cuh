// value: VECTOR channels of a sample, mask included.

__device__ inline Vector sample_value(
        const Launch& p, const Plan& plan, const scalar_t* __restrict__ input, int c) {
    Vector value = zero_vector();
    for (int j = 0; j < 4; ++j) {
        const scalar_t* const from = input + (plan.pixel + corner_step(p, j) + c);
        add_scaled(&value, plan.weight[j], load_vector_if(plan.flags & COUNTS << j, from));
    }
    return scaled(plan.mask, value);
}
