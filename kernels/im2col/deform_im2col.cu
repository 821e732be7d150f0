// deform_im2col: sample the input at every deformed tap and write the samples as columns.
//
//   input    (images, H, W, C)                channels are neighbours, other strides are free
//   offset   (N, 2*OG*KH*KW, OH, OW)          any strides; (dy, dx) of each tap
//   mask     (N, OG*KH*KW, OH, OW)            any strides; may be absent
//   columns  (groups, positions, ld_columns)  every element written once, none read
//
// A block makes a sample record a thread; see sample_record.cuh. Then each lane group takes a sample,
// and its lanes take neighbouring vectors of channels, so that loads and stores of 16 bytes coalesce.

extern "C" __global__ void deform_im2col(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, scalar_t* __restrict__ columns, Launch params) {
    SampleRecord* records = reinterpret_cast<SampleRecord*>(dynamic_shared());
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < params.samples;
         first += grid_threads()) {
        const int count = record_count(params, first);
        if (threadIdx.x < count) {
            const SampleIndex index = unravel_sample(params, first + threadIdx.x);
            const Sample s = locate_sample(params, offset, mask, index);
            records[threadIdx.x] = make_column_record(params, s, index);
            write_row_padding_once(params, index, columns);
        }
        __syncthreads();
        for (VectorIter it = first_vector(params); it.record < count;
             it = next_vector(params, it, VECTOR)) {
            const int k = it.record + lane_group_of(params);
            const int c = it.channel + lane_of(params) * VECTOR;
            if (k < count) {
                const SampleRecord record = records[k];
                store_vector(columns + record_column(params, record, c),
                             sample_vector(params, record, input, c));
            }
        }
        __syncthreads();
    }
}
