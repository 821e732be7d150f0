// sum_lanes: the lanes of an item, and the data that they exchange by shuffles.

// The data of a sample that the lanes of an item need to read its corners. Flags: the bits of the
// corners that are read, and other bits of the kernel; the level from LEVEL on.
struct SharedSample {
    acc_t weights[CORNERS];  // mask included
    index_t index;           // corner 0, from the first pixel of the image
    unsigned flags;
};

const int LEVEL = 16;

__device__ inline int width_of_level(const SumProblem& problem, unsigned flags) {
    return problem.levels[flags >> LEVEL & 15].size[0];
}

__device__ inline SharedSample shared_by(const SharedSample& mine, int lane, int lanes) {
    SharedSample s;
    for (int j = 0; j < CORNERS; ++j) {
        s.weights[j] = __shfl_sync(0xffffffff, mine.weights[j], lane, lanes);
    }
    s.index = __shfl_sync(0xffffffff, mine.index, lane, lanes);
    s.flags = __shfl_sync(0xffffffff, mine.flags, lane, lanes);
    return s;
}

// The first thread of this thread's warp, if `thread` is this thread. A loop whose condition is
// uniform across the warp may contain shuffles.
__device__ inline index_t warp_first(index_t thread) { return thread - threadIdx.x % 32; }

// VECTOR channels of the gradient of the output, from channel c of an item's group.
__device__ inline Vector load_grad_output(
        const PositionStrides& strides, const scalar_t* __restrict__ grad_output,
        const SumItem& item, int c) {
    return load_vector(
            grad_output + (item_index(strides, item) + channel_index(strides.element, c)));
}
