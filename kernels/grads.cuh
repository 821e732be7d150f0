// grads: the gradients of a sample's offset and mask, and where they go.

struct Grads { acc_t y, x, mask; };

// d is the dot product of the gradient with each corner, 0 where the corner is not held.
__device__ inline Grads grads_of(const Launch& p, const Plan& plan, const acc_t* d) {
    const acc_t nan = static_cast<acc_t>(nanf(""));
    if (plan.flags & LOST) {
        return {nan, nan, nan};
    }
    acc_t slope_y = 0, slope_x = 0;
    if (!(plan.flags & EDGE && p.mmcv)) {
        slope_y = plan.lx * (d[3] - d[1]) + (1 - plan.lx) * (d[2] - d[0]);
        slope_x = plan.ly * (d[3] - d[2]) + (1 - plan.ly) * (d[1] - d[0]);
    }
    Grads grads = {plan.mask * slope_y, plan.mask * slope_x, 0};
    if (!(plan.flags & EDGE)) {
        grads.mask = plan.weight[0] * d[0] + plan.weight[1] * d[1] + plan.weight[2] * d[2]
            + plan.weight[3] * d[3];
    }
    return grads;
}

__device__ inline void write_grads(
        const Launch& p, index_t sample, Grads grads, scalar_t* grad_offset, scalar_t* grad_mask) {
    const Place at = place_of(p, sample);
    const int taps = p.g.kernel_h * p.g.kernel_w;
    const index_t plane = static_cast<index_t>(p.g.out_h) * p.g.out_w;
    const index_t pixel = static_cast<index_t>(at.row) * p.g.out_w + at.col;
    const index_t channel =
        static_cast<index_t>(p.first_image + at.image) * p.g.offset_groups * taps + at.og * taps
        + at.tap;
    if (grad_offset) {
        from_acc(grads.y, grad_offset + 2 * channel * plane + pixel);
        from_acc(grads.x, grad_offset + (2 * channel + 1) * plane + pixel);
    }
    if (grad_mask) {
        from_acc(grads.mask, grad_mask + channel * plane + pixel);
    }
}
