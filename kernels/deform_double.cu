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
// dot products `still` = c.x and `moved` = c.v + o.x, added up as in deform_backward.

struct Dots { acc_t still[4], moved[4]; };

struct Slopes { acc_t y, x; };

__device__ inline Slopes slopes_of(const Plan& plan, const acc_t* d) {
    return {plan.lx * (d[3] - d[1]) + (1 - plan.lx) * (d[2] - d[0]),
            plan.ly * (d[3] - d[2]) + (1 - plan.ly) * (d[1] - d[0])};
}

__device__ inline Grads grads_of(
        const Launch& p, const Plan& plan, const Move& move, const Dots& sums) {
    const acc_t nan = static_cast<acc_t>(nanf(""));
    if (plan.flags & LOST) {
        return {nan, nan, nan};
    }
    Dots dots;
    keep_held(p, plan, sums.still, dots.still);
    keep_held(p, plan, sums.moved, dots.moved);
    Grads grads = {0, 0, 0};
    const Slopes still = slopes_of(plan, dots.still), moved = slopes_of(plan, dots.moved);
    if (!(plan.flags & EDGE && p.zero_boundary_grad)) {
        // The one second derivative of a bilinear surface is the mixed one.
        const acc_t twist = plan.mask * (dots.still[0] - dots.still[1] - dots.still[2]
                                         + dots.still[3]);
        grads.y = plan.mask * moved.y + move.mask * still.y + move.dx * twist;
        grads.x = plan.mask * moved.x + move.mask * still.x + move.dy * twist;
        grads.mask = move.dy * still.y + move.dx * still.x;
    }
    for (int j = 0; j < 4 && !(plan.flags & EDGE); ++j) {
        grads.mask += corner_weight(plan.ly, plan.lx, j) * dots.moved[j];
    }
    return grads;
}

// One vector of channels of one sample: adds its share to the dots, scatters, leaves the tangent.
__device__ inline void pull_vector(
        const Launch& p, const Plan plan, const Move move, const scalar_t* __restrict__ input,
        const scalar_t* __restrict__ input_tangent, scalar_t* __restrict__ columns,
        const scalar_t* __restrict__ others, acc_t* __restrict__ grad_input, int c, Dots* dots) {
    const index_t cell = cell_of(p, plan, c);
    const Vector grad = load_vector(columns + cell);
    const Vector other = others ? load_vector(others + cell) : zero_vector();
    Vector value = zero_vector();
    for (int j = 0; j < 4; ++j) {
        const scalar_t* const from = input + (plan.pixel + corner_step(p, j) + c);
        const Vector pixel = load_vector_if(plan.flags & 1 << j, from);
        add_dot(dots->still + j, grad, pixel);
        add_scaled(&value, move.turn[j], pixel);
        if (others) {
            add_dot(dots->moved + j, other, pixel);
        }
    }
    for (int j = 0; input_tangent && j < 4; ++j) {
        const scalar_t* const from = input_tangent + (move.pixel + tangent_step(p, j) + c);
        const Vector tangent = load_vector_if(plan.flags & 1 << j, from);
        add_dot(dots->moved + j, grad, tangent);
        add_scaled(&value, plan.weight[j], tangent);
    }
    for (int j = 0; j < 4; ++j) {
        if (plan.flags & GAINS << j) {
            Vector share = scaled(move.turn[j], grad);
            add_scaled(&share, plan.weight[j], other);
            add_vector(grad_input + (plan.table + table_step(p, j) + c), share);
        }
    }
    if (p.keep_columns) {
        store_vector(columns + cell, value);
    }
}

// Blocks that a multiprocessor shall hold at a time; wide indices take the registers of the third.
const int BLOCKS = sizeof(index_t) == 8 ? 2 : 3;

extern "C" __global__ void __launch_bounds__(256, BLOCKS) deform_double(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent,
        const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        const scalar_t* __restrict__ offset_tangent, const scalar_t* __restrict__ mask_tangent,
        scalar_t* __restrict__ columns, const scalar_t* __restrict__ others,
        acc_t* __restrict__ grad_input, scalar_t* __restrict__ grad_offset,
        scalar_t* __restrict__ grad_mask, Launch p) {
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
                const acc_t weight = scatter_weight(plan.weight[j], plan.mask);
                plan.weight[j] = counts ? weight : static_cast<acc_t>(0);
            }
            plan.flags |= grad_input ? (plan.flags & 15) * GAINS : 0;
            plans[threadIdx.x] = plan;
            moves[threadIdx.x] = move;
            if (p.keep_columns) {
                end_rows_once(p, place, columns);
            }
        }
        __syncthreads();
        Dots dots = {};
        for (Round at = first_round(p); at.k < count; at = next_round(p, at, VECTOR)) {
            const int k = at.k + slot_of(p), c = at.c + lane_of(p) * VECTOR;
            if (k < count) {
                pull_vector(p, plans[k], moves[k], input, input_tangent, columns, others,
                            grad_input, c, &dots);
            }
            if (next_round(p, at, VECTOR).c == 0) {
                add_up(p, dots.still, k < count, plans[k].weight);
                add_up(p, dots.moved, k < count, moves[k].turn);
                dots = {};
            }
        }
        __syncthreads();
        if (threadIdx.x < count) {
            const Plan plan = plans[threadIdx.x];
            const Move move = moves[threadIdx.x];
            Dots sums;
            for (int j = 0; j < 4; ++j) {
                sums.still[j] = plan.weight[j];
                sums.moved[j] = move.turn[j];
            }
            // Worked out again: to keep it from above takes registers all the while.
            const Place place = place_of(p, first + kept(threadIdx.x));
            write_grads(p, place, grads_of(p, plan, move, sums), grad_offset, grad_mask);
        }
    }
}
