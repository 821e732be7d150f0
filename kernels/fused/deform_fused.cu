// deform_fused: the whole forward pass without columns: sample into shared memory, multiply there.
//
//   input    (images, H, W, C)        channels contiguous, other strides free
//   offset   (N, 2*OG*KH*KW, OH, OW)  any strides; (dy, dx) of each tap
//   mask     (N, OG*KH*KW, OH, OW)    any strides; may be absent
//   packed   the weight, see pack_weight_fused
//   bias     (O,)                     any stride; may be absent
//   output   (N, O, OH, OW)           any strides; every element of the launch written once, unless
//                                     there are several splits
//   partial  (splits, images, O, rows, OW) float  contiguous, without the bias; every element
//                                     written once if there are several splits, else unused
//
// A block computes a tile of TILE_M positions by TILE_N output channels of a group, over one split:
// a range of the stages. While its warps multiply a stage, the corners of the next one are being
// loaded to registers, and its weights to shared memory. Both operands are double-buffered, so a
// stage costs one barrier. The positions of a tile are a rectangle of `tile_w` columns, whose
// samples are near each other, or a run if `tile_w` is 0.

// The part of the output that a block computes. A strip is TILE_N output channels of a group.
struct BlockIndex {
    int tile, split, group, strip;
};

__device__ inline int strips_of(const Problem& problem) {
    return (problem.out_channels / problem.groups + TILE_N - 1) / TILE_N;
}

// Blocks of the same positions are adjacent: they read the same corners.
__device__ inline BlockIndex block_index(const Fused& params) {
    const Problem& problem = params.sampling.problem;
    BlockIndex block;
    int rest = blockIdx.x / strips_of(problem);
    block.strip = blockIdx.x - rest * strips_of(problem);
    block.group = rest % problem.groups;
    rest /= problem.groups;
    block.tile = rest / params.splits;
    block.split = rest - block.tile * params.splits;
    return block;
}

// Start to copy the weights of a stage; `from` and `to` are the addresses of the thread's first
// vec16_t.
__device__ inline void copy_weights(const vec16_t* __restrict__ from, vec16_t* to) {
#pragma unroll
    for (int i = 0; i < (B_VECS + THREADS - 1) / THREADS; ++i) {
        if (B_VECS % THREADS == 0 || threadIdx.x + i * THREADS < B_VECS) {
            copy16_async(to + i * THREADS, from + i * THREADS);
        }
    }
}

// Indices in the output of a thread's rows, for output channel 0.
struct OutputAddrs {
    index_t index[2 * WARP_ROWS];
    unsigned valid;  // bit i: row i is a position
};

__device__ inline OutputAddrs output_addrs(const Fused& params, const OutputPosition* positions) {
    const Sampling& sampling = params.sampling;
    const index_t plane = static_cast<index_t>(sampling.chunk.rows) * sampling.problem.out[1];
    OutputAddrs addrs;
    addrs.valid = 0;
#pragma unroll
    for (int i = 0; i < 2 * WARP_ROWS; ++i) {
        const OutputPosition at = positions[accumulator_row() + 8 * i];
        const int pixel[] = {at.row, at.col};
        addrs.index[i] = params.splits > 1
                ? at.image * sampling.problem.out_channels * plane
                        + (at.row - sampling.chunk.first_row) * sampling.problem.out[1] + at.col
                : strided_index(params.output, sampling.chunk.first_image + at.image, 0, pixel);
        addrs.valid |= at.image < 0 ? 0 : 1 << i;
    }
    return addrs;
}

// The output channel of column j of a thread's sums; -1 if there is none.
__device__ inline int column_channel(const Problem& problem, const BlockIndex& block, int j) {
    const int group_out = problem.out_channels / problem.groups;
    const int in_group = block.strip * TILE_N + accumulator_column() + j / 2 * 8 + j % 2;
    return in_group < group_out ? block.group * group_out + in_group : -1;
}

__device__ inline void write_sums(
        const Fused& params, const BlockIndex& block, const OutputPosition* positions,
        const Accumulators& sums, const scalar_t* __restrict__ bias, scalar_t* __restrict__ output,
        float* __restrict__ partial) {
    const Sampling& sampling = params.sampling;
    const int columns = 4 * WARP_COLUMNS;
    const index_t plane = static_cast<index_t>(sampling.chunk.rows) * sampling.problem.out[1];
    const OutputAddrs addrs = output_addrs(params, positions);
    // All loads are issued before the first value is used.
    float biases[columns];
#pragma unroll
    for (int j = 0; j < columns; ++j) {
        const int o = column_channel(sampling.problem, block, j);
        biases[j] = bias && params.splits == 1 && o >= 0 ? to_acc(bias[o * params.bias_stride]) : 0;
    }
#pragma unroll
    for (int j = 0; j < columns; ++j) {
        const int o = column_channel(sampling.problem, block, j);
#pragma unroll
        for (int i = 0; i < 2 * WARP_ROWS; ++i) {
            const float sum = sums.v[i / 2][j / 2][i % 2 * 2 + j % 2];
            if (o < 0 || !(addrs.valid >> i & 1)) {
                continue;
            }
            if (params.splits > 1) {
                partial[block.split * params.split_size + o * plane + addrs.index[i]] = sum;
            } else {
                from_acc(sum + biases[j], output + (o * params.output.c + addrs.index[i]));
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) deform_fused(
        const scalar_t* __restrict__ input, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, const vec16_t* __restrict__ packed,
        const scalar_t* __restrict__ bias, scalar_t* __restrict__ output,
        float* __restrict__ partial, Fused params) {
    const Sampling& sampling = params.sampling;
    vec16_t* const a = reinterpret_cast<vec16_t*>(dynamic_shared());
    vec16_t* const b = a + 2 * A_VECS;
    FusedSamples samples;
    samples.records = reinterpret_cast<FusedRecord*>(b + 2 * B_VECS);
    samples.positions = reinterpret_cast<OutputPosition*>(
            samples.records + recorded_taps(params.layout) * TILE_M);
    samples.corners = reinterpret_cast<unsigned char*>(samples.positions + TILE_M);
    const BlockIndex block = block_index(params);
    const int begin = block.split * params.split_stages, left = params.stages - begin;
    const int end = begin + (left < params.split_stages ? left : params.split_stages);
    const KLayout layout = {
            opaque(params.layout.taps), opaque(params.layout.taps_per_batch),
            opaque(params.layout.channel_blocks)};
    const int first_channel = opaque(block.group * sampling.problem.group_channels);
    const int thread = opaque(threadIdx.x);
    const ThreadSlice slice = thread_slice(sampling);
    const LdmatrixRows ldmatrix = ldmatrix_rows();
    KIter it = k_iter_at(layout, begin);
    locate_positions(params, block.tile, samples);
    __syncthreads();
    record_samples(params, offset, mask, samples, layout, first_channel, it);
    __syncthreads();
    Corners corners;
    load_corners(input, samples, slice, it, &corners);
    const index_t strip =
            static_cast<index_t>(block.group) * strips_of(sampling.problem) + block.strip;
    const vec16_t* weights = packed + (strip * params.stages + begin) * B_VECS + thread;
    copy_weights(weights, b + thread);
    Accumulators sums;
    clear(&sums);
    int buffer = 0;
    for (int stage = begin; stage < end; ++stage) {
        store_samples(samples, slice, it, corners, a + buffer * A_VECS);
        wait_for_copies();
        __syncthreads();
        it = next_stage(layout, it);
        if (stage + 1 < end) {
            if (it.block == 0 && it.vec == 0) {
                record_samples(params, offset, mask, samples, layout, first_channel, it);
                __syncthreads();
            }
            load_corners(input, samples, slice, it, &corners);
            weights += B_VECS;
            copy_weights(weights, b + (1 - buffer) * B_VECS + thread);
        }
        multiply_stage(a + buffer * A_VECS, b + buffer * B_VECS, ldmatrix, &sums);
        buffer = 1 - buffer;
    }
    write_sums(params, block, samples.positions, sums, bias, output, partial);
}
