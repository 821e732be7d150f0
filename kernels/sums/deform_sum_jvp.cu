// deform_sum_jvp: the tangent of a sum, for tangents of input, offset and mask.
//
//   input, offset, mask              as for deform_sum
//   input_tangent                    as the input, with its own strides; may be absent
//   offset_tangent, mask_tangent     as offset and mask, any strides; may be absent
//   output  (N, OH, OW, G, D)        contiguous; every element written once
//
// Threads work as in deform_sum. The tangent is the sum over taps and corners of dw * x + w * dx: w
// is the weight of a corner, x its pixel, dw and dx are the tangents of these. Both weights include
// the mask.

struct SharedTangent {
    SharedSample weights;  // flags: corners whose pixel is read; those whose tangent is, times 16
    acc_t tangents[CORNERS];
    index_t index;  // corner 0 in the tangent of the input
};

__device__ inline SharedTangent share_for_tangent(
        const SumSampling& sampling, const SumTangentStrides& strides, const SumSample& s,
        const SumTangent& tangent) {
    SharedTangent shared;
    for (int j = 0; j < CORNERS; ++j) {
        const bool nan = j == 0 && s.flags & NAN_COORD;
        const acc_t none = static_cast<acc_t>(nan ? nanf("") : 0.0f);
        shared.tangents[j] = s.flags >> j & 1 ? tangent.corner_weights[j] : none;
        shared.weights.weights[j] = weight_in_sum(s, j);
    }
    shared.index = pixel_index(strides.input, s);
    shared.weights.index = pixel_index(sampling.input, s);
    shared.weights.flags =
            (s.flags & IN_BOUNDS) | contributing_corners(s.flags) << CORNERS | s.level << LEVEL;
    return shared;
}

__device__ inline SharedTangent shared_by(const SharedTangent& mine, int lane, int lanes) {
    SharedTangent t;
    t.weights = shared_by(mine.weights, lane, lanes);
    for (int j = 0; j < CORNERS; ++j) {
        t.tangents[j] = __shfl_sync(0xffffffff, mine.tangents[j], lane, lanes);
    }
    t.index = __shfl_sync(0xffffffff, mine.index, lane, lanes);
    return t;
}

// Resident blocks per multiprocessor, as many as the registers allow.
const int BLOCKS = sizeof(index_t) == 8 || sizeof(acc_t) == 8 ? 2 : 3;

extern "C" __global__ void __launch_bounds__(256, BLOCKS) deform_sum_jvp(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent,
        const coord_t* __restrict__ offset, const coord_t* __restrict__ mask,
        const coord_t* __restrict__ offset_tangent, const coord_t* __restrict__ mask_tangent,
        scalar_t* __restrict__ output, const __grid_constant__ SumJvp params) {
    const SumSampling& sampling = params.sampling;
    const SumProblem& problem = sampling.problem;
    const SumTangentStrides& strides = params.tangents;
    const int lanes = problem.lanes, lane = lane_of(lanes);
    const index_t threads = sampling.items * problem.vectors * lanes;
    for (index_t thread = global_thread(); warp_first(thread) < threads; thread += grid_threads()) {
        const bool exists = thread < threads;
        const index_t run = exists ? thread >> (__ffs(lanes) - 1) : 0;
        const index_t number = fast_div(run, problem.by_vectors);
        const int c = (static_cast<int>(run - number * problem.vectors) * lanes + lane) * VECTOR;
        const SumItem item = sum_item(sampling, number);
        const scalar_t* const image = input + image_index(sampling.input, item, c);
        const scalar_t* const image_tangent =
                input_tangent ? input_tangent + image_index(strides.input, item, c) : nullptr;
        Vector sum = zero_vector();
        int level = 0;
        for (int tap0 = 0; tap0 < problem.taps; tap0 += lanes) {
            const int left = problem.taps - tap0, count = left < lanes ? left : lanes;
            const int tap = tap0 + (lane < count ? lane : 0);
            level = level_of(problem, tap, level);
            const SumSample own = locate_sum_sample(sampling, offset, mask, item, tap, level);
            const SharedTangent mine = share_for_tangent(
                    sampling, strides, own,
                    sum_tangent(problem, strides, own, offset_tangent, mask_tangent, item, tap));
            for (int k = 0; k < count; ++k) {
                const SharedTangent t = shared_by(mine, k, lanes);
                const SharedSample& s = t.weights;
                const int width = width_of_level(problem, s.flags);
                for (int j = 0; j < CORNERS; ++j) {
                    const index_t at = s.index + pixel_step(sampling.input, width, j);
                    add_scaled(&sum, t.tangents[j], load_vector_if(s.flags & 1 << j, image + at));
                }
                for (int j = 0; image_tangent && j < CORNERS; ++j) {
                    const index_t at = t.index + pixel_step(strides.input, width, j);
                    const unsigned contributes = s.flags & 1 << (CORNERS + j);
                    add_scaled(&sum, s.weights[j], load_vector_if(contributes, image_tangent + at));
                }
            }
        }
        if (exists) {
            store_vector(output + number * problem.channels + c, sum);
        }
    }
}
