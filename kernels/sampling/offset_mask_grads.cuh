// offset_mask_grads: gradients of offset and mask of a sample, from its corner dots.
//
// The corner dots of a sample are dot products over channels, one for each corner: of the gradient
// of the sample's columns with the pixel at the corner.

struct OffsetMaskGrads {
    acc_t offset[AXES], mask;
};

// Add the contribution of VECTOR channels of a sample to the gradient of corner j; `grad` is the
// gradient of their columns.
__device__ inline void scatter_to_corner(
        const Sampling& sampling, const SampleRecord& record, const Vector& grad, int j, int c,
        acc_t* __restrict__ grad_input) {
    if (record.flags & RECEIVES_GRAD << j) {
        acc_t* const to = grad_input + (record.dense_index + dense_step(sampling, j) + c);
        add_vector(to, scaled(record.corner_weights[j] * record.mask, grad));
    }
}

// Sum corner dots over a lane group and store the sums to shared memory, if the group's sample is
// valid. All threads of a warp take part. The memory must hold nothing that other lane groups still
// read.
__device__ inline void reduce_lanes(int lanes, const acc_t* dots, bool valid, acc_t* sums) {
    const int lane = lane_of(lanes);
    if (lanes < CORNERS) {
        acc_t lane_sums[CORNERS];
        for (int j = 0; j < CORNERS; ++j) {
            lane_sums[j] = dots[j];
            for (int distance = 1; distance < CORNERS / 2; distance *= 2) {
                if (distance < lanes) {
                    lane_sums[j] += __shfl_xor_sync(0xffffffff, lane_sums[j], distance);
                }
            }
        }
        __syncwarp();
        for (int j = 0; valid && lane == 0 && j < CORNERS; ++j) {
            sums[j] = lane_sums[j];
        }
        return;
    }
    // Lanes at distance 1, then 2, and so on, exchange half of their partial sums. After as many
    // exchanges as there are axes, lane l holds the sum of corner l % CORNERS alone, and the other
    // distances reduce one number instead of CORNERS.
    acc_t partial[CORNERS];
    for (int j = 0; j < CORNERS; ++j) {
        partial[j] = dots[j];
    }
    for (int distance = 1; distance < CORNERS; distance *= 2) {
        const bool upper = lane & distance;
        for (int k = 0; k < CORNERS / 2 / distance; ++k) {
            const acc_t kept = upper ? partial[2 * k + 1] : partial[2 * k];
            const acc_t given = upper ? partial[2 * k] : partial[2 * k + 1];
            partial[k] = kept + __shfl_xor_sync(0xffffffff, given, distance);
        }
    }
    acc_t sum = partial[0];
#pragma unroll
    for (int distance = CORNERS; distance < 32; distance *= 2) {
        if (distance < lanes) {
            sum += __shfl_xor_sync(0xffffffff, sum, distance);
        }
    }
    __syncwarp();
    if (valid && lane < CORNERS) {
        sums[lane] = sum;
    }
}

// Zero the dot products of out-of-bounds corners, whose reduced values are undefined; all of them
// if there are no channels.
__device__ inline void zero_out_of_bounds_dots(
        const Problem& problem, const SampleRecord& record, const acc_t* reduced, acc_t* dots) {
    for (int j = 0; j < CORNERS; ++j) {
        dots[j] = problem.offset_channels && record.flags >> j & 1 ? reduced[j]
                                                                   : static_cast<acc_t>(0);
    }
}

__device__ inline OffsetMaskGrads nan_grads() {
    OffsetMaskGrads grads;
    grads.mask = static_cast<acc_t>(nanf(""));
    for (int a = 0; a < AXES; ++a) {
        grads.offset[a] = grads.mask;
    }
    return grads;
}

__device__ inline OffsetMaskGrads offset_mask_grads(
        const Problem& problem, const SampleRecord& record, const acc_t* reduced_dots) {
    if (record.flags & NAN_COORD) {
        return nan_grads();
    }
    acc_t d[CORNERS];
    zero_out_of_bounds_dots(problem, record, reduced_dots, d);
    OffsetMaskGrads grads;
    for (int a = 0; a < AXES; ++a) {
        const bool has_slope = !(record.flags & AT_MINUS_ONE && problem.zero_boundary_grad);
        grads.offset[a] =
                record.mask * (has_slope ? slope_along(record.frac, d, a) : static_cast<acc_t>(0));
    }
    grads.mask = 0;
    for (int j = 0; j < CORNERS && !(record.flags & AT_MINUS_ONE); ++j) {
        grads.mask += corner_weight(record.frac, j) * d[j];
    }
    return grads;
}

__device__ inline void write_offset_mask_grads(
        const Sampling& sampling, SampleIndex index, OffsetMaskGrads grads, scalar_t* grad_offset,
        scalar_t* grad_mask) {
    const Problem& problem = sampling.problem;
    const index_t plane = element_count(problem.out);
    index_t pixel = index.at[0];
    for (int a = 1; a < AXES; ++a) {
        pixel = pixel * problem.out[a] + index.at[a];
    }
    const index_t image = static_cast<index_t>(sampling.chunk.first_image + index.image);
    const index_t channel =
            (image * problem.offset_groups + index.offset_group) * problem.taps + index.tap;
    if (grad_offset) {
        for (int a = 0; a < AXES; ++a) {
            from_acc(grads.offset[a], grad_offset + (AXES * channel + a) * plane + pixel);
        }
    }
    if (grad_mask) {
        from_acc(grads.mask, grad_mask + channel * plane + pixel);
    }
}

// Write grad_offset and grad_mask of the sample whose record this thread made. reduce_lanes() has
// stored the reduced dot products in dots_of(record).
__device__ inline void write_grads_of_record(
        const Sampling& sampling, index_t first, const SampleRecord& record, scalar_t* grad_offset,
        scalar_t* grad_mask) {
    // Recomputed from an opaque index: keeping the sample's index alive would cost registers
    // throughout the loop over channels.
    const SampleIndex index = unravel_sample(sampling, first + opaque(threadIdx.x));
    const OffsetMaskGrads grads = offset_mask_grads(sampling.problem, record, dots_of(record));
    write_offset_mask_grads(sampling, index, grads, grad_offset, grad_mask);
}
