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
// gradient, which the `lanes` threads of a sample add up by shuffles.

// One vector of channels of one sample: adds its share to d, scatters it, replaces it.
__device__ inline void pull_vector(
        const Launch& p, const Plan& plan, const scalar_t* input, scalar_t* columns,
        acc_t* grad_input, int c, acc_t* d) {
    scalar_t* const cell = columns + column_of(p, plan.position, plan.tap, plan.channel + c);
    const Vector grad = load_vector(cell);
    const unsigned corners = corners_of(plan.flags);
    Vector value = zero_vector();
    for (int j = 0; j < 4; ++j) {
        if (!(plan.flags >> j & 1)) {
            continue;
        }
        const index_t from = plan.pixel + corner_step(p, j) + c;
        const Vector pixel = load_vector(input + from);
        d[j] += dot(grad, pixel);
        if (corners) {
            add_scaled(&value, plan.weight[j], pixel);
        }
        const acc_t weight = scatter_weight(plan.weight[j], plan.mask);
        if (corners && grad_input && weight != 0) {
            Vector share = zero_vector();
            add_scaled(&share, weight, grad);
            add_vector(grad_input + plan.table + table_step(p, j) + c, share);
        }
    }
    if (p.keep_columns) {
        for (int i = 0; i < VECTOR; ++i) {
            value.v[i] *= plan.mask;
        }
        store_vector(cell, value);
    }
}

extern "C" __global__ void deform_backward(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, scalar_t* __restrict__ columns,
        acc_t* __restrict__ grad_input, scalar_t* __restrict__ grad_offset,
        scalar_t* __restrict__ grad_mask, Launch p) {
    Plan* plans = reinterpret_cast<Plan*>(dynamic_shared());
    const int group_channels = p.g.channels / p.g.offset_groups;
    const int lane = threadIdx.x & (p.lanes - 1);
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.samples;
         first += item_stride()) {
        const int count = samples_from(p, first);
        if (threadIdx.x < count) {
            const Place at = place_of(p, first + threadIdx.x);
            const Sample s = sample_of(p, offset, mask, at);
            put_plan(p, s, at, plans + threadIdx.x, p.keep_columns ? columns : nullptr);
        }
        __syncthreads();
        // Every thread of a warp takes part in the shuffles, so all go round equally often.
        for (int k0 = 0; k0 < count; k0 += blockDim.x / p.lanes) {
            const int k = k0 + threadIdx.x / p.lanes;
            acc_t d[4] = {0, 0, 0, 0};
            for (int c = lane * VECTOR; k < count && c < group_channels; c += p.lanes * VECTOR) {
                pull_vector(p, plans[k], input, columns, grad_input, c, d);
            }
            for (int distance = p.lanes / 2; distance > 0; distance /= 2) {
                for (int j = 0; j < 4; ++j) {
                    d[j] += __shfl_xor_sync(0xffffffff, d[j], distance);
                }
            }
            if (k < count && lane == 0) {
                write_grads(p, first + k, grads_of(p, plans[k], d), grad_offset, grad_mask);
            }
        }
        __syncthreads();
    }
}
