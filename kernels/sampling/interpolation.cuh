// interpolation: multilinear interpolation between the CORNERS pixels around a point, and its
// derivatives. See axes.cuh for the numbers of corners.

const unsigned IN_BOUNDS = (1 << CORNERS) - 1;  // bit j: corner j is a pixel of the image
const unsigned AT_MINUS_ONE = 1 << 24;          // a coordinate is exactly -1: the sample is 0
const unsigned NAN_COORD = 1 << 25;             // a coordinate is NaN

// Split the coordinate base + displacement into its floor `low` and the fraction above it. The
// fraction comes from the displacement alone, so that a large base costs no precision. False, and
// low = 0, if no pixel of the axis is a corner. size + padding < 2^31 (checked on the host), so
// neither bound overflows; floor_to_int saturates, so a huge displacement fails the test.
__device__ inline bool split_coordinate(
        acc_t displacement, int base, int size, int* low, acc_t* frac) {
    const int step = floor_to_int(displacement);
    const bool reaches_image = step >= -1 - base && step < size - base;
    *low = reaches_image ? step + base : 0;
    *frac = displacement - floor(displacement);
    return reaches_image;
}

// IN_BOUNDS bits of the corners at the lower end of axis a.
__device__ inline unsigned lower_corners(int a) {
    unsigned corners = 0;
    for (int j = 0; j < CORNERS; ++j) {
        corners |= corner_step(j, a) ? 0 : 1 << j;
    }
    return corners;
}

__device__ inline unsigned corners_in_bounds(const int* size, const int* low) {
    unsigned corners = IN_BOUNDS;
    for (int a = 0; a < AXES; ++a) {
        const unsigned lower = lower_corners(a), upper = IN_BOUNDS & ~lower;
        corners &= (low[a] >= 0 ? lower : 0) | (low[a] < size[a] - 1 ? upper : 0);
    }
    return corners;
}

// The weight of corner j along axis a.
__device__ inline acc_t axis_weight(const acc_t* frac, int j, int a) {
    return corner_step(j, a) ? frac[a] : 1 - frac[a];
}

// The multilinear weight of corner j.
__device__ inline acc_t corner_weight(const acc_t* frac, int j) {
    acc_t weight = axis_weight(frac, j, 0);
    for (int a = 1; a < AXES; ++a) {
        weight *= axis_weight(frac, j, a);
    }
    return weight;
}

// The factor between the gradient of a sample and what it adds to the gradient of a corner. It is 0
// for a multilinear weight of 0, even if the mask is infinite or NaN.
__device__ inline acc_t scatter_weight(acc_t multilinear, acc_t mask) {
    return multilinear == 0 ? static_cast<acc_t>(0) : multilinear * mask;
}

// IN_BOUNDS bits of the corners that contribute to the value of a sample: none at a coordinate of
// -1.
__device__ inline unsigned contributing_corners(unsigned flags) {
    return flags & AT_MINUS_ONE ? 0 : flags & IN_BOUNDS;
}

// Derivative of the multilinear weight of corner j with respect to the coordinate along axis a.
__device__ inline acc_t weight_slope(const acc_t* frac, int j, int a) {
    acc_t slope = corner_step(j, a) ? 1 : -1;
    for (int b = 0; b < AXES; ++b) {
        slope *= b == a ? static_cast<acc_t>(1) : axis_weight(frac, j, b);
    }
    return slope;
}

// Interpolate between `count` values along the axes that are not in `fixed`, a set of corner bits:
// there is a value for each combination of the ends of these axes, ordered like the corners.
__device__ inline acc_t interpolate(const acc_t* frac, int fixed, acc_t* values, int count) {
    for (int a = AXES - 1; a >= 0; --a) {
        if (!(fixed & corner_bit(a))) {
            count /= 2;
            for (int k = 0; k < count; ++k) {
                values[k] = frac[a] * values[2 * k + 1] + (1 - frac[a]) * values[2 * k];
            }
        }
    }
    return values[0];
}

// Derivative along axis a of the multilinear function that has the values d at the corners.
__device__ inline acc_t slope_along(const acc_t* frac, const acc_t* d, int a) {
    const int upper = corner_bit(a);
    acc_t differences[CORNERS / 2];
    int count = 0;
    for (int j = 0; j < CORNERS; ++j) {
        if (!(j & upper)) {
            differences[count++] = d[j | upper] - d[j];
        }
    }
    return interpolate(frac, upper, differences, CORNERS / 2);
}

// Derivative along the axes a < b of the multilinear function that has the values d at the corners.
// The second derivatives along a single axis are 0.
__device__ inline acc_t mixed_derivative(const acc_t* frac, const acc_t* d, int a, int b) {
    const int upper_a = corner_bit(a), upper_b = corner_bit(b);
    acc_t differences[CORNERS];
    int count = 0;
    for (int j = 0; j < CORNERS; ++j) {
        if (!(j & (upper_a | upper_b))) {
            differences[count++] =
                    d[j] - d[j | upper_b] - d[j | upper_a] + d[j | upper_a | upper_b];
        }
    }
    return interpolate(frac, upper_a | upper_b, differences, CORNERS / 4);
}
