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
    const acc_t nan = static_cast<acc_t>(nanf(""));
    const unsigned corners = corners_of(plan.flags);
    Vector value = zero_vector();
    for (int j = 0; j < 4; ++j) {
        if (plan.flags >> j & 1) {
            add_scaled(&value, move.turn[j], load_vector(input + plan.pixel + corner_step(p, j) + c));
        }
        if (input_tangent && (corners >> j & 1)) {
            const index_t from = plan.pixel_tangent + tangent_step(p, j) + c;
            add_scaled(&value, plan.weight[j] * plan.mask, load_vector(input_tangent + from));
        }
    }
    for (int i = 0; i < VECTOR; ++i) {
        value.v[i] = plan.flags & LOST ? nan : value.v[i];
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
    const int group_channels = p.g.channels / p.g.offset_groups;
    const int lane = threadIdx.x & (p.lanes - 1);
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.samples;
         first += item_stride()) {
        const int count = samples_from(p, first);
        if (threadIdx.x < count) {
            const Place at = place_of(p, first + threadIdx.x);
            const Sample s = sample_of(p, offset, mask, at);
            moves[threadIdx.x] = move_of(p, s, offset_tangent, mask_tangent, at);
            put_plan(p, s, at, plans + threadIdx.x, columns);
        }
        __syncthreads();
        for (int k = threadIdx.x / p.lanes; k < count; k += blockDim.x / p.lanes) {
            const Plan& plan = plans[k];
            for (int c = lane * VECTOR; c < group_channels; c += p.lanes * VECTOR) {
                const index_t to = column_of(p, plan.position, plan.tap, plan.channel + c);
                const Vector value = tangent_value(p, plan, moves[k], input, input_tangent, c);
                store_vector(columns + to, value);
            }
        }
        __syncthreads();
    }
}
