// offset_mask_grads: gradients of offset and mask of a sample, from its corner dots.
//
// The corner dots of a sample are four dot products over channels: of the gradient of its columns
// with each corner.

struct OffsetMaskGrads {
    acc_t y, x, mask;
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

// Sum corner dots over a lane group and store the four sums to shared memory, if the group's sample
// is valid. All threads of a warp take part. The memory must hold nothing that other lane groups
// still read.
__device__ inline void reduce_lanes(int lanes, const acc_t* dots, bool valid, acc_t* sums) {
    const int lane = lane_of(lanes);
    if (lanes < 4) {
        acc_t pair_sums[4];
        for (int j = 0; j < 4; ++j) {
            pair_sums[j] = lanes == 2 ? dots[j] + __shfl_xor_sync(0xffffffff, dots[j], 1) : dots[j];
        }
        __syncwarp();
        for (int j = 0; valid && lane == 0 && j < 4; ++j) {
            sums[j] = pair_sums[j];
        }
        return;
    }
    // Lanes at distance 1, then 2, exchange half of their partial sums; after that, lane l holds
    // those of corner l % 4 alone, and the other distances reduce one number instead of four.
    const bool right = lane & 1, bottom = lane & 2;
    acc_t top_sum = right ? dots[1] : dots[0], bottom_sum = right ? dots[3] : dots[2];
    top_sum += __shfl_xor_sync(0xffffffff, right ? dots[0] : dots[1], 1);
    bottom_sum += __shfl_xor_sync(0xffffffff, right ? dots[2] : dots[3], 1);
    acc_t sum = bottom ? bottom_sum : top_sum;
    sum += __shfl_xor_sync(0xffffffff, bottom ? top_sum : bottom_sum, 2);
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) {
        if (distance < lanes) {
            sum += __shfl_xor_sync(0xffffffff, sum, distance);
        }
    }
    __syncwarp();
    if (valid && lane < 4) {
        sums[lane] = sum;
    }
}

// Zero the dot products of out-of-bounds corners, whose reduced values are undefined; all of them
// if there are no channels.
__device__ inline void zero_out_of_bounds_dots(
        const Problem& problem, const SampleRecord& record, const acc_t* reduced, acc_t* dots) {
    for (int j = 0; j < 4; ++j) {
        dots[j] = problem.offset_channels && record.flags >> j & 1 ? reduced[j]
                                                                   : static_cast<acc_t>(0);
    }
}

__device__ inline OffsetMaskGrads offset_mask_grads(
        const Problem& problem, const SampleRecord& record, const acc_t* reduced_dots) {
    const acc_t nan = static_cast<acc_t>(nanf(""));
    if (record.flags & NAN_COORD) {
        return {nan, nan, nan};
    }
    acc_t d[4];
    zero_out_of_bounds_dots(problem, record, reduced_dots, d);
    acc_t slope_y = 0, slope_x = 0;
    if (!(record.flags & AT_MINUS_ONE && problem.zero_boundary_grad)) {
        slope_y = record.frac_x * (d[3] - d[1]) + (1 - record.frac_x) * (d[2] - d[0]);
        slope_x = record.frac_y * (d[3] - d[2]) + (1 - record.frac_y) * (d[1] - d[0]);
    }
    OffsetMaskGrads grads = {record.mask * slope_y, record.mask * slope_x, 0};
    for (int j = 0; j < 4 && !(record.flags & AT_MINUS_ONE); ++j) {
        grads.mask += corner_weight(record.frac_y, record.frac_x, j) * d[j];
    }
    return grads;
}

__device__ inline void write_offset_mask_grads(
        const Sampling& sampling, SampleIndex index, OffsetMaskGrads grads, scalar_t* grad_offset,
        scalar_t* grad_mask) {
    const index_t plane = static_cast<index_t>(sampling.problem.out_h) * sampling.problem.out_w;
    const index_t pixel = static_cast<index_t>(index.row) * sampling.problem.out_w + index.col;
    const index_t image = static_cast<index_t>(sampling.chunk.first_image + index.image);
    const index_t channel =
            (image * sampling.problem.offset_groups + index.offset_group) * sampling.problem.taps
            + index.tap;
    if (grad_offset) {
        from_acc(grads.y, grad_offset + 2 * channel * plane + pixel);
        from_acc(grads.x, grad_offset + (2 * channel + 1) * plane + pixel);
    }
    if (grad_mask) {
        from_acc(grads.mask, grad_mask + channel * plane + pixel);
    }
}

// Write grad_offset and grad_mask of the sample whose record this thread made. reduce_lanes() has
// stored the four reduced dot products in dots_of(record).
__device__ inline void write_grads_of_record(
        const Sampling& sampling, index_t first, const SampleRecord& record, scalar_t* grad_offset,
        scalar_t* grad_mask) {
    // Recomputed from an opaque index: keeping the sample's index alive would cost registers
    // throughout the loop over channels.
    const SampleIndex index = unravel_sample(sampling, first + opaque(threadIdx.x));
    const OffsetMaskGrads grads = offset_mask_grads(sampling.problem, record, dots_of(record));
    write_offset_mask_grads(sampling, index, grads, grad_offset, grad_mask);
}
