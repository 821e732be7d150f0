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
    const int group_channels = p.g.channels / p.g.offset_groups;
    const int lane = threadIdx.x & (p.lanes - 1);
    for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < p.samples;
         first += item_stride()) {
        const int count = samples_from(p, first);
        if (threadIdx.x < count) {
            const Place at = place_of(p, first + threadIdx.x);
            const Sample s = sample_of(p, offset, mask, at);
            put_plan(p, s, at, plans + threadIdx.x, columns);
        }
        __syncthreads();
        for (int k = threadIdx.x / p.lanes; k < count; k += blockDim.x / p.lanes) {
            const Plan& plan = plans[k];
            for (int c = lane * VECTOR; c < group_channels; c += p.lanes * VECTOR) {
                const index_t to = column_of(p, plan.position, plan.tap, plan.channel + c);
                store_vector(columns + to, sample_value(p, plan, input, c));
            }
        }
        __syncthreads();
    }
}
