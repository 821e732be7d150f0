// deform_sum_backward: gradients of input, offset and mask of a sum, in one pass.
//
//   input, offset, mask                              as for deform_sum
//   grad_output  (N, OH, OW, G, D)         any strides; contiguous channels if VECTOR > 1
//   grad_input   (images, pixels, G, D)    acc_t; accumulated in no fixed order; may be absent
//   grad_offset  (N, OH, OW, G, taps, 2)   any strides; elements of the launch written; may be
//                                          absent
//   grad_mask    (N, OH, OW, G, taps)      likewise
//
// A lane group takes an item and all its channels, `vectors` vectors a lane. Each corner is read
// once and serves all gradients. The lanes reduce the corner dots by shuffles; the lane that worked
// out the sample writes its gradients.

// Add the terms of a vector of channels of one sample to the lane's corner dots and to the gradient
// of the input.
__device__ inline void backpropagate(
        const SumSampling& sampling, const SharedSample& s, const scalar_t* __restrict__ from,
        const Vector& grad, acc_t* __restrict__ to, acc_t* dots) {
    const int width = width_of_level(sampling.problem, s.flags);
    for (int j = 0; j < CORNERS; ++j) {
        const index_t step = pixel_step(sampling.input, width, j);
        add_dot(dots + j, grad, load_vector_if(s.flags & 1 << j, from + (s.index + step)));
    }
    for (int j = 0; j < CORNERS; ++j) {
        if (s.flags & RECEIVES_GRAD << j) {
            add_vector(to + dense_step(sampling.problem, width, j), scaled(s.weights[j], grad));
        }
    }
}

__device__ inline SharedSample share_for_grads(
        const SumSampling& sampling, const SumSample& s, bool receives_grad) {
    SharedSample shared;
    for (int j = 0; j < CORNERS; ++j) {
        shared.weights[j] = scatter_weight(corner_weight(s.frac, j), s.mask);
    }
    const unsigned contributing = receives_grad ? contributing_corners(s.flags) : 0;
    shared.index = pixel_index(sampling.input, s);
    shared.flags = (s.flags & IN_BOUNDS) | receiving_corners(contributing, shared.weights)
            | s.level << LEVEL;
    return shared;
}

__device__ inline SumGrads sum_grads(const SumProblem& problem, const SumSample& s, acc_t* dots) {
    if (s.flags & NAN_COORD) {
        return nan_sum_grads();
    }
    zero_dots_out_of_bounds(s.flags, dots);
    SumGrads grads;
    for (int a = 0; a < AXES; ++a) {
        const acc_t slope =
                has_slope(problem, s.flags) ? slope_along(s.frac, dots, a) : static_cast<acc_t>(0);
        grads.offset[a] = s.mask * slope * problem.levels[s.level].factor[a];
    }
    grads.mask = 0;
    for (int j = 0; j < CORNERS && !(s.flags & AT_MINUS_ONE); ++j) {
        grads.mask += corner_weight(s.frac, j) * dots[j];
    }
    return grads;
}

// Resident blocks per multiprocessor, as many as the registers allow. Code for sm_100 and
// later takes more of them.
#if __CUDA_ARCH__ >= 1000
const int BLOCKS = 2;
#else
const int BLOCKS = sizeof(index_t) == 8 || sizeof(acc_t) == 8 ? 2 : 3;
#endif

extern "C" __global__ void __launch_bounds__(256, BLOCKS) deform_sum_backward(
        const scalar_t* __restrict__ input, const coord_t* __restrict__ offset,
        const coord_t* __restrict__ mask, const scalar_t* __restrict__ grad_output,
        acc_t* __restrict__ grad_input, coord_t* __restrict__ grad_offset,
        coord_t* __restrict__ grad_mask, const __grid_constant__ SumBackward params) {
    const SumSampling& sampling = params.sampling;
    const SumProblem& problem = sampling.problem;
    const int lanes = problem.lanes, lane = lane_of(lanes), c = lane * VECTOR;
    const index_t threads = sampling.items * lanes;
    for (index_t thread = global_thread(); warp_first(thread) < threads; thread += grid_threads()) {
        const bool exists = thread < threads;
        const SumItem item = sum_item(sampling, exists ? thread >> (__ffs(lanes) - 1) : 0);
        const scalar_t* const image = input + image_index(sampling.input, item, c);
        const Vector first_grad = problem.vectors
                ? load_grad_output(params.grad_output, grad_output, item, c)
                : zero_vector();
        int level = 0;
        for (int tap0 = 0; tap0 < problem.taps; tap0 += lanes) {
            const int left = problem.taps - tap0, count = left < lanes ? left : lanes;
            const int tap = tap0 + (lane < count ? lane : 0);
            level = level_of(problem, tap, level);
            const SumSample own = locate_sum_sample(sampling, offset, mask, item, tap, level);
            const SharedSample mine = share_for_grads(sampling, own, exists && grad_input);
            acc_t own_dots[CORNERS] = {};
            for (int k = 0; k < count; ++k) {
                const SharedSample s = shared_by(mine, k, lanes);
                const index_t pixel = __shfl_sync(0xffffffff, own.pixel, k, lanes);
                acc_t* const to = grad_input
                        + dense_index(problem, item.image - params.first_image, pixel, item.group)
                        + c;
                acc_t dots[CORNERS] = {};
                for (int v = 0; v < problem.vectors; ++v) {
                    const int further = v * lanes * VECTOR;
                    const Vector grad = v
                            ? load_grad_output(params.grad_output, grad_output, item, c + further)
                            : first_grad;
                    const scalar_t* const from =
                            image + channel_index(sampling.input.channel, further);
                    backpropagate(sampling, s, from, grad, to + further, dots);
                }
                sum_over_lanes(lanes, dots);
                for (int j = 0; j < CORNERS; ++j) {
                    own_dots[j] = k == lane ? dots[j] : own_dots[j];
                }
            }
            if (exists && lane < count) {
                write_sum_grads(
                        params.strides, item, tap, sum_grads(problem, own, own_dots), grad_offset,
                        grad_mask);
            }
        }
    }
}
