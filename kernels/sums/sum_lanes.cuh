// sum_lanes: the lanes of an item, and what they pass to each other by shuffles.

// What the lanes of an item need of a sample to read its corners. Flags: the bits of the corners
// that are read, and other bits of the kernel; the level from LEVEL on.
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
