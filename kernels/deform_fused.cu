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

// Begin to copy the weights of a stage.
__device__ inline void copy_weights(
        const Launch& p, const vec16_t* __restrict__ packed, const Job& job, int stage, vec16_t* b) {
    const int units = TILE_N * STAGE;
    const index_t strip = static_cast<index_t>(job.group) * strips_of(p) + job.strip;
    const vec16_t* const from = packed + (strip * p.stages + stage) * units;
#pragma unroll
    for (int k = threadIdx.x; k < units; k += THREADS) {
        copy16_async(b + k, from + k);
    }
}

__device__ inline void write_sum(
        const Launch& p, const Job& job, Spot spot, int column, float sum,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ output,
        float* __restrict__ partial) {
    const int group_out = p.g.out_channels / p.g.groups, in_group = job.strip * TILE_N + column;
    if (spot.image < 0 || in_group >= group_out) {
        return;
    }
    const int o = job.group * group_out + in_group;
    if (p.parts > 1) {
        const index_t plane = static_cast<index_t>(spot.image) * p.g.out_channels + o;
        const index_t line = plane * p.rows + spot.row - p.first_row;
        partial[job.part * p.part_size + line * p.g.out_w + spot.col] = sum;
    } else {
        const int n = p.first_image + spot.image;
        sum = bias ? sum + to_acc(bias[o * p.bias]) : sum;
        from_acc(sum, output + element_of(p.output, n, o, spot.row, spot.col));
    }
}

__device__ inline void write_sums(
        const Launch& p, const Job& job, const Spot* spots, const Sums& sums,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ output,
        float* __restrict__ partial) {
#pragma unroll
    for (int i = 0; i < 2 * WARP_ROWS; ++i) {
        const Spot spot = spots[first_row() + 8 * i];
#pragma unroll
        for (int j = 0; j < 4 * WARP_COLUMNS; ++j) {
            const int column = first_column() + j / 2 * 8 + j % 2;
            const float sum = sums.v[i / 2][j / 2][i % 2 * 2 + j % 2];
            write_sum(p, job, spot, column, sum, bias, output, partial);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) deform_fused(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const vec16_t* __restrict__ packed,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ output,
        float* __restrict__ partial, Launch p) {
    const int a_units = TILE_M * STAGE, b_units = TILE_N * STAGE;
    vec16_t* const a = reinterpret_cast<vec16_t*>(dynamic_shared());
    vec16_t* const b = a + 2 * a_units;
    Plans plans;
    plans.aims = reinterpret_cast<Aim*>(b + 2 * b_units);
    plans.spots = reinterpret_cast<Spot*>(plans.aims + p.plan_taps * TILE_M);
    const Job job = job_of(p);
    const int begin = job.part * p.part_stages, left = p.stages - begin;
    const int end = begin + (left < p.part_stages ? left : p.part_stages);
    Cursor at = cursor_of(p, begin);
    take_places(p, job.tile, plans);
    __syncthreads();
    take_aim(p, offset, mask, plans, job.group, at);
    __syncthreads();
    Corners corners;
    load_corners(p, input, plans, job.group, at, &corners);
    copy_weights(p, packed, job, begin, b + begin % 2 * b_units);
    Sums sums;
    clear(&sums);
    for (int stage = begin; stage < end; ++stage) {
        const int buffer = stage % 2;
        store_samples(p, plans, at, corners, a + buffer * a_units);
        wait_for_copies();
        __syncthreads();
        const int units = batch_taps(p, at) * CHUNK_UNITS - at.unit;
        at = next_stage(p, at);
        if (stage + 1 < end) {
            if (at.chunk == 0 && at.unit == 0) {
                take_aim(p, offset, mask, plans, job.group, at);
                __syncthreads();
            }
            load_corners(p, input, plans, job.group, at, &corners);
            copy_weights(p, packed, job, stage + 1, b + (1 - buffer) * b_units);
        }
        multiply_stage(a + buffer * a_units, b + buffer * b_units, units, &sums);
    }
    write_sums(p, job, plans.spots, sums, bias, output, partial);
}
