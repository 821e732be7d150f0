// sampling: where a tap samples, and which corners of the image that takes.
//
// A *sample* is one (position, tap, offset group) of the launch, numbered in that order, the offset
// group fastest. A *position* is one output pixel of the launch's images and rows.

struct Place {
    int image, row, col;  // output position; the image counts from the launch's first
    int tap, og;
    index_t position;
};

struct Sample {
    int y0, x0;      // top left corner
    acc_t ly, lx;    // fractions, 0 where no corner can lie in the image
    acc_t mask;      // 1 without a mask
    unsigned flags;  // HELD bits of the corners, EDGE, LOST
};

const unsigned HELD_00 = 1;  // top left lies in the image
const unsigned HELD_01 = 2;  // top right
const unsigned HELD_10 = 4;  // bottom left
const unsigned HELD_11 = 8;  // bottom right
const unsigned EDGE = 16;    // a coordinate is exactly -1: corners are held, the sample is 0
const unsigned LOST = 32;    // a coordinate is NaN

__device__ inline Place place_at(const Launch& p, index_t position, int tap, int og) {
    Place at;
    at.og = og;
    at.tap = tap;
    at.position = position;
    const index_t line = quotient(position, p.by_out_w);
    at.col = static_cast<int>(position - line * p.g.out_w);
    at.image = static_cast<int>(quotient(line, p.by_rows));
    at.row = static_cast<int>(line - static_cast<index_t>(at.image) * p.rows) + p.first_row;
    return at;
}

__device__ inline Place place_of(const Launch& p, index_t sample) {
    const index_t pair = quotient(sample, p.by_offset_groups);
    const index_t position = quotient(pair, p.by_taps);
    const int tap = static_cast<int>(pair - position * p.taps);
    return place_at(p, position, tap, static_cast<int>(sample - pair * p.g.offset_groups));
}

// Split base + displacement into a whole number and a fraction. The fraction comes from the
// displacement alone, so a large image costs no precision. False where no pixel is within reach. A size and
// its padding together fit into 32 bits, so both limits of the step do; a step beyond 32 bits comes as one
// that is outside of these.
__device__ inline bool split(acc_t displacement, int base, int size, int* whole, acc_t* fraction) {
    const int step = floor_to_int(displacement);
    const bool near = step >= -1 - base && step < size - base;
    *whole = near ? step + base : 0;
    *fraction = displacement - floor(displacement);
    return near;
}

// The corners that lie in the image.
__device__ inline unsigned held_of(const Geometry& g, int y0, int x0) {
    const unsigned rows = (y0 >= 0 ? HELD_00 | HELD_01 : 0) | (y0 < g.in_h - 1 ? HELD_10 | HELD_11 : 0);
    const unsigned cols = (x0 >= 0 ? HELD_00 | HELD_10 : 0) | (x0 < g.in_w - 1 ? HELD_01 | HELD_11 : 0);
    return rows & cols;
}

__device__ inline Sample sample_of(
        const Launch& p, const scalar_t* offset, const scalar_t* mask, Place at) {
    const Geometry& g = p.g;
    const int n = p.first_image + at.image;
    const int channel = at.og * p.taps + at.tap;
    const int i = quotient(at.tap, p.by_kernel_w);
    const int j = at.tap - i * g.kernel_w;
    const acc_t dy = to_acc(offset[element_of(p.offset, n, 2 * channel, at.row, at.col)]);
    const acc_t dx = to_acc(offset[element_of(p.offset, n, 2 * channel + 1, at.row, at.col)]);

    Sample s;
    s.mask = mask ? to_acc(mask[element_of(p.mask, n, channel, at.row, at.col)]) : static_cast<acc_t>(1);
    const int base_y = at.row * g.stride_h - g.pad_top + i * g.dilation_h;
    const int base_x = at.col * g.stride_w - g.pad_left + j * g.dilation_w;
    const bool near_y = split(dy, base_y, g.in_h, &s.y0, &s.ly);
    const bool near_x = split(dx, base_x, g.in_w, &s.x0, &s.lx);
    const bool lost = dy != dy || dx != dx, near = near_y && near_x && !lost;
    const bool edge = (s.y0 == -1 && s.ly == 0) || (s.x0 == -1 && s.lx == 0);
    s.flags = near ? held_of(g, s.y0, s.x0) | (edge ? EDGE : 0) : lost ? LOST : 0;
    s.ly = near ? s.ly : 0;
    s.lx = near ? s.lx : 0;
    return s;
}

// What a corner gains from its sample, as a factor. A corner of weight 0 gains nothing, whatever the
// mask.
__device__ inline acc_t scatter_weight(acc_t bilinear, acc_t mask) {
    return bilinear == 0 ? static_cast<acc_t>(0) : bilinear * mask;
}

// Corners that count for the value of a sample: none where a coordinate is exactly -1.
__device__ inline unsigned corners_of(unsigned flags) { return flags & EDGE ? 0 : flags & 15; }
