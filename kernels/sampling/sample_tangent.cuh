// sample_tangent: how the corner weights of a sample change along tangents of offset and mask.

// Stored in shared memory beside the SampleRecord of the same sample.
struct alignas(16) SampleTangent {
    acc_t corner_weights[CORNERS];  // tangents of the corner weights, mask included; see dots_of
    acc_t displacement[AXES];       // tangent of the displacement, 0 if absent
    acc_t mask;                     // tangent of the mask, 0 if absent
    index_t input_index;  // as in the record, in the tangent of the input; see complete_tangent
};

// As for a record: the tangents of the corner dots take the place of those of the corner weights.
__device__ inline acc_t* dots_of(SampleTangent& tangent) { return tangent.corner_weights; }
__device__ inline const acc_t* dots_of(const SampleTangent& tangent) {
    return tangent.corner_weights;
}

__device__ inline acc_t load_tangent(
        const scalar_t* tangent, Strides strides, const Sampling& sampling, int channel,
        SampleIndex index) {
    if (!tangent) {
        return 0;
    }
    const int n = sampling.chunk.first_image + index.image;
    return to_acc(tangent[strided_index(strides, n, channel, index.at)]);
}

__device__ inline SampleTangent load_sample_tangent(
        const Sampling& sampling, const TangentStrides& tangents, const Sample& s,
        const scalar_t* offset_tangent, const scalar_t* mask_tangent, SampleIndex index) {
    const int channel = index.offset_group * sampling.problem.taps + index.tap;
    SampleTangent t;
    t.input_index = 0;
    for (int a = 0; a < AXES; ++a) {
        t.displacement[a] =
                load_tangent(offset_tangent, tangents.offset, sampling, AXES * channel + a, index);
    }
    t.mask = load_tangent(mask_tangent, tangents.mask, sampling, channel, index);
    const bool at_minus_one = s.flags & AT_MINUS_ONE;
    // At a coordinate of -1 the sample is 0 for any mask. Whether it changes with the offset is a
    // convention, the option boundary_grad.
    const acc_t value = at_minus_one ? static_cast<acc_t>(0) : t.mask;
    const acc_t slope =
            at_minus_one && sampling.problem.zero_boundary_grad ? static_cast<acc_t>(0) : s.mask;
    for (int j = 0; j < CORNERS; ++j) {
        acc_t along_mask = value, along_offset = 0;
        for (int a = 0; a < AXES; ++a) {
            along_mask *= axis_weight(s.frac, j, a);
            const acc_t term = weight_slope(s.frac, j, a) * t.displacement[a];
            along_offset = a ? along_offset + term : term;
        }
        t.corner_weights[j] = along_mask + slope * along_offset;
    }
    return t;
}

// Complete a tangent for a kernel that samples along it. Out-of-bounds corners get weight 0, so
// callers need no bounds check; a NaN coordinate yields a NaN tangent.
__device__ inline void complete_tangent(
        const TangentStrides& tangents, const Sample& s, SampleIndex index, int first_channel,
        SampleTangent* t) {
    t->input_index = strided_index(tangents.input, index.image, first_channel, s.low);
    for (int j = 0; j < CORNERS; ++j) {
        t->corner_weights[j] = s.flags >> j & 1 ? t->corner_weights[j] : static_cast<acc_t>(0);
    }
    const acc_t nan = static_cast<acc_t>(nanf(""));
    t->corner_weights[0] = s.flags & NAN_COORD ? nan : t->corner_weights[0];
}
