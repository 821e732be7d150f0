// deform_im2col: sample the input at every deformed tap and lay the samples out as columns.
//
//   input    (images, H, W, C)            channels are neighbours, other strides are free
//   offset   (N, 2*OG*KH*KW, OH, OW)      any strides; (dy, dx) of each tap
//   mask     (N, OG*KH*KW, OH, OW)        any strides; may be absent
//   columns  (groups, positions, leading) every element written once, none read
//
// A block plans as many samples as it has threads, one each, in shared memory. Then `lanes`
// neighbouring threads share a sample and walk its channels, VECTOR at a time, so that loads and
// stores of 16 bytes lie side by side.

extern "C" __global__ void deform_im2col(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, scalar_t* __restrict__ columns, Launch p) {
    Plan* plans = reinterpret_cast<Plan*>(dynamic_shared());
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.samples;
         first += item_stride()) {
        const int count = samples_from(p, first);
        if (threadIdx.x < count) {
            const Place at = place_of(p, first + threadIdx.x);
            plans[threadIdx.x] = column_plan_of(p, sample_of(p, offset, mask, at), at);
            end_rows_once(p, at, columns);
        }
        __syncthreads();
        for (Round at = first_round(p); at.k < count; at = next_round(p, at, VECTOR)) {
            const int k = at.k + slot_of(p), c = at.c + lane_of(p) * VECTOR;
            if (k < count) {
                const Plan plan = plans[k];
                store_vector(columns + cell_of(p, plan, c), sample_value(p, plan, input, c));
            }
        }
        __syncthreads();
    }
}
