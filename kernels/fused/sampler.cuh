// sampler: the fused kernel's samples, from offset and mask to an operand tile in shared memory.
//
// A block has TILE_M output positions. The samples of a batch of taps are recorded at once, and
// each record serves all channels of the run. In a stage, a thread samples THREAD_VECS vec16_t: it
// starts to load their corners, and interpolates them a stage later.

// image: -1 if there is no such position
struct OutputPosition {
    int image, row, col;
};

struct alignas(16) FusedRecord {
    acc_t frac_y, frac_x, mask;
    index_t input_index;  // top left corner in the input, at the first channel of the run
};

const int THREAD_VECS = TILE_M * STAGE_VECS / THREADS;
const int ROW_STEP = THREADS / STAGE_VECS;  // rows between two vec16_t of a thread

struct Corners {
    vec16_t v[THREAD_VECS][4];
};

// In shared memory.
struct FusedSamples {
    FusedRecord* records;       // (recorded_taps, TILE_M)
    OutputPosition* positions;  // (TILE_M,)
    unsigned char* corners;     // (recorded_taps, TILE_M)  IN_BOUNDS bits of contributing corners
};

// Position m of a tile. A tile is a rectangle of `tile_w` columns, or, if that is 0, a run of
// positions.
__device__ inline OutputPosition output_position(const Fused& params, int tile, int m) {
    const Sampling& sampling = params.sampling;
    const int out_w = sampling.problem.out[1];
    OutputPosition at = {-1, 0, 0};
    if (params.tile_w == 0) {
        const index_t position = static_cast<index_t>(tile) * TILE_M + m;
        const index_t row = fast_div(position, sampling.problem.by_out[1]);
        if (position < sampling.chunk.positions) {
            at.image = static_cast<int>(fast_div(row, sampling.chunk.by_rows));
            at.row = static_cast<int>(row - static_cast<index_t>(at.image) * sampling.chunk.rows);
            at.col = static_cast<int>(position - row * out_w);
        }
    } else {
        const int tile_h = TILE_M / params.tile_w;
        const int tiles_across = (out_w + params.tile_w - 1) / params.tile_w;
        const int tiles_down = (sampling.chunk.rows + tile_h - 1) / tile_h;
        const int tile_row = tile / tiles_across;
        at.row = tile_row % tiles_down * tile_h + m / params.tile_w;
        at.col = (tile - tile_row * tiles_across) * params.tile_w + m % params.tile_w;
        at.image = at.row < sampling.chunk.rows && at.col < out_w ? tile_row / tiles_down : -1;
    }
    at.row += sampling.chunk.first_row;
    return at;
}

__device__ inline void locate_positions(
        const Fused& params, int tile, const FusedSamples& samples) {
    for (int m = threadIdx.x; m < TILE_M; m += THREADS) {
        samples.positions[m] = output_position(params, tile, m);
    }
}

// Record the samples of a batch of taps. After the last tap, where vec16_t only fill up a stage, no
// corner contributes and the mask is 0.
__device__ inline void record_samples(
        const Fused& params, const scalar_t* offset, const scalar_t* mask,
        const FusedSamples& samples, KLayout layout, int first_channel, KIter it) {
    const Sampling& sampling = params.sampling;
    const int taps = batch_taps(layout, it);
    for (int k = threadIdx.x; k < recorded_taps(layout) * TILE_M; k += THREADS) {
        const OutputPosition at = samples.positions[k % TILE_M];
        FusedRecord record = {0, 0, 0, 0};
        unsigned corners = 0;
        if (at.image >= 0 && k / TILE_M < taps) {
            const Tap tap = tap_at(sampling.problem, params.layout, it, k / TILE_M);
            const int c = first_channel + tap.channel;
            const int offset_group = fast_div(c, sampling.problem.by_offset_channels);
            const Sample s = locate_sample(
                    sampling, offset, mask, {at.image, {at.row, at.col}, tap.tap, offset_group, 0});
            const acc_t factor = s.flags & NAN_COORD ? static_cast<acc_t>(nanf("")) : s.mask;
            const index_t pixel = strided_index(sampling.input, at.image, 0, s.low);
            record = {s.frac[0], s.frac[1], factor, pixel + c};
            corners = contributing_corners(s.flags);
        }
        samples.records[k] = record;
        samples.corners[k] = static_cast<unsigned char>(corners);
    }
}

// The part of a stage that a thread samples: vec16_t `vec` of the rows `row`, `row` + ROW_STEP and
// so on.
struct ThreadSlice {
    int row, vec, store;   // store: index of the first in the operand tile
    index_t right, below;  // distances between corners
};

__device__ inline ThreadSlice thread_slice(const Sampling& sampling) {
    const int row = threadIdx.x / STAGE_VECS, vec = threadIdx.x % STAGE_VECS;
    const int store = opaque(swizzled(row, vec));
    return {opaque(row), opaque(vec), store, sampling.input.axis[1], sampling.input.axis[0]};
}

// Index of the record of the thread's first vec16_t in a stage.
__device__ inline int first_record(ThreadSlice slice, KIter it) {
    const unsigned vec = CHANNEL_BLOCK_VECS == STAGE_VECS ? it.vec : it.vec + slice.vec;
    return vec / CHANNEL_BLOCK_VECS * TILE_M + slice.row;
}

// The first channel of the thread's vec16_t in a stage, in the run.
__device__ inline int first_channel_of(ThreadSlice slice, KIter it) {
    const unsigned vec = CHANNEL_BLOCK_VECS == STAGE_VECS
            ? slice.vec
            : (it.vec + slice.vec) % CHANNEL_BLOCK_VECS;
    return it.block * CHANNEL_BLOCK + vec * VECTOR;
}

// Start to load the corners of a stage.
__device__ inline void load_corners(
        const scalar_t* __restrict__ input, const FusedSamples& samples, ThreadSlice slice,
        KIter it, Corners* corners) {
    const int first = first_record(slice, it), c = first_channel_of(slice, it);
#pragma unroll
    for (int i = 0; i < THREAD_VECS; ++i) {
        const unsigned loaded = samples.corners[first + i * ROW_STEP];
        const index_t top_left = samples.records[first + i * ROW_STEP].input_index + c;
        const index_t bottom_left = top_left + slice.below;
        corners->v[i][0] = load16_if(loaded & 1 << 0, input + top_left);
        corners->v[i][1] = load16_if(loaded & 1 << 1, input + (top_left + slice.right));
        corners->v[i][2] = load16_if(loaded & 1 << 2, input + bottom_left);
        corners->v[i][3] = load16_if(loaded & 1 << 3, input + (bottom_left + slice.right));
    }
}

struct Interpolated {
    acc_t v[VECTOR];
};

// The weighted sum of the corners times the mask; corners that do not contribute were loaded as
// zeros.
__device__ inline Interpolated interpolate(FusedRecord record, const vec16_t* corners) {
    const acc_t rest_y = 1 - record.frac_y, rest_x = 1 - record.frac_x;
    const acc_t weights[4] = {
            rest_y * rest_x, rest_y * record.frac_x, record.frac_y * rest_x,
            record.frac_y * record.frac_x};
    Interpolated value = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            value.v[i] += weights[j] * vec16_element(scalar_t(), corners[j], i);
        }
    }
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        value.v[i] *= record.mask;
    }
    return value;
}

// Interpolate the corners that were loaded for a stage and store them to the operand tile a.
__device__ inline void store_samples(
        const FusedSamples& samples, ThreadSlice slice, KIter it, const Corners& corners,
        vec16_t* a) {
    const int first = first_record(slice, it);
#pragma unroll
    for (int i = 0; i < THREAD_VECS; ++i) {
        const FusedRecord record = samples.records[first + i * ROW_STEP];
        const OperandVec operand = to_operand(interpolate(record, corners.v[i]).v);
#pragma unroll
        for (int term = 0; term < OPERAND_TERMS; ++term) {
            // ROW_STEP is a multiple of 8, the period of the swizzle.
            a[slice.store + i * ROW_STEP * STAGE_VECS + term * A_TERM_VECS] = operand.term[term];
        }
    }
}
