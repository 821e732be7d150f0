// move: how a sample changes when offset and mask move along tangents.

struct alignas(16) Move {
    acc_t turn[4];       // changes of the weights of the corners, mask included
    acc_t dy, dx, mask;  // tangents, 0 where absent
    index_t pixel;       // as in the plan, in the tangent of the input; see move_plan
};

__device__ inline acc_t tangent_at(
        const scalar_t* tangent, Strides strides, const Launch& p, int channel, Place at) {
    if (!tangent) {
        return 0;
    }
    return to_acc(tangent[element_of(strides, p.first_image + at.image, channel, at.row, at.col)]);
}

__device__ inline Move move_of(
        const Launch& p, const Sample& s, const scalar_t* offset, const scalar_t* mask, Place at) {
    const int channel = at.og * p.taps + at.tap;
    Move m;
    m.pixel = 0;
    m.dy = tangent_at(offset, p.offset_tangent, p, 2 * channel, at);
    m.dx = tangent_at(offset, p.offset_tangent, p, 2 * channel + 1, at);
    m.mask = tangent_at(mask, p.mask_tangent, p, channel, at);
    const bool edge = s.flags & EDGE;
    // At a coordinate of -1 the sample is 0 and so is its change with the mask; whether it changes
    // with the offset is a convention.
    const acc_t value = edge ? static_cast<acc_t>(0) : m.mask;
    const acc_t slope = edge && p.zero_boundary_grad ? static_cast<acc_t>(0) : s.mask;
    const acc_t hy = 1 - s.ly, hx = 1 - s.lx;
    m.turn[0] = value * hy * hx + slope * (-hx * m.dy - hy * m.dx);
    m.turn[1] = value * hy * s.lx + slope * (-s.lx * m.dy + hy * m.dx);
    m.turn[2] = value * s.ly * hx + slope * (hx * m.dy - s.ly * m.dx);
    m.turn[3] = value * s.ly * s.lx + slope * (s.lx * m.dy + s.ly * m.dx);
    return m;
}
