// deform_sum: the sum of the samples of each position and group, without a filter.
//
//   input   (N, pixels, G, D)         any strides; contiguous channels if VECTOR > 1
//   offset  (N, OH, OW, G, taps, 2)   any strides; pairs (x, y)
//   mask    (N, OH, OW, G, taps)      any strides
//   output  (N, OH, OW, G, D)         contiguous; every element written once
//
// A lane group takes `lanes` adjacent vectors of the channels of an item; `vectors` lane groups
// cover all channels. The sums stay in registers. See sum_sample.cuh for items and lanes.

__device__ inline SharedSample share_for_output(const SumSampling& sampling, const SumSample& s) {
    SharedSample shared;
    for (int j = 0; j < CORNERS; ++j) {
        shared.weights[j] = weight_in_sum(s, j);
    }
    const unsigned contributing = contributing_corners(s.flags);
    if (!contributing) {
        // The value of the sample is 0, which is NaN times a mask that is not finite.
        shared.weights[0] += s.mask * static_cast<acc_t>(0);
    }
    shared.index = pixel_index(sampling.input, s);
    shared.flags = contributing | s.level << LEVEL;
    return shared;
}

// Resident blocks per multiprocessor. With 8 bytes for an index or a number, the register count
// allows only three.
const int BLOCKS = sizeof(index_t) == 8 || sizeof(acc_t) == 8 ? 3 : 4;

extern "C" __global__ void __launch_bounds__(256, BLOCKS) deform_sum(
        const scalar_t* __restrict__ input, const coord_t* __restrict__ offset,
        const coord_t* __restrict__ mask, scalar_t* __restrict__ output,
        const __grid_constant__ SumForward params) {
    const SumSampling& sampling = params.sampling;
    const SumProblem& problem = sampling.problem;
    const int lanes = problem.lanes, lane = lane_of(lanes);
    const index_t threads = sampling.items * problem.vectors * lanes;
    for (index_t thread = global_thread(); warp_first(thread) < threads; thread += grid_threads()) {
        const bool exists = thread < threads;
        const index_t run = exists ? thread >> (__ffs(lanes) - 1) : 0;
        const index_t number = fast_div(run, problem.by_vectors);
        const int c = (static_cast<int>(run - number * problem.vectors) * lanes + lane) * VECTOR;
        const SumItem item = sum_item(sampling, number);
        const scalar_t* const image = input + image_index(sampling.input, item, c);
        Vector sum = zero_vector();
        int level = 0;
        for (int tap0 = 0; tap0 < problem.taps; tap0 += lanes) {
            const int left = problem.taps - tap0, count = left < lanes ? left : lanes;
            const int tap = tap0 + (lane < count ? lane : 0);
            level = level_of(problem, tap, level);
            const SharedSample mine = share_for_output(
                    sampling, locate_sum_sample(sampling, offset, mask, item, tap, level));
            for (int k = 0; k < count; ++k) {
                const SharedSample s = shared_by(mine, k, lanes);
                const int width = width_of_level(problem, s.flags);
                for (int j = 0; j < CORNERS; ++j) {
                    const scalar_t* const from =
                            image + (s.index + pixel_step(sampling.input, width, j));
                    add_scaled(&sum, s.weights[j], load_vector_if(s.flags & 1 << j, from));
                }
            }
        }
        if (exists) {
            store_vector(output + number * problem.channels + c, sum);
        }
    }
}
