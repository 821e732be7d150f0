// deform_im2col_jvp: the tangent of the columns, for tangents of input, offset and mask.
//
//   input          (images, H, W, C)            channels are neighbours, other strides are free
//   input_tangent  (images, H, W, C)            as input, strides of its own; may be absent
//   offset, mask                                as for deform_im2col
//   offset_tangent, mask_tangent                as offset and mask, any strides; may be absent
//   columns        (groups, positions, leading) every element written once, none read
//
// Plans and threads are those of deform_im2col; a second array in shared memory holds the moves.

__device__ inline Vector tangent_value(
        const Launch& p, const Plan& plan, const Move& move, const scalar_t* __restrict__ input,
        const scalar_t* __restrict__ input_tangent, int c) {
    Vector value = zero_vector();
    for (int j = 0; j < 4; ++j) {
        const scalar_t* const from = input + (plan.pixel + corner_step(p, j) + c);
        add_scaled(&value, move.turn[j], load_vector_if(plan.flags & 1 << j, from));
    }
    for (int j = 0; input_tangent && j < 4; ++j) {
        const scalar_t* const from = input_tangent + (move.pixel + tangent_step(p, j) + c);
        add_scaled(&value, plan.weight[j], load_vector_if(plan.flags & COUNTS << j, from));
    }
    return value;
}

extern "C" __global__ void deform_im2col_jvp(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent,
        const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        const scalar_t* __restrict__ offset_tangent, const scalar_t* __restrict__ mask_tangent,
        scalar_t* __restrict__ columns, Launch p) {
    Plan* plans = reinterpret_cast<Plan*>(dynamic_shared());
    Move* moves = reinterpret_cast<Move*>(plans + blockDim.x);
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.samples;
         first += item_stride()) {
        const int count = samples_from(p, first);
        if (threadIdx.x < count) {
            const Place place = place_of(p, first + threadIdx.x);
            const Sample s = sample_of(p, offset, mask, place);
            Move move = move_of(p, s, offset_tangent, mask_tangent, place);
            Plan plan = move_plan_of(p, s, place, &move);
            for (int j = 0; j < 4; ++j) {
                const bool counts = plan.flags & COUNTS << j;
                plan.weight[j] = counts ? plan.weight[j] * plan.mask : static_cast<acc_t>(0);
            }
            plans[threadIdx.x] = plan;
            moves[threadIdx.x] = move;
            end_rows_once(p, place, columns);
        }
        __syncthreads();
        for (Round at = first_round(p); at.k < count; at = next_round(p, at, VECTOR)) {
            const int k = at.k + slot_of(p), c = at.c + lane_of(p) * VECTOR;
            if (k < count) {
                const Plan plan = plans[k];
                const Vector value = tangent_value(p, plan, moves[k], input, input_tangent, c);
                store_vector(columns + cell_of(p, plan, c), value);
            }
        }
        __syncthreads();
    }
}
