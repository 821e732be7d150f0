// pack_weight_fused: the weight in the order in which deform_fused copies it to shared memory.
//
//   weight  (O, C/groups, KH, KW)  any strides
//   packed  (groups, strips of O/groups, stages, OPERAND_TERMS, TILE_N, STAGE_VECS) vec16_t
//                                  every element written once
//
// A strip is TILE_N output channels of a group. A thread writes a vec16_t at a time, in all its
// terms. Within a stage, vec16_t are in the order of swizzled(). Output channels beyond the last,
// and the unused part of a stage, are 0. For TF32 the weight is rounded here, for 3xTF32 it is
// split here, once.

// Load a vec16_t: contiguous input channels of a tap. `vec` counts from the first of the batch.
__device__ inline void load_weight_vec(
        const PackWeightFused& params, const scalar_t* __restrict__ weight, KIter it, int vec,
        int o, acc_t* values) {
    const Tap tap = tap_at(params.problem, params.layout, it, vec / CHANNEL_BLOCK_VECS);
    const int c = tap.channel + it.block * CHANNEL_BLOCK + vec % CHANNEL_BLOCK_VECS * VECTOR;
    int tap_at[AXES];
    unravel(tap.tap, params.problem.kernel, params.problem.by_kernel, tap_at);
    const scalar_t* const from = weight + strided_index(params.weight, o, c, tap_at);
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        values[k] = to_acc(from[k * params.weight.c]);
    }
}

extern "C" __global__ void pack_weight_fused(
        const scalar_t* __restrict__ weight, vec16_t* __restrict__ packed, PackWeightFused params) {
    const int group_out = params.problem.out_channels / params.problem.groups;
    const int strips = (group_out + TILE_N - 1) / TILE_N;
    const KLayout& layout = params.layout;
    const index_t vecs =
            static_cast<index_t>(params.problem.groups) * strips * params.stages * B_TERM_VECS;
    for (index_t item = global_thread(); item < vecs; item += grid_threads()) {
        const index_t tile = item / B_TERM_VECS, strip = tile / params.stages;
        const int slot = static_cast<int>(item - tile * B_TERM_VECS), row = slot / STAGE_VECS;
        const int group = static_cast<int>(strip / strips);
        const int in_group = static_cast<int>(strip - group * strips) * TILE_N + row;
        const KIter it = k_iter_at(layout, static_cast<int>(tile - strip * params.stages));
        const int vec = it.vec + swizzled(row, slot % STAGE_VECS) % STAGE_VECS;
        acc_t values[VECTOR] = {};
        if (in_group < group_out && vec < batch_taps(layout, it) * CHANNEL_BLOCK_VECS) {
            load_weight_vec(params, weight, it, vec, group * group_out + in_group, values);
        }
        const OperandVec operand = to_operand(values);
#pragma unroll
        for (int term = 0; term < OPERAND_TERMS; ++term) {
            store16(packed + tile * B_VECS + slot + term * B_TERM_VECS, operand.term[term]);
        }
    }
}
