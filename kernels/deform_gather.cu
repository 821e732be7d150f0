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

struct Run { int next, end, sample; };  // `sample` is the next one, NONE at the end

const int NONE = 0x7fffffff;  // more than any sample

__device__ inline int sample_at(const int* __restrict__ ordered, int next, int end) {
    return next < end ? ordered[next] : NONE;
}

__device__ inline Run run_of(
        const Launch& p, const int* __restrict__ counts, const int* __restrict__ starts,
        const int* __restrict__ ordered, index_t plane, int y, int x) {
    const index_t cell = (plane * (p.g.in_h + 1) + y) * (p.g.in_w + 1) + x;
    const int start = starts[cell], end = start + counts[cell];
    return {start, end, sample_at(ordered, start, end)};
}

__device__ inline Vector gather_vector(
        const Launch& p, const scalar_t* __restrict__ columns, const int* __restrict__ ordered,
        const acc_t* __restrict__ weights, const Run* begin, int channel, Vector sum) {
    const index_t first = column_of(p, 0, 0, channel);
    Run runs[4] = {begin[0], begin[1], begin[2], begin[3]};
    while (true) {
        Run least = runs[0];
        int corner = 0;
        for (int j = 1; j < 4; ++j) {
            const bool less = runs[j].sample < least.sample;
            corner = less ? j : corner;
            least = less ? runs[j] : least;
        }
        const int sample = least.sample;
        if (sample == NONE) {
            return sum;
        }
        ++least.next;
        least.sample = sample_at(ordered, least.next, least.end);
        for (int j = 0; j < 4; ++j) {
            runs[j] = j == corner ? least : runs[j];
        }
        const int pair = quotient(sample, p.by_offset_groups), position = quotient(pair, p.by_taps);
        const index_t row = first + position * p.leading;
        const index_t from = row + (pair - position * p.taps) * p.group_channels;
        const acc_t weight = weights[4 * static_cast<index_t>(sample) + corner];
        if (weight != 0) {
            add_scaled(&sum, weight, load_vector(columns + from));
        }
    }
}

extern "C" __global__ void deform_gather(
        const scalar_t* __restrict__ columns, const int* __restrict__ counts,
        const int* __restrict__ starts, const int* __restrict__ ordered,
        const acc_t* __restrict__ weights, acc_t* __restrict__ grad_input, Launch p) {
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
            runs[j] = run_of(p, counts, starts, ordered, plane, y + 1 - (j >> 1), x + 1 - (j & 1));
        }
        for (int c = lane_of(p) * VECTOR; c < p.offset_channels; c += p.lanes * VECTOR) {
            const int channel = og * p.offset_channels + c;
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
