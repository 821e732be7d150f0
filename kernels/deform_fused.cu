// deform_fused: the whole forward pass, without columns: sample into shared memory, multiply there.
//
//   input    (images, H, W, C)        channels are neighbours, other strides are free
//   offset   (N, 2*OG*KH*KW, OH, OW)  any strides; (dy, dx) of each tap
//   mask     (N, OG*KH*KW, OH, OW)    any strides; may be absent
//   packed   the weight, see pack_tiles
//   bias     (O,)                     any stride; may be absent
//   output   (N, O, OH, OW)           any strides; every element of the launch written once
//   partial  (parts, images, O, rows, OW) float, without gaps and without the bias: instead of the
//                                     output where there are several parts
//
// Each block takes one tile of TILE_M positions by TILE_N output channels of a group, and one part of
// the stages. While the warps multiply a stage, the samples of the next are on their way to registers and
// its weights to shared memory; both kinds of buffer are double, so a stage costs one barrier. Positions
// of a tile are a rectangle of `tile_w` columns, whose samples are near each other, or with 0 a run.

struct Job { int tile, part, group, strip; };  // a strip is TILE_N output channels of the group

__device__ inline int strips_of(const Launch& p) {
    return (p.g.out_channels / p.g.groups + TILE_N - 1) / TILE_N;
}

// Strips are next to each other, since they sample the same.
__device__ inline Job job_of(const Launch& p) {
    Job job;
    int rest = blockIdx.x / strips_of(p);
    job.strip = blockIdx.x - rest * strips_of(p);
    job.group = rest % p.g.groups;
    rest /= p.g.groups;
    job.tile = rest / p.parts;
    job.part = rest - job.tile * p.parts;
    return job;
}

// Begin to copy the weights of a stage; `from` and `to` are those of the thread's first unit.
__device__ inline void copy_weights(const vec16_t* __restrict__ from, vec16_t* to) {
#pragma unroll
    for (int i = 0; i < (B_UNITS + THREADS - 1) / THREADS; ++i) {
        if (B_UNITS % THREADS == 0 || threadIdx.x + i * THREADS < B_UNITS) {
            copy16_async(to + i * THREADS, from + i * THREADS);
        }
    }
}

// Where the sums of a thread's rows go, seen from those of channel 0; a bit for each row that is one.
struct Goals {
    index_t at[2 * WARP_ROWS];
    unsigned there;
};

__device__ inline Goals goals_of(const Launch& p, const Spot* spots) {
    const index_t plane = static_cast<index_t>(p.rows) * p.g.out_w;
    Goals goals;
    goals.there = 0;
#pragma unroll
    for (int i = 0; i < 2 * WARP_ROWS; ++i) {
        const Spot spot = spots[first_row() + 8 * i];
        goals.at[i] = p.parts > 1
            ? spot.image * p.g.out_channels * plane + (spot.row - p.first_row) * p.g.out_w + spot.col
            : element_of(p.output, p.first_image + spot.image, 0, spot.row, spot.col);
        goals.there |= spot.image < 0 ? 0 : 1 << i;
    }
    return goals;
}

// Channel of the output that a column of the thread's sums is of; -1 where there is none.
__device__ inline int column_channel(const Launch& p, const Job& job, int j) {
    const int group_out = p.g.out_channels / p.g.groups;
    const int in_group = job.strip * TILE_N + first_column() + j / 2 * 8 + j % 2;
    return in_group < group_out ? job.group * group_out + in_group : -1;
}

__device__ inline void write_sums(
        const Launch& p, const Job& job, const Spot* spots, const Sums& sums,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ output,
        float* __restrict__ partial) {
    const int columns = 4 * WARP_COLUMNS;
    const index_t plane = static_cast<index_t>(p.rows) * p.g.out_w;
    const Goals goals = goals_of(p, spots);
    // All are on their way before one is needed.
    float biases[columns];
#pragma unroll
    for (int j = 0; j < columns; ++j) {
        const int o = column_channel(p, job, j);
        biases[j] = bias && p.parts == 1 && o >= 0 ? to_acc(bias[o * p.bias]) : 0;
    }
#pragma unroll
    for (int j = 0; j < columns; ++j) {
        const int o = column_channel(p, job, j);
#pragma unroll
        for (int i = 0; i < 2 * WARP_ROWS; ++i) {
            const float sum = sums.v[i / 2][j / 2][i % 2 * 2 + j % 2];
            if (o < 0 || !(goals.there >> i & 1)) {
                continue;
            }
            if (p.parts > 1) {
                partial[job.part * p.part_size + o * plane + goals.at[i]] = sum;
            } else {
                from_acc(sum + biases[j], output + (o * p.output.c + goals.at[i]));
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) deform_fused(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const vec16_t* __restrict__ packed,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ output,
        float* __restrict__ partial, Launch p) {
    vec16_t* const a = reinterpret_cast<vec16_t*>(dynamic_shared());
    vec16_t* const b = a + 2 * A_UNITS;
    Plans plans;
    plans.aims = reinterpret_cast<Aim*>(b + 2 * B_UNITS);
    plans.spots = reinterpret_cast<Spot*>(plans.aims + planned_taps(route_of(p)) * TILE_M);
    plans.held = reinterpret_cast<unsigned char*>(plans.spots + TILE_M);
    const Job job = job_of(p);
    const int begin = job.part * p.part_stages, left = p.stages - begin;
    const int end = begin + (left < p.part_stages ? left : p.part_stages);
    const Route route = {kept(p.route_taps), kept(p.plan_taps), kept(p.chunks)};
    const int first_channel = kept(job.group * p.group_channels);
    const int thread = kept(threadIdx.x);
    const Share share = share_of(p);
    const Given given = given_units();
    Cursor at = cursor_of(route, begin);
    take_places(p, job.tile, plans);
    __syncthreads();
    take_aim(p, offset, mask, plans, route, first_channel, at);
    __syncthreads();
    Corners corners;
    load_corners(input, plans, share, at, &corners);
    const index_t strip = static_cast<index_t>(job.group) * strips_of(p) + job.strip;
    const vec16_t* weights = packed + (strip * p.stages + begin) * B_UNITS + thread;
    copy_weights(weights, b + thread);
    Sums sums;
    clear(&sums);
    int second = 0;  // whether the second buffers are in use
    for (int stage = begin; stage < end; ++stage) {
        store_samples(plans, share, at, corners, a + second * A_UNITS);
        wait_for_copies();
        __syncthreads();
        at = next_stage(route, at);
        if (stage + 1 < end) {
            if (at.chunk == 0 && at.unit == 0) {
                take_aim(p, offset, mask, plans, route, first_channel, at);
                __syncthreads();
            }
            load_corners(input, plans, share, at, &corners);
            weights += B_UNITS;
            copy_weights(weights, b + (1 - second) * B_UNITS + thread);
        }
        multiply_stage(a + second * A_UNITS, b + second * B_UNITS, given, &sums);
        second = 1 - second;
    }
    write_sums(p, job, plans.spots, sums, bias, output, partial);
}
