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

// A sample, and the corner of it that the pixel is.
struct SampleCorner {
    int sample, corner;
};

// Take the least sample out of the ranges; NO_SAMPLE if all are empty.
__device__ inline SampleCorner take_least(const int* __restrict__ ordered, CellRange* ranges) {
    CellRange least = ranges[0];
    int corner = 0;
    for (int j = 1; j < CORNERS; ++j) {
        const bool less = ranges[j].sample < least.sample;
        corner = less ? j : corner;
        least = less ? ranges[j] : least;
    }
    const int sample = least.sample;
    if (sample != NO_SAMPLE) {
        ++least.next;
        least.sample = sample_at(ordered, least.next, least.end);
        for (int j = 0; j < CORNERS; ++j) {
            ranges[j] = j == corner ? least : ranges[j];
        }
    }
    return {sample, corner};
}
