// deform_double: gradients of sum(columns * grad), where `columns` are the tangent of the columns.
//
//   input, input_tangent, offset, mask,
//   offset_tangent, mask_tangent                as for deform_im2col_jvp
//   columns       (groups, positions, leading)  gradient that meets the weight comes in; where
//                                               `p.keep_columns`, the tangent is left in its place
//   others        (groups, positions, leading)  gradient that meets the weight's tangent; may be
//                                               absent
//   grad_input    (images, H, W, C)  acc_t      added to, in no fixed order; may be absent
//   grad_offset   as offset, contiguous         every element of the launch written; may be absent
//   grad_mask     as mask, contiguous           every element of the launch written; may be absent
//
// With x the pixels, v their tangents, c and o the two gradients, offset and mask need the corners'
// dot products `still` = c.x and `moved` = c.v + o.x, added up by shuffles as in deform_backward.

struct Dots { acc_t still[4], moved[4]; };

struct Slopes { acc_t y, x; };

__device__ inline Slopes slopes_of(const Plan& plan, const acc_t* d) {
    return {plan.lx * (d[3] - d[1]) + (1 - plan.lx) * (d[2] - d[0]),
            plan.ly * (d[3] - d[2]) + (1 - plan.ly) * (d[1] - d[0])};
}

__device__ inline Grads grads_of(
        const Launch& p, const Plan& plan, const Move& move, const Dots& dots) {
    const acc_t nan = static_cast<acc_t>(nanf(""));
    if (plan.flags & LOST) {
        return {nan, nan, nan};
    }
    Grads grads = {0, 0, 0};
    const Slopes still = slopes_of(plan, dots.still), moved = slopes_of(plan, dots.moved);
    if (!(plan.flags & EDGE && p.mmcv)) {
        // The one second derivative of a bilinear surface is the mixed one.
        const acc_t twist = plan.mask * (dots.still[0] - dots.still[1] - dots.still[2]
                                         + dots.still[3]);
        grads.y = plan.mask * moved.y + move.mask * still.y + move.dx * twist;
        grads.x = plan.mask * moved.x + move.mask * still.x + move.dy * twist;
        grads.mask = move.dy * still.y + move.dx * still.x;
    }
    for (int j = 0; j < 4 && !(plan.flags & EDGE); ++j) {
        grads.mask += plan.weight[j] * dots.moved[j];
    }
    return grads;
}

// One vector of channels of one sample: adds its share to the dots, scatters, leaves the tangent.
__device__ inline void pull_vector(
        const Launch& p, const Plan& plan, const Move& move, const scalar_t* input,
        const scalar_t* input_tangent, scalar_t* columns, const scalar_t* others,
        acc_t* grad_input, int c, Dots* dots) {
    const acc_t nan = static_cast<acc_t>(nanf(""));
    const index_t cell = column_of(p, plan.position, plan.tap, plan.channel + c);
    const Vector grad = load_vector(columns + cell);
    const Vector other = others ? load_vector(others + cell) : zero_vector();
    const unsigned corners = corners_of(plan.flags);
    Vector value = zero_vector();
    for (int j = 0; j < 4; ++j) {
        if (!(plan.flags >> j & 1)) {
            continue;
        }
        const acc_t weight = corners ? scatter_weight(plan.weight[j], plan.mask) : 0;
        const Vector pixel = load_vector(input + plan.pixel + corner_step(p, j) + c);
        dots->still[j] += dot(grad, pixel);
        add_scaled(&value, move.turn[j], pixel);
        if (others) {
            dots->moved[j] += dot(other, pixel);
        }
        if (input_tangent) {
            const index_t from = plan.pixel_tangent + tangent_step(p, j) + c;
            const Vector tangent = load_vector(input_tangent + from);
            dots->moved[j] += dot(grad, tangent);
            add_scaled(&value, weight, tangent);
        }
        if (grad_input) {
            Vector share = zero_vector();
            add_scaled(&share, move.turn[j], grad);
            add_scaled(&share, weight, other);
            add_vector(grad_input + plan.table + table_step(p, j) + c, share);
        }
    }
    if (p.keep_columns) {
        for (int i = 0; i < VECTOR; ++i) {
            value.v[i] = plan.flags & LOST ? nan : value.v[i];
        }
        store_vector(columns + cell, value);
    }
}

extern "C" __global__ void deform_double(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent,
        const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        const scalar_t* __restrict__ offset_tangent, const scalar_t* __restrict__ mask_tangent,
        scalar_t* __restrict__ columns, const scalar_t* __restrict__ others,
        acc_t* __restrict__ grad_input, scalar_t* __restrict__ grad_offset,
        scalar_t* __restrict__ grad_mask, Launch p) {
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
            put_plan(p, s, at, plans + threadIdx.x, p.keep_columns ? columns : nullptr);
        }
        __syncthreads();
        // Every thread of a warp takes part in the shuffles, so all go round equally often.
        for (int k0 = 0; k0 < count; k0 += blockDim.x / p.lanes) {
            const int k = k0 + threadIdx.x / p.lanes;
            Dots dots = {};
            for (int c = lane * VECTOR; k < count && c < group_channels; c += p.lanes * VECTOR) {
                pull_vector(p, plans[k], moves[k], input, input_tangent, columns, others,
                            grad_input, c, &dots);
            }
            for (int distance = p.lanes / 2; distance > 0; distance /= 2) {
                for (int j = 0; j < 4; ++j) {
                    dots.still[j] += __shfl_xor_sync(0xffffffff, dots.still[j], distance);
                    dots.moved[j] += __shfl_xor_sync(0xffffffff, dots.moved[j], distance);
                }
            }
            if (k < count && lane == 0) {
                const Grads grads = grads_of(p, plans[k], moves[k], dots);
                write_grads(p, first + k, grads, grad_offset, grad_mask);
            }
        }
        __syncthreads();
    }
}
