// deform_im2col: sample the input at every deformed tap and write the samples as columns.
//
//   input    (images, *size, C)               channels contiguous, other strides free
//   offset   (N, AXES*OG*taps, *out)          any strides; one displacement per axis and tap
//   mask     (N, OG*taps, *out)               any strides; may be absent
//   columns  (groups, positions, ld_columns)  every element written once, none read
//
// Each thread of a block makes one sample record; see sample_record.cuh. Then each lane group
// processes one sample at a time: its lanes take adjacent vectors of channels, so that accesses of
// 16 bytes coalesce.

extern "C" __global__ void deform_im2col(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, scalar_t* __restrict__ columns, Im2col params) {
    const Sampling& sampling = params.sampling;
    const ColumnLayout& layout = params.layout;
    SampleRecord* records = reinterpret_cast<SampleRecord*>(dynamic_shared());
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < sampling.samples;
         first += grid_threads()) {
        const int count = record_count(sampling, first);
        if (threadIdx.x < count) {
            const SampleIndex index = unravel_sample(sampling, first + threadIdx.x);
            const Sample s = locate_sample(sampling, offset, mask, index);
            records[threadIdx.x] = make_column_record(sampling, layout, s, index);
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
                        sample_vector(sampling, record, input, c));
            }
        }
        __syncthreads();
    }
}
