// deform_backward: gradients of input, offset and mask from the columns' gradient, in one pass.
//
//   input        (images, *size, C)               channels contiguous, other strides free
//   offset       (N, AXES*OG*taps, *out)          any strides; one displacement per axis and tap
//   mask         (N, OG*taps, *out)               any strides; may be absent
//   columns      (groups, positions, ld_columns)  in: their gradient, each element read once;
//                                                 out, if `params.write_columns`: the columns
//   grad_input   (images, *size, C)  acc_t        accumulated in no fixed order; may be absent
//   grad_offset  as offset, contiguous            each element of the launch written; may be absent
//   grad_mask    as mask, contiguous              each element of the launch written; may be absent
//
// Threads work as in deform_im2col. Each corner is read once, for all gradients. The gradients of
// offset and mask follow from the corner dots, the dot products over channels of each corner and
// the gradient. The lanes of a group reduce them by shuffles and store them in the sample's record;
// the thread that made the record computes the gradients from them.

// Number of corners whose pixels a thread keeps in registers at a time, and resident blocks per
// multiprocessor. Eight corners, in three dimensions, would need too many registers to be kept at
// once, or to allow four blocks.
const int BATCH = AXES < 3 ? CORNERS : 2;
const int BLOCKS = AXES < 3 ? 4 : 3;

// Process one vector of channels of one sample: accumulate corner_dots, scatter to grad_input and
// write the column.
__device__ inline void backprop_vector(
        const Backward& params, const SampleRecord record, const scalar_t* __restrict__ input,
        scalar_t* __restrict__ columns, acc_t* __restrict__ grad_input, int c, acc_t* corner_dots) {
    const Sampling& sampling = params.sampling;
    scalar_t* const column = columns + record_column(sampling.problem, params.layout, record, c);
    const Vector grad = load_vector(column);
    Vector value = zero_vector();
    for (int first = 0; first < CORNERS; first += BATCH) {
        Vector pixel[BATCH];
        for (int i = 0; i < BATCH; ++i) {
            const int j = first + i;
            pixel[i] = load_corner(sampling, record, input, j, c, record.flags & 1 << j);
        }
        for (int i = 0; i < BATCH; ++i) {
            const int j = first + i;
            add_dot(corner_dots + j, grad, pixel[i]);
            add_scaled(&value, record.corner_weights[j], pixel[i]);
            scatter_to_corner(sampling, record, grad, j, c, grad_input);
        }
    }
    if (params.write_columns) {
        // At a coordinate of -1 the sample is 0, but 0 times an infinite corner would be NaN.
        const bool contributes = record.flags & IN_BOUNDS * CONTRIBUTES;
        store_vector(column, scaled(record.mask, contributes ? value : zero_vector()));
    }
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS) deform_backward(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, scalar_t* __restrict__ columns,
        acc_t* __restrict__ grad_input, scalar_t* __restrict__ grad_offset,
        scalar_t* __restrict__ grad_mask, Backward params) {
    const Sampling& sampling = params.sampling;
    const ColumnLayout& layout = params.layout;
    SampleRecord* records = reinterpret_cast<SampleRecord*>(dynamic_shared());
    SampleRecord* const my_record = records + threadIdx.x;
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < sampling.samples;
         first += grid_threads()) {
        const int count = record_count(sampling, first);
        if (threadIdx.x < count) {
            const SampleIndex index = unravel_sample(sampling, first + threadIdx.x);
            const Sample s = locate_sample(sampling, offset, mask, index);
            SampleRecord record = make_column_record(sampling, layout, s, index);
            record.flags |= grad_input ? corners_receiving_grad(record) : 0;
            *my_record = record;
            if (params.write_columns) {
                write_row_padding_once(sampling.problem, layout, index, columns);
            }
        }
        __syncthreads();
        acc_t corner_dots[CORNERS] = {};
        for (VectorIter it = first_vector(sampling); it.record < count;
             it = next_vector(sampling, it, VECTOR)) {
            const int k = it.record + lane_group_of(sampling.lanes);
            const int c = it.channel + lane_of(sampling.lanes) * VECTOR;
            if (k < count) {
                backprop_vector(params, records[k], input, columns, grad_input, c, corner_dots);
            }
            if (next_vector(sampling, it, VECTOR).channel == 0) {
                reduce_lanes(sampling.lanes, corner_dots, k < count, dots_of(records[k]));
                for (int j = 0; j < CORNERS; ++j) {
                    corner_dots[j] = 0;
                }
            }
        }
        __syncthreads();
        if (threadIdx.x < count) {
            write_grads_of_record(sampling, first, *my_record, grad_offset, grad_mask);
        }
    }
}
