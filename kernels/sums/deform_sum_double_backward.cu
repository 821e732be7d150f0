// deform_sum_double_backward: gradients of sum(c * tangent of the output), in one pass.
//
//   input, input_tangent, offset, mask,
//   offset_tangent, mask_tangent           as for deform_sum_jvp
//   grad_output  (N, OH, OW, G, D)         c; any strides; contiguous channels if VECTOR > 1
//   grad_input, grad_offset, grad_mask     as for deform_sum_backward
//
// Threads work as in deform_sum_backward. The gradients of offset and mask need two dot products
// over channels per corner: dots = c.x and dots_tangent = c.v, where x is the pixel at the corner
// and v is the tangent of that pixel.

struct SumDots {
    acc_t dots[CORNERS], dots_tangent[CORNERS];
};

__device__ inline SharedSample share_for_double_grads(
        const SumSampling& sampling, const SumSample& s, const SumTangent& tangent,
        bool receives_grad) {
    SharedSample shared;
    for (int j = 0; j < CORNERS; ++j) {
        shared.weights[j] = tangent.corner_weights[j];
    }
    const unsigned in_bounds = s.flags & IN_BOUNDS;
    shared.index = pixel_index(sampling.input, s);
    shared.flags = in_bounds | receiving_corners(receives_grad ? in_bounds : 0, shared.weights)
            | s.level << LEVEL;
    return shared;
}

__device__ inline SumGrads sum_double_grads(
        const SumProblem& problem, const SumSample& s, const SumTangent& tangent, SumDots* d) {
    if (s.flags & NAN_COORD) {
        return nan_sum_grads();
    }
    zero_dots_out_of_bounds(s.flags, d->dots);
    zero_dots_out_of_bounds(s.flags, d->dots_tangent);
    SumGrads grads = {};
    if (has_slope(problem, s.flags)) {
        const acc_t mixed = s.mask * mixed_derivative(s.frac, d->dots, 0, 1);
        for (int a = 0; a < AXES; ++a) {
            const acc_t slope = slope_along(s.frac, d->dots, a);
            const acc_t along = s.mask * slope_along(s.frac, d->dots_tangent, a)
                    + tangent.mask * slope + tangent.displacement[1 - a] * mixed;
            grads.offset[a] = along * problem.levels[s.level].factor[a];
            grads.mask += tangent.displacement[a] * slope;
        }
    }
    for (int j = 0; j < CORNERS && !(s.flags & AT_MINUS_ONE); ++j) {
        grads.mask += corner_weight(s.frac, j) * d->dots_tangent[j];
    }
    return grads;
}

// Resident blocks per multiprocessor: more would spill registers.
const int BLOCKS = sizeof(index_t) == 8 || sizeof(acc_t) == 8 ? 1 : 2;

extern "C" __global__ void __launch_bounds__(256, BLOCKS) deform_sum_double_backward(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent,
        const coord_t* __restrict__ offset, const coord_t* __restrict__ mask,
        const coord_t* __restrict__ offset_tangent, const coord_t* __restrict__ mask_tangent,
        const scalar_t* __restrict__ grad_output, acc_t* __restrict__ grad_input,
        coord_t* __restrict__ grad_offset, coord_t* __restrict__ grad_mask,
        const __grid_constant__ SumDoubleBackward params) {
    const SumSampling& sampling = params.sampling;
    const SumProblem& problem = sampling.problem;
    const SumTangentStrides& strides = params.tangents;
    const int lanes = problem.lanes, lane = lane_of(lanes);
    const index_t threads = sampling.items * lanes;
    for (index_t thread = global_thread(); warp_first(thread) < threads; thread += grid_threads()) {
        const bool exists = thread < threads;
        const SumItem item = sum_item(sampling, exists ? thread >> (__ffs(lanes) - 1) : 0);
        int level = 0;
        for (int tap0 = 0; tap0 < problem.taps; tap0 += lanes) {
            const int left = problem.taps - tap0, count = left < lanes ? left : lanes;
            const int tap = tap0 + (lane < count ? lane : 0);
            level = level_of(problem, tap, level);
            const SumSample own = locate_sum_sample(sampling, offset, mask, item, tap, level);
            const SumTangent tangent =
                    sum_tangent(problem, strides, own, offset_tangent, mask_tangent, item, tap);
            const SharedSample mine =
                    share_for_double_grads(sampling, own, tangent, exists && grad_input);
            const index_t own_index = pixel_index(strides.input, own);
            SumDots own_dots = {};
            for (int k = 0; k < count; ++k) {
                const SharedSample s = shared_by(mine, k, lanes);
                const index_t pixel = __shfl_sync(0xffffffff, own.pixel, k, lanes);
                const index_t tangent_index = __shfl_sync(0xffffffff, own_index, k, lanes);
                const int width = width_of_level(problem, s.flags);
                SumDots d = {};
                for (int v = 0; v < problem.vectors; ++v) {
                    const int c = (v * lanes + lane) * VECTOR;
                    const Vector grad = load_grad_output(params.grad_output, grad_output, item, c);
                    const scalar_t* const from =
                            input + (image_index(sampling.input, item, c) + s.index);
                    for (int j = 0; j < CORNERS; ++j) {
                        const index_t step = pixel_step(sampling.input, width, j);
                        add_dot(d.dots + j, grad, load_vector_if(s.flags & 1 << j, from + step));
                    }
                    const index_t first = image_index(strides.input, item, c) + tangent_index;
                    for (int j = 0; input_tangent && j < CORNERS; ++j) {
                        const scalar_t* const at =
                                input_tangent + (first + pixel_step(strides.input, width, j));
                        add_dot(d.dots_tangent + j, grad, load_vector_if(s.flags & 1 << j, at));
                    }
                    const index_t to =
                            dense_index(problem, item.image - params.first_image, pixel, item.group)
                            + c;
                    for (int j = 0; j < CORNERS; ++j) {
                        if (s.flags & RECEIVES_GRAD << j) {
                            add_vector(
                                    grad_input + (to + dense_step(problem, width, j)),
                                    scaled(s.weights[j], grad));
                        }
                    }
                }
                sum_over_lanes(lanes, d.dots);
                sum_over_lanes(lanes, d.dots_tangent);
                own_dots = k == lane ? d : own_dots;
            }
            if (exists && lane < count) {
                write_sum_grads(
                        params.strides, item, tap,
                        sum_double_grads(problem, own, tangent, &own_dots), grad_offset, grad_mask);
            }
        }
    }
}
