// cell_ranges: the samples of the CORNERS cells around a pixel, merged in ascending order.

// What is left of the samples of a cell.
struct CellRange {
    int next, end;
    int sample;  // ordered[next], NO_SAMPLE at the end
};

const int NO_SAMPLE = 0x7fffffff;  // greater than any sample

__device__ inline int sample_at(const int* __restrict__ ordered, int next, int end) {
    return next < end ? ordered[next] : NO_SAMPLE;
}

__device__ inline CellRange range_of(
        const int* __restrict__ counts, const int* __restrict__ starts,
        const int* __restrict__ ordered, index_t cell) {
    const int start = starts[cell], end = start + counts[cell];
    return {start, end, sample_at(ordered, start, end)};
}

// The range whose next sample is the least, and the corner that the pixel is of its samples.
struct LeastRange {
    CellRange range;
    int corner;
};

__device__ inline LeastRange least_range(const CellRange* ranges) {
    LeastRange least = {ranges[0], 0};
    for (int j = 1; j < CORNERS; ++j) {
        const bool less = ranges[j].sample < least.range.sample;
        least.corner = less ? j : least.corner;
        least.range = less ? ranges[j] : least.range;
    }
    return least;
}

// Take the next sample out of a range.
__device__ inline void advance(
        const int* __restrict__ ordered, LeastRange least, CellRange* ranges) {
    ++least.range.next;
    least.range.sample = sample_at(ordered, least.range.next, least.range.end);
    for (int j = 0; j < CORNERS; ++j) {
        ranges[j] = j == least.corner ? least.range : ranges[j];
    }
}
