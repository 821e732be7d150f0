// deform_backward: from the gradient of the columns to all others, in one pass.
//
//   input         (images, H, W, C)            channels are neighbours, other strides are free
//   offset        (N, 2*OG*KH*KW, OH, OW)      any strides; (dy, dx) of each tap
//   mask          (N, OG*KH*KW, OH, OW)        any strides; may be absent
//   columns       (groups, positions, leading) their gradient comes in; where `p.keep_columns`, the
//                                              columns themselves are left in its place
//   grad_input    (images, H, W, C)  acc_t     added to, in no fixed order; may be absent
//   grad_offset   as offset, contiguous        every element of the launch written; may be absent
//   grad_mask     as mask, contiguous          every element of the launch written; may be absent
//
// Plans and threads are those of deform_im2col. Each corner is read once and serves all gradients:
// those of offset and mask need only the four dot products over channels of the corners with the
// gradient. The `lanes` threads of a sample add them up by shuffles and leave them in its plan, and the
// thread that made the plan makes gradients of them.

// One vector of channels of one sample: adds its share to d, scatters it, replaces it.
__device__ inline void pull_vector(
        const Launch& p, const Plan plan, const scalar_t* __restrict__ input,
        scalar_t* __restrict__ columns, acc_t* __restrict__ grad_input, int c, acc_t* d) {
    scalar_t* const cell = columns + cell_of(p, plan, c);
    const Vector grad = load_vector(cell);
    Vector pixel[4];
    for (int j = 0; j < 4; ++j) {
        const scalar_t* const from = input + (plan.pixel + corner_step(p, j) + c);
        pixel[j] = load_vector_if(plan.flags & 1 << j, from);
    }
    Vector value = zero_vector();
    for (int j = 0; j < 4; ++j) {
        add_dot(d + j, grad, pixel[j]);
        add_scaled(&value, plan.weight[j], pixel[j]);
        if (plan.flags & GAINS << j) {
            acc_t* const to = grad_input + (plan.table + table_step(p, j) + c);
            add_vector(to, scaled(plan.weight[j] * plan.mask, grad));
        }
    }
    if (p.keep_columns) {
        // A corner at an edge has a weight of 0, but may be infinite.
        const bool counts = plan.flags & 15 * COUNTS;
        store_vector(cell, scaled(plan.mask, counts ? value : zero_vector()));
    }
}

extern "C" __global__ void __launch_bounds__(256, 4) deform_backward(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, scalar_t* __restrict__ columns,
        acc_t* __restrict__ grad_input, scalar_t* __restrict__ grad_offset,
        scalar_t* __restrict__ grad_mask, Launch p) {
    Plan* plans = reinterpret_cast<Plan*>(dynamic_shared());
    Plan* const own = plans + threadIdx.x;
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.samples;
         first += item_stride()) {
        const int count = samples_from(p, first);
        if (threadIdx.x < count) {
            const Place place = place_of(p, first + threadIdx.x);
            Plan plan = column_plan_of(p, sample_of(p, offset, mask, place), place);
            plan.flags |= grad_input ? gains_of(plan) : 0;
            *own = plan;
            if (p.keep_columns) {
                end_rows_once(p, place, columns);
            }
        }
        __syncthreads();
        acc_t d[4] = {0, 0, 0, 0};
        for (Round at = first_round(p); at.k < count; at = next_round(p, at, VECTOR)) {
            const int k = at.k + slot_of(p), c = at.c + lane_of(p) * VECTOR;
            if (k < count) {
                pull_vector(p, plans[k], input, columns, grad_input, c, d);
            }
            if (next_round(p, at, VECTOR).c == 0) {
                add_up(p, d, k < count, plans[k].weight);
                d[0] = d[1] = d[2] = d[3] = 0;
            }
        }
        __syncthreads();
        if (threadIdx.x < count) {
            write_own_grads(p, first, *own, grad_offset, grad_mask);
        }
    }
}
