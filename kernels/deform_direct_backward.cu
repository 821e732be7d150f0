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

// A plan's cell is its (position, tap). Gradient of the columns of a unit.
__device__ inline In grad_columns_of(
        const Launch& p, const Plan& plan, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ grad_output, int unit) {
    const index_t position = quotient(plan.cell, p.by_taps);
    const int tap = static_cast<int>(plan.cell - position * p.taps);
    const Out grad = load_out(grad_output + (position * p.g.out_channels + unit * UNIT_OUT));
    In result;
    for (int c = 0; c < UNIT_IN; ++c) {
        result.v[c] = 0;
    }
    for (int i = 0; i < GROUP_IN; ++i) {
        const Out factor = weight_of(p, weight, i, tap, unit);
        for (int o = 0; o < UNIT_OUT; ++o) {
            result.v[partner_of(o, i)] += factor.v[o] * grad.v[o];
        }
    }
    return result;
}

// One vector of channels of one sample: adds its share to d and scatters it.
__device__ inline void pull_vector(
        const Launch& p, const Plan& plan, const scalar_t* __restrict__ input,
        acc_t* __restrict__ grad_input, const Vector& grad, int c, acc_t* d) {
    for (int j = 0; j < 4; ++j) {
        const scalar_t* const from = input + (plan.pixel + corner_step(p, j) + c);
        add_dot(d + j, grad, load_vector_if(plan.flags & 1 << j, from));
    }
    for (int j = 0; j < 4; ++j) {
        if (plan.flags & GAINS << j) {
            acc_t* const to = grad_input + (plan.table + table_step(p, j) + c);
            add_vector(to, scaled(plan.weight[j] * plan.mask, grad));
        }
    }
}

__device__ inline void pull_unit(
        const Launch& p, const Plan plan, const scalar_t* __restrict__ input,
        const scalar_t* __restrict__ weight, const scalar_t* __restrict__ grad_output,
        acc_t* __restrict__ grad_input, int c, acc_t* d) {
    const In grad = grad_columns_of(p, plan, weight, grad_output, (plan.channel + c) / UNIT_IN);
    for (int i = 0; i < UNIT_IN; i += VECTOR) {
        Vector part;
        for (int v = 0; v < VECTOR; ++v) {
            part.v[v] = grad.v[i + v];
        }
        pull_vector(p, plan, input, grad_input, part, c + i, d);
    }
}

extern "C" __global__ void deform_direct_backward(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const scalar_t* __restrict__ weight,
        const scalar_t* __restrict__ grad_output, acc_t* __restrict__ grad_input,
        scalar_t* __restrict__ grad_offset, scalar_t* __restrict__ grad_mask, Launch p) {
    Plan* plans = reinterpret_cast<Plan*>(dynamic_shared());
    Plan* const own = plans + threadIdx.x;
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.samples;
         first += item_stride()) {
        const int count = samples_from(p, first);
        if (threadIdx.x < count) {
            const Place place = place_of(p, first + threadIdx.x);
            Plan plan = plan_of(p, sample_of(p, offset, mask, place), place);
            plan.cell = place.position * p.taps + place.tap;
            plan.flags |= grad_input ? gains_of(plan) : 0;
            *own = plan;
        }
        __syncthreads();
        acc_t d[4] = {0, 0, 0, 0};
        for (Round at = first_round(p); at.k < count; at = next_round(p, at, UNIT_IN)) {
            const int k = at.k + slot_of(p), c = at.c + lane_of(p) * UNIT_IN;
            if (k < count) {
                pull_unit(p, plans[k], input, weight, grad_output, grad_input, c, d);
            }
            if (next_round(p, at, UNIT_IN).c == 0) {
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
