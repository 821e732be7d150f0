// moves: the moves of a block in shared memory, behind its plans.

// Plan a sample and its move. What a corner that is not held is multiplied by is 0, so that nobody has
// to ask; a sample that is lost changes to NaN.
__device__ inline Plan move_plan_of(const Launch& p, const Sample& s, Place at, Move* move) {
    const Plan plan = column_plan_of(p, s, at);
    move->pixel = element_of(p.input_tangent, at.image, plan.channel, s.y0, s.x0);
    for (int j = 0; j < 4; ++j) {
        move->turn[j] = s.flags >> j & 1 ? move->turn[j] : static_cast<acc_t>(0);
    }
    move->turn[0] = s.flags & LOST ? static_cast<acc_t>(nanf("")) : move->turn[0];
    return plan;
}

// Distance from the top left corner to corner j in the tangent of the input.
__device__ inline index_t tangent_step(const Launch& p, int j) {
    return (j >> 1) * p.input_tangent.h + (j & 1) * p.input_tangent.w;
}
