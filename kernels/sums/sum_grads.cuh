// sum_grads: gradients of offset and mask of a sample, from its corner dots: the dot products over
// channels of each corner's pixel and the gradient of the output.

struct SumGrads {
    acc_t offset[AXES], mask;
};

// Bit j of the IN_BOUNDS bits times RECEIVES_GRAD: the sample adds to the gradient of corner j.
const unsigned RECEIVES_GRAD = 1 << 8;

// RECEIVES_GRAD bits: corners in bounds whose factor is not 0.
__device__ inline unsigned receiving_corners(unsigned in_bounds, const acc_t* factors) {
    unsigned receiving = 0;
    for (int j = 0; j < CORNERS; ++j) {
        receiving |= factors[j] != 0 ? RECEIVES_GRAD << j : 0;
    }
    return receiving & in_bounds * RECEIVES_GRAD;
}

// Sum corner dots over the lanes of an item; every lane gets all sums.
__device__ inline void sum_over_lanes(int lanes, acc_t* dots) {
    if (lanes < CORNERS) {
        for (int j = 0; j < CORNERS; ++j) {
            dots[j] = sum_over_few_lanes(lanes, dots[j]);
        }
        return;
    }
    const acc_t sum = sum_of_own_corner(lanes, lane_of(lanes), dots);
    for (int j = 0; j < CORNERS; ++j) {
        dots[j] = __shfl_sync(0xffffffff, sum, j, lanes);
    }
}

// Zero the dots of corners out of bounds, which are NaN for a gradient that is not finite.
__device__ inline void zero_dots_out_of_bounds(unsigned flags, acc_t* dots) {
    for (int j = 0; j < CORNERS; ++j) {
        dots[j] = flags >> j & 1 ? dots[j] : static_cast<acc_t>(0);
    }
}

__device__ inline SumGrads nan_sum_grads() {
    SumGrads grads;
    grads.mask = static_cast<acc_t>(nanf(""));
    for (int a = 0; a < AXES; ++a) {
        grads.offset[a] = grads.mask;
    }
    return grads;
}

// Whether the coordinate has a gradient; not at -1, by convention, if boundary_grad is "zero".
__device__ inline bool has_slope(const SumProblem& problem, unsigned flags) {
    return !(flags & AT_MINUS_ONE && problem.zero_boundary_grad);
}

__device__ inline void write_sum_grads(
        const SumGradStrides& strides, const SumItem& item, int tap, const SumGrads& grads,
        coord_t* grad_offset, coord_t* grad_mask) {
    if (grad_offset) {
        coord_t* const pair =
                grad_offset + (item_index(strides.offset, item) + tap * strides.offset.tap);
        for (int a = 0; a < AXES; ++a) {
            from_acc(grads.offset[a], pair + a * strides.offset.element);
        }
    }
    if (grad_mask) {
        from_acc(grads.mask, grad_mask + (item_index(strides.mask, item) + tap * strides.mask.tap));
    }
}

// Index of a pixel's group in dense images that begin at some image of the call.
__device__ inline index_t dense_index(
        const SumProblem& problem, index_t image, index_t pixel, int group) {
    return ((image * problem.pixels + pixel) * problem.groups + group) * problem.channels;
}

// Distance from corner 0 to corner j in these.
__device__ inline index_t dense_step(const SumProblem& problem, int width, int j) {
    return (corner_step(j, 0) + corner_step(j, 1) * width)
            * static_cast<index_t>(problem.groups * problem.channels);
}
