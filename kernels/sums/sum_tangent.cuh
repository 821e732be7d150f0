// sum_tangent: how the corner weights of a sample change along tangents of offset and mask.

struct SumTangent {
    acc_t corner_weights[CORNERS];  // tangents of the corner weights, mask included
    acc_t displacement[AXES];       // tangent of the coordinate, 0 if absent
    acc_t mask;                     // tangent of the mask, 0 if absent
};

__device__ inline SumTangent sum_tangent(
        const SumProblem& problem, const SumTangentStrides& strides, const SumSample& s,
        const coord_t* __restrict__ offset_tangent, const coord_t* __restrict__ mask_tangent,
        const SumItem& item, int tap) {
    SumTangent t;
    const index_t pair = item_index(strides.offset, item) + tap * strides.offset.tap;
    for (int a = 0; a < AXES; ++a) {
        const acc_t tangent = offset_tangent
                ? to_acc(offset_tangent[pair + a * strides.offset.element])
                : static_cast<acc_t>(0);
        t.displacement[a] = problem.levels[s.level].factor[a] * tangent;
    }
    t.mask = mask_tangent
            ? to_acc(mask_tangent[item_index(strides.mask, item) + tap * strides.mask.tap])
            : static_cast<acc_t>(0);
    const bool at_minus_one = s.flags & AT_MINUS_ONE;
    // At a coordinate of -1 the sample is 0 for any mask. Whether it changes with the offset is a
    // convention, the option boundary_grad.
    const acc_t value = at_minus_one ? static_cast<acc_t>(0) : t.mask;
    const acc_t slope = at_minus_one && problem.zero_boundary_grad ? static_cast<acc_t>(0) : s.mask;
    for (int j = 0; j < CORNERS; ++j) {
        acc_t along_offset = 0;
        for (int a = 0; a < AXES; ++a) {
            along_offset += weight_slope(s.frac, j, a) * t.displacement[a];
        }
        t.corner_weights[j] = value * corner_weight(s.frac, j) + slope * along_offset;
    }
    return t;
}
