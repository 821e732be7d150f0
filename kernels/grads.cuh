// grads: the gradients of a sample's offset and mask, and where they go.

struct Grads { acc_t y, x, mask; };

// Add up the corners' dot products over the `lanes` threads of a sample and leave the sums in `to`, in
// shared memory, if `there` is such a sample. All threads of a warp take part, and no other may have
// read what the sums replace.
__device__ inline void add_up(const Launch& p, const acc_t* d, bool there, acc_t* to) {
    const int lane = lane_of(p);
    if (p.lanes < 4) {
        acc_t sums[4];
        for (int j = 0; j < 4; ++j) {
            sums[j] = p.lanes == 2 ? d[j] + __shfl_xor_sync(0xffffffff, d[j], 1) : d[j];
        }
        __syncwarp();
        for (int j = 0; there && lane == 0 && j < 4; ++j) {
            to[j] = sums[j];
        }
        return;
    }
    // Lanes 1 and 2 apart exchange halves of what they hold, until lane j holds corner j modulo 4.
    const bool right = lane & 1, bottom = lane & 2;
    acc_t top_sum = right ? d[1] : d[0], bottom_sum = right ? d[3] : d[2];
    top_sum += __shfl_xor_sync(0xffffffff, right ? d[0] : d[1], 1);
    bottom_sum += __shfl_xor_sync(0xffffffff, right ? d[2] : d[3], 1);
    acc_t sum = bottom ? bottom_sum : top_sum;
    sum += __shfl_xor_sync(0xffffffff, bottom ? top_sum : bottom_sum, 2);
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) {
        if (distance < p.lanes) {
            sum += __shfl_xor_sync(0xffffffff, sum, distance);
        }
    }
    __syncwarp();
    if (there && lane < 4) {
        to[lane] = sum;
    }
}

// Dot products that were added up: of no meaning where a corner is not held or there are no channels.
__device__ inline void keep_held(
        const Launch& p, const Plan& plan, const acc_t* dots, acc_t* held) {
    for (int j = 0; j < 4; ++j) {
        held[j] = p.offset_channels && plan.flags >> j & 1 ? dots[j] : static_cast<acc_t>(0);
    }
}

// Dots are those of the gradient with each corner.
__device__ inline Grads grads_of(const Launch& p, const Plan& plan, const acc_t* dots) {
    const acc_t nan = static_cast<acc_t>(nanf(""));
    if (plan.flags & LOST) {
        return {nan, nan, nan};
    }
    acc_t d[4];
    keep_held(p, plan, dots, d);
    acc_t slope_y = 0, slope_x = 0;
    if (!(plan.flags & EDGE && p.zero_boundary_grad)) {
        slope_y = plan.lx * (d[3] - d[1]) + (1 - plan.lx) * (d[2] - d[0]);
        slope_x = plan.ly * (d[3] - d[2]) + (1 - plan.ly) * (d[1] - d[0]);
    }
    Grads grads = {plan.mask * slope_y, plan.mask * slope_x, 0};
    for (int j = 0; j < 4 && !(plan.flags & EDGE); ++j) {
        grads.mask += corner_weight(plan.ly, plan.lx, j) * d[j];
    }
    return grads;
}

__device__ inline void write_grads(
        const Launch& p, Place at, Grads grads, scalar_t* grad_offset, scalar_t* grad_mask) {
    const index_t plane = static_cast<index_t>(p.g.out_h) * p.g.out_w;
    const index_t pixel = static_cast<index_t>(at.row) * p.g.out_w + at.col;
    const index_t image = static_cast<index_t>(p.first_image + at.image);
    const index_t channel = (image * p.g.offset_groups + at.og) * p.taps + at.tap;
    if (grad_offset) {
        from_acc(grads.y, grad_offset + 2 * channel * plane + pixel);
        from_acc(grads.x, grad_offset + (2 * channel + 1) * plane + pixel);
    }
    if (grad_mask) {
        from_acc(grads.mask, grad_mask + channel * plane + pixel);
    }
}

// Write the gradients of the thread's own sample, which was planned in `own`: dot products lie where its
// weights were.
__device__ inline void write_own_grads(
        const Launch& p, index_t first, const Plan& own, scalar_t* grad_offset, scalar_t* grad_mask) {
    // Its place is worked out again: to keep it takes registers all the while.
    const Place place = place_of(p, first + kept(threadIdx.x));
    write_grads(p, place, grads_of(p, own, own.weight), grad_offset, grad_mask);
}
