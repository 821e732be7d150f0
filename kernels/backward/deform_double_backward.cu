// deform_double_backward: gradients of sum(c * tangent of columns + o * columns), in one pass.
//
//   input, input_tangent, offset, mask,
//   offset_tangent, mask_tangent                   as for deform_im2col_jvp
//   columns      (groups, positions, ld_columns)   in: c, product of grad_output and the weight;
//                                                  out, if `params.write_columns`: the tangent of
//                                                  the columns
//   grad_columns_of_weight_tangent  as columns     o, product of grad_output and the tangent of the
//                                                  weight; may be absent
//   grad_input   (images, *size, C)  acc_t         accumulated in no fixed order; may be absent
//   grad_offset  as offset, contiguous             elements of the launch written; may be absent
//   grad_mask    as mask, contiguous               elements of the launch written; may be absent
//
// Threads work as in deform_backward. The gradients of offset and mask need two dot products over
// channels per corner: dots = c.x and dots_tangent = c.v + o.x, where x is the pixel at the corner
// and v is the tangent of that pixel.

struct CornerDots {
    acc_t dots[CORNERS], dots_tangent[CORNERS];
};

__device__ inline OffsetMaskGrads offset_mask_grads(
        const Problem& problem, const SampleRecord& record, const SampleTangent& tangent,
        const CornerDots& reduced) {
    if (record.flags & NAN_COORD) {
        return nan_grads();
    }
    CornerDots corner;
    zero_out_of_bounds_dots(problem, record, reduced.dots, corner.dots);
    zero_out_of_bounds_dots(problem, record, reduced.dots_tangent, corner.dots_tangent);
    OffsetMaskGrads grads = {};
    if (!(record.flags & AT_MINUS_ONE && problem.zero_boundary_grad)) {
#pragma unroll
        for (int a = 0; a < AXES; ++a) {
            const acc_t slope = slope_along(record.frac, corner.dots, a);
            grads.offset[a] = record.mask * slope_along(record.frac, corner.dots_tangent, a)
                    + tangent.mask * slope;
            const acc_t term = tangent.displacement[a] * slope;
            grads.mask = a ? grads.mask + term : term;
        }
#pragma unroll
        for (int a = 0; a < AXES; ++a) {
            for (int b = a + 1; b < AXES; ++b) {
                const acc_t mixed = record.mask * mixed_derivative(record.frac, corner.dots, a, b);
                grads.offset[a] += tangent.displacement[b] * mixed;
                grads.offset[b] += tangent.displacement[a] * mixed;
            }
        }
    }
    for (int j = 0; j < CORNERS && !(record.flags & AT_MINUS_ONE); ++j) {
        grads.mask += corner_weight(record.frac, j) * corner.dots_tangent[j];
    }
    return grads;
}

// Process one vector of channels of one sample: accumulate the dot products, scatter to grad_input
// and write the tangent of the column. Both kinds of corner weight include the mask here.
__device__ inline void backprop_vector(
        const DoubleBackward& params, const SampleRecord& record, const SampleTangent& tangent,
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent,
        scalar_t* __restrict__ columns, const scalar_t* __restrict__ grad_columns_of_weight_tangent,
        acc_t* __restrict__ grad_input, int c, CornerDots* corner) {
    const Sampling& sampling = params.sampling;
    const index_t column = record_column(sampling.problem, params.layout, record, c);
    const Vector grad = load_vector(columns + column);
    const Vector grad_of_weight_tangent = grad_columns_of_weight_tangent
            ? load_vector(grad_columns_of_weight_tangent + column)
            : zero_vector();
    Vector value = zero_vector();
    for (int j = 0; j < CORNERS; ++j) {
        const unsigned in_bounds = record.flags & 1 << j;
        const Vector pixel = load_corner(sampling, record, input, j, c, in_bounds);
        add_dot(corner->dots + j, grad, pixel);
        add_scaled(&value, tangent.corner_weights[j], pixel);
        if (grad_columns_of_weight_tangent) {
            add_dot(corner->dots_tangent + j, grad_of_weight_tangent, pixel);
        }
    }
    for (int j = 0; input_tangent && j < CORNERS; ++j) {
        const scalar_t* const from =
                input_tangent + (tangent.input_index + strided_step(params.tangents.input, j) + c);
        const Vector pixel_tangent = load_vector_if(record.flags & 1 << j, from);
        add_dot(corner->dots_tangent + j, grad, pixel_tangent);
        add_scaled(&value, record.corner_weights[j], pixel_tangent);
    }
    for (int j = 0; j < CORNERS; ++j) {
        if (record.flags & RECEIVES_GRAD << j) {
            Vector contribution = scaled(tangent.corner_weights[j], grad);
            add_scaled(&contribution, record.corner_weights[j], grad_of_weight_tangent);
            add_vector(
                    grad_input + (record.dense_index + dense_step(sampling, j) + c), contribution);
        }
    }
    if (params.write_columns) {
        store_vector(columns + column, value);
    }
}

// Resident blocks per multiprocessor. With 64-bit indices or eight corners, the register count
// allows only two.
const int BLOCKS = sizeof(index_t) == 8 || AXES == 3 ? 2 : 3;

extern "C" __global__ void __launch_bounds__(256, BLOCKS) deform_double_backward(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent,
        const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        const scalar_t* __restrict__ offset_tangent, const scalar_t* __restrict__ mask_tangent,
        scalar_t* __restrict__ columns, const scalar_t* __restrict__ grad_columns_of_weight_tangent,
        acc_t* __restrict__ grad_input, scalar_t* __restrict__ grad_offset,
        scalar_t* __restrict__ grad_mask, DoubleBackward params) {
    const Sampling& sampling = params.sampling;
    const ColumnLayout& layout = params.layout;
    SampleRecord* records = reinterpret_cast<SampleRecord*>(dynamic_shared());
    SampleTangent* tangents = reinterpret_cast<SampleTangent*>(records + blockDim.x);
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < sampling.samples;
         first += grid_threads()) {
        const int count = record_count(sampling, first);
        if (threadIdx.x < count) {
            const SampleIndex index = unravel_sample(sampling, first + threadIdx.x);
            const Sample s = locate_sample(sampling, offset, mask, index);
            SampleTangent tangent = load_sample_tangent(
                    sampling, params.tangents, s, offset_tangent, mask_tangent, index);
            SampleRecord record = make_column_record(sampling, layout, s, index);
            complete_tangent(params.tangents, s, index, record.first_channel, &tangent);
            for (int j = 0; j < CORNERS; ++j) {
                const bool contributes = record.flags & CONTRIBUTES << j;
                const acc_t weight = scatter_weight(record.corner_weights[j], record.mask);
                record.corner_weights[j] = contributes ? weight : static_cast<acc_t>(0);
            }
            record.flags |= grad_input ? (record.flags & IN_BOUNDS) * RECEIVES_GRAD : 0;
            records[threadIdx.x] = record;
            tangents[threadIdx.x] = tangent;
            if (params.write_columns) {
                write_row_padding_once(sampling.problem, layout, index, columns);
            }
        }
        __syncthreads();
        CornerDots corner = {};
        for (VectorIter it = first_vector(sampling); it.record < count;
             it = next_vector(sampling, it, VECTOR)) {
            const int k = it.record + lane_group_of(sampling.lanes);
            const int c = it.channel + lane_of(sampling.lanes) * VECTOR;
            if (k < count) {
                backprop_vector(
                        params, records[k], tangents[k], input, input_tangent, columns,
                        grad_columns_of_weight_tangent, grad_input, c, &corner);
            }
            if (next_vector(sampling, it, VECTOR).channel == 0) {
                reduce_lanes(sampling.lanes, corner.dots, k < count, dots_of(records[k]));
                reduce_lanes(sampling.lanes, corner.dots_tangent, k < count, dots_of(tangents[k]));
                corner = {};
            }
        }
        __syncthreads();
        if (threadIdx.x < count) {
            const SampleRecord record = records[threadIdx.x];
            const SampleTangent tangent = tangents[threadIdx.x];
            CornerDots reduced;
            for (int j = 0; j < CORNERS; ++j) {
                reduced.dots[j] = dots_of(record)[j];
                reduced.dots_tangent[j] = dots_of(tangent)[j];
            }
            // Recomputed to save registers, as in write_grads_of_record.
            const SampleIndex index = unravel_sample(sampling, first + opaque(threadIdx.x));
            const OffsetMaskGrads grads =
                    offset_mask_grads(sampling.problem, record, tangent, reduced);
            write_offset_mask_grads(sampling, index, grads, grad_offset, grad_mask);
        }
    }
}
