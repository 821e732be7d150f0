// deform_gather: gradient of the input without atomics, last step of the ordered gather.
//
//   columns     (groups, positions, leading)  gradient of the columns
//   counts, starts  (images, OG, H+1, W+1)    run of each cell in `ordered`
//   ordered     (samples,)                    samples, cell by cell, ascending
//   weights     (samples, 4)  acc_t           weights of the corners, mask included
//   grad_input  (images, H, W, C)  acc_t      every element written once; where `p.accumulate`, added
//                                             to what earlier rows of the same images left
//
// `lanes` neighbouring threads share a pixel of an offset group and walk its channels, VECTOR at a
// time. The pixel is a corner of four cells; their runs are merged, so that it adds its samples in
// ascending order whatever the launch holds: sums are the same bits however work was cut.

struct Run { int next, end; };

__device__ inline Run run_of(
        const Launch& p, const int* __restrict__ counts, const int* __restrict__ starts,
        index_t plane, int y, int x) {
    const index_t cell = (plane * (p.g.in_h + 1) + y) * (p.g.in_w + 1) + x;
    return {starts[cell], starts[cell] + counts[cell]};
}

// The run with the smallest sample, -1 when all are at their end.
__device__ inline int first_run(const Run* runs, const int* __restrict__ ordered, int* sample) {
    int first = -1;
    for (int j = 0; j < 4; ++j) {
        if (runs[j].next < runs[j].end && (first < 0 || ordered[runs[j].next] < *sample)) {
            first = j;
            *sample = ordered[runs[j].next];
        }
    }
    return first;
}

__device__ inline Vector gather_vector(
        const Launch& p, const scalar_t* __restrict__ columns, const int* __restrict__ ordered,
        const acc_t* __restrict__ weights, const Run* begin, int channel, Vector sum) {
    const int taps = p.g.kernel_h * p.g.kernel_w;
    Run runs[4] = {begin[0], begin[1], begin[2], begin[3]};
    int sample = 0;
    for (int j = first_run(runs, ordered, &sample); j >= 0; j = first_run(runs, ordered, &sample)) {
        const int pair = sample / p.g.offset_groups;
        const index_t from = column_of(p, pair / taps, pair % taps, channel);
        const acc_t weight = weights[4 * static_cast<index_t>(sample) + j];
        if (weight != 0) {
            add_scaled(&sum, weight, load_vector(columns + from));
        }
        for (int k = 0; k < 4; ++k) {
            runs[k].next += k == j;
        }
    }
    return sum;
}

extern "C" __global__ void deform_gather(
        const scalar_t* __restrict__ columns, const int* __restrict__ counts,
        const int* __restrict__ starts, const int* __restrict__ ordered,
        const acc_t* __restrict__ weights, acc_t* __restrict__ grad_input, Launch p) {
    const int group_channels = p.g.channels / p.g.offset_groups;
    const int lane = threadIdx.x & (p.lanes - 1);
    const index_t targets =
        static_cast<index_t>(p.images) * p.g.in_h * p.g.in_w * p.g.offset_groups;
    for (index_t target = first_item() / p.lanes; target < targets;
         target += item_stride() / p.lanes) {
        const int og = static_cast<int>(target % p.g.offset_groups);
        const index_t pixel = target / p.g.offset_groups;
        const int x = static_cast<int>(pixel % p.g.in_w);
        const int y = static_cast<int>(pixel / p.g.in_w % p.g.in_h);
        const index_t image = pixel / p.g.in_w / p.g.in_h;
        const index_t plane = image * p.g.offset_groups + og;
        // The pixel is corner j of cell j: top left of the one that bears its name, and so on.
        Run runs[4];
        for (int j = 0; j < 4; ++j) {
            runs[j] = run_of(p, counts, starts, plane, y + 1 - (j >> 1), x + 1 - (j & 1));
        }
        for (int c = lane * VECTOR; c < group_channels; c += p.lanes * VECTOR) {
            const int channel = og * group_channels + c;
            acc_t* const cell = grad_input + pixel * p.g.channels + channel;
            Vector sum = zero_vector();
            for (int i = 0; p.accumulate && i < VECTOR; ++i) {
                sum.v[i] = cell[i];
            }
            sum = gather_vector(p, columns, ordered, weights, runs, channel, sum);
            for (int i = 0; i < VECTOR; ++i) {
                cell[i] = sum.v[i];
            }
        }
    }
}
