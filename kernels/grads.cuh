// grads: where the gradients of a sample's offset and mask go.

struct Grads { acc_t y, x, mask; };

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
