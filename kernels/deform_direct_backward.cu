// deform_direct_backward: gradients of input, offset and mask for groups of a few channels.
//
//   input         (images, H, W, C)        channels are neighbours, other strides are free
//   offset        (N, 2*OG*KH*KW, OH, OW)  any strides; (dy, dx) of each tap
//   mask          (N, OG*KH*KW, OH, OW)    any strides; may be absent
//   weight        (C/groups, KH*KW, O)     packed, see unit.cuh
//   grad_output   (positions, O)
//   grad_input    (images, H, W, C)  acc_t added to, in no fixed order; may be absent
//   grad_offset   as offset, contiguous    every element of the launch written; may be absent
//   grad_mask     as mask, contiguous      every element of the launch written; may be absent
//
// As deform_backward, but a thread works out the gradient of its columns, which takes a few
// products, instead of reading them: `lanes` threads share a sample and walk its units.

// Gradient of the columns of a unit.
__device__ inline In grad_columns_of(
        const Launch& p, const Plan& plan, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ grad_output, int unit) {
    const index_t from = plan.position * p.g.out_channels + unit * UNIT_OUT;
    const Out grad = load_out(grad_output + from);
    In result;
    for (int c = 0; c < UNIT_IN; ++c) {
        result.v[c] = 0;
    }
    for (int i = 0; i < GROUP_IN; ++i) {
        const Out factor = weight_of(p, weight, i, plan.tap, unit);
        for (int o = 0; o < UNIT_OUT; ++o) {
            result.v[partner_of(o, i)] += factor.v[o] * grad.v[o];
        }
    }
    return result;
}

// One vector of channels of one sample: adds its share to d and scatters it.
__device__ inline void pull_vector(
        const Launch& p, const Plan& plan, const scalar_t* __restrict__ input, acc_t* grad_input,
        const Vector& grad, int c, acc_t* d) {
    const unsigned corners = corners_of(plan.flags);
    for (int j = 0; j < 4; ++j) {
        if (!(plan.flags >> j & 1)) {
            continue;
        }
        d[j] += dot(grad, load_vector(input + plan.pixel + corner_step(p, j) + c));
        const acc_t weight = scatter_weight(plan.weight[j], plan.mask);
        if (corners && grad_input && weight != 0) {
            Vector share = zero_vector();
            add_scaled(&share, weight, grad);
            add_vector(grad_input + plan.table + table_step(p, j) + c, share);
        }
    }
}

extern "C" __global__ void deform_direct_backward(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ grad_output, acc_t* __restrict__ grad_input,
        scalar_t* __restrict__ grad_offset, scalar_t* __restrict__ grad_mask, Launch p) {
    Plan* plans = reinterpret_cast<Plan*>(dynamic_shared());
    const int group_channels = p.g.channels / p.g.offset_groups;
    const int lane = threadIdx.x & (p.lanes - 1);
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.samples;
         first += item_stride()) {
        const index_t left = p.samples - first;
        const int count = left < blockDim.x ? static_cast<int>(left) : blockDim.x;
        if (threadIdx.x < count) {
            const Place at = place_of(p, first + threadIdx.x);
            plans[threadIdx.x] = plan_of(p, sample_of(p, offset, mask, at), at);
        }
        __syncthreads();
        // Every thread of a warp takes part in the shuffles, so all go round equally often.
        for (int k0 = 0; k0 < count; k0 += blockDim.x / p.lanes) {
            const int k = k0 + threadIdx.x / p.lanes;
            acc_t d[4] = {0, 0, 0, 0};
            for (int c = lane * UNIT_IN; k < count && c < group_channels; c += p.lanes * UNIT_IN) {
                const int unit = (plans[k].channel + c) / UNIT_IN;
                const In grad = grad_columns_of(p, plans[k], weight, grad_output, unit);
                for (int i = 0; i < UNIT_IN; i += VECTOR) {
                    Vector part;
                    for (int v = 0; v < VECTOR; ++v) {
                        part.v[v] = grad.v[i + v];
                    }
                    pull_vector(p, plans[k], input, grad_input, part, c + i, d);
                }
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
