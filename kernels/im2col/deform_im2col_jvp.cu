// deform_im2col_jvp: the tangent of the columns, for tangents of input, offset and mask.
//
//   input          (images, *size, C)               channels contiguous, other strides free
//   input_tangent  (images, *size, C)               likewise, with its own strides; may be absent
//   offset, mask                                    as for deform_im2col
//   offset_tangent, mask_tangent                    as offset and mask, any strides; may be absent
//   columns        (groups, positions, ld_columns)  every element written once, none read
//
// Threads work as in deform_im2col; a second array in shared memory holds the samples' tangents.
// The tangent of a column is the sum over the corners of dw * x + w * dx: w is the weight of a
// corner, x its pixel, dw and dx are the tangents of these. Both w and dw include the mask here.

__device__ inline Vector tangent_vector(
        const Im2colJvp& params, const SampleRecord& record, const SampleTangent& tangent,
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent, int c) {
    Vector value = zero_vector();
    for (int j = 0; j < CORNERS; ++j) {
        const unsigned in_bounds = record.flags & 1 << j;
        add_scaled(
                &value, tangent.corner_weights[j],
                load_corner(params.sampling, record, input, j, c, in_bounds));
    }
    for (int j = 0; input_tangent && j < CORNERS; ++j) {
        const scalar_t* const from =
                input_tangent + (tangent.input_index + strided_step(params.tangents.input, j) + c);
        add_scaled(
                &value, record.corner_weights[j],
                load_vector_if(record.flags & CONTRIBUTES << j, from));
    }
    return value;
}

extern "C" __global__ void deform_im2col_jvp(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ input_tangent,
        const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        const scalar_t* __restrict__ offset_tangent, const scalar_t* __restrict__ mask_tangent,
        scalar_t* __restrict__ columns, Im2colJvp params) {
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
                record.corner_weights[j] = contributes ? record.corner_weights[j] * record.mask
                                                       : static_cast<acc_t>(0);
            }
            records[threadIdx.x] = record;
            tangents[threadIdx.x] = tangent;
            write_row_padding_once(sampling.problem, layout, index, columns);
        }
        __syncthreads();
        for (VectorIter it = first_vector(sampling); it.record < count;
             it = next_vector(sampling, it, VECTOR)) {
            const int k = it.record + lane_group_of(sampling.lanes);
            const int c = it.channel + lane_of(sampling.lanes) * VECTOR;
            if (k < count) {
                const SampleRecord record = records[k];
                store_vector(
                        columns + record_column(sampling.problem, layout, record, c),
                        tangent_vector(params, record, tangents[k], input, input_tangent, c));
            }
        }
        __syncthreads();
    }
}
