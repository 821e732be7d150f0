// schedule: the order of taps and channels, the K axis of the fused kernel's GEMM.
//
// A run is as many contiguous channels as lie in one group and one offset group; it consists of
// channel blocks of CHANNEL_BLOCK channels. The kernel visits all runs in turn; for each run, the
// taps in batches of `taps_per_batch`, whose samples are recorded once; for each batch, the channel
// blocks of the run; for each channel block, the taps of the batch, in stages of STAGE_VECS
// vec16_t. The last stage of a channel block may be partly empty. If each run fits one channel
// block, runs are concatenated: the kernel visits all taps of run 0, then of run 1, and so on, as
// if they were taps of one run.

const int CHANNEL_BLOCK_VECS = CHANNEL_BLOCK / VECTOR;

// The position of a stage in the K axis.
struct KIter {
    int run, tap, block, vec;  // tap: first of its batch; vec: counts from that tap's first
};

// Number of stages of a channel block and a batch of taps.
__device__ inline int batch_stages(KLayout layout) {
    return (layout.taps_per_batch * CHANNEL_BLOCK_VECS + STAGE_VECS - 1) / STAGE_VECS;
}

// Number of taps for which a batch has sample records: its own taps, and those that fill its last
// stage.
__device__ inline int recorded_taps(KLayout layout) {
    return (batch_stages(layout) * STAGE_VECS + CHANNEL_BLOCK_VECS - 1) / CHANNEL_BLOCK_VECS;
}

__device__ inline KIter k_iter_at(KLayout layout, int stage) {
    const int batches = (layout.taps + layout.taps_per_batch - 1) / layout.taps_per_batch;
    const int block = stage / batch_stages(layout), batch = block / layout.channel_blocks;
    KIter it;
    it.run = batch / batches;
    it.tap = (batch - it.run * batches) * layout.taps_per_batch;
    it.block = block - batch * layout.channel_blocks;
    it.vec = (stage - block * batch_stages(layout)) * STAGE_VECS;
    return it;
}

__device__ inline KIter next_stage(KLayout layout, KIter it) {
    it.vec += STAGE_VECS;
    if (it.vec < layout.taps_per_batch * CHANNEL_BLOCK_VECS) {
        return it;
    }
    it.vec = 0;
    if (++it.block < layout.channel_blocks) {
        return it;
    }
    it.block = 0;
    it.tap += layout.taps_per_batch;
    if (it.tap >= layout.taps) {
        it.tap = 0;
        ++it.run;
    }
    return it;
}

// Number of taps of the current batch; the last one may have fewer than the others.
__device__ inline int batch_taps(KLayout layout, KIter it) {
    const int left = layout.taps - it.tap;
    return left < layout.taps_per_batch ? left : layout.taps_per_batch;
}

// Tap i of a batch: its number in the kernel window, and the first channel of its run, in the
// group.
struct Tap {
    int tap, channel;
};

__device__ inline Tap tap_at(const Problem& problem, const KLayout& layout, KIter it, int i) {
    const int tap = it.tap + i, run = fast_div(tap, problem.by_taps);
    return {tap - run * problem.taps, (it.run + run) * layout.channel_blocks * CHANNEL_BLOCK};
}
