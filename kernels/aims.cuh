// aims: where the fused kernel samples, and how its samples come to shared memory.
//
// A block's tile has TILE_M positions. The samples of a batch of taps are planned at once, and each serves
// all channels of the run. A thread loads the corners of SLOTS units a stage, and blends them later.

struct Spot { int image, row, col; };  // an output position; the image is -1 where there is none

struct alignas(16) Aim {
    acc_t ly, lx, mask;
    index_t pixel;  // top left corner in the input, at the first channel of the run
};

const int SLOTS = TILE_M * STAGE / THREADS;  // units of a stage that a thread samples
const int SLOT_ROWS = THREADS / STAGE;       // from a slot's row to the next one's

struct Corners { vec16_t v[SLOTS][4]; };

struct Plans {
    Aim* aims;            // (planned_taps, TILE_M)
    Spot* spots;          // (TILE_M,)
    unsigned char* held;  // (planned_taps, TILE_M)  which corners count, HELD bits
};

__device__ inline Spot spot_of(const Launch& p, int tile, int m) {
    const int out_w = p.g.out_w;
    Spot spot = {-1, 0, 0};
    if (p.tile_w == 0) {
        const index_t position = static_cast<index_t>(tile) * TILE_M + m;
        const index_t line = quotient(position, p.by_out_w);
        if (position < p.positions) {
            spot.image = static_cast<int>(quotient(line, p.by_rows));
            spot.row = static_cast<int>(line - static_cast<index_t>(spot.image) * p.rows);
            spot.col = static_cast<int>(position - line * out_w);
        }
    } else {
        const int tile_h = TILE_M / p.tile_w;
        const int across = (out_w + p.tile_w - 1) / p.tile_w, down = (p.rows + tile_h - 1) / tile_h;
        const int line = tile / across;
        spot.row = line % down * tile_h + m / p.tile_w;
        spot.col = (tile - line * across) * p.tile_w + m % p.tile_w;
        spot.image = spot.row < p.rows && spot.col < out_w ? line / down : -1;
    }
    spot.row += p.first_row;
    return spot;
}

__device__ inline void take_places(const Launch& p, int tile, const Plans& plans) {
    for (int m = threadIdx.x; m < TILE_M; m += THREADS) {
        plans.spots[m] = spot_of(p, tile, m);
    }
}

// Plan the samples of a batch of taps, one a thread at a time. Behind the last tap, where units only fill
// a stage, nothing is held and the mask is 0.
__device__ inline void take_aim(
        const Launch& p, const scalar_t* offset, const scalar_t* mask, const Plans& plans,
        Route route, int first_channel, Cursor at) {
    const int taps = batch_taps(route, at);
    for (int k = threadIdx.x; k < planned_taps(route) * TILE_M; k += THREADS) {
        const Spot spot = plans.spots[k % TILE_M];
        Aim aim = {0, 0, 0, 0};
        unsigned held = 0;
        if (spot.image >= 0 && k / TILE_M < taps) {
            const Tap tap = tap_at(p, at, k / TILE_M);
            const int c = first_channel + tap.channel, og = quotient(c, p.by_offset_channels);
            const Sample s =
                sample_of(p, offset, mask, {spot.image, spot.row, spot.col, tap.tap, og, 0});
            const acc_t factor = s.flags & LOST ? static_cast<acc_t>(nanf("")) : s.mask;
            aim = {s.ly, s.lx, factor, element_of(p.input, spot.image, 0, s.y0, s.x0) + c};
            held = corners_of(s.flags);
        }
        plans.aims[k] = aim;
        plans.held[k] = static_cast<unsigned char>(held);
    }
}

// What a thread samples in every stage: one unit of the rows `row`, `row` + SLOT_ROWS and so on.
struct Share {
    int row, unit, store;       // store: where the first of them goes
    index_t right, below;       // from a corner to the next ones
};

__device__ inline Share share_of(const Launch& p) {
    const int row = threadIdx.x / STAGE, unit = threadIdx.x % STAGE;
    return {kept(row), kept(unit), kept(unit_at(row, unit)), p.input.w, p.input.h};
}

// The first of the thread's samples among those planned, and the channel of the run.
__device__ inline int first_aim(Share share, Cursor at) {
    const unsigned unit = CHUNK_UNITS == STAGE ? at.unit : at.unit + share.unit;
    return unit / CHUNK_UNITS * TILE_M + share.row;
}

__device__ inline int channel_of(Share share, Cursor at) {
    const unsigned unit = CHUNK_UNITS == STAGE ? share.unit : (at.unit + share.unit) % CHUNK_UNITS;
    return at.chunk * CHUNK + unit * VECTOR;
}

// Begin to load what the stage samples.
__device__ inline void load_corners(
        const scalar_t* __restrict__ input, const Plans& plans, Share share, Cursor at,
        Corners* corners) {
    const int first = first_aim(share, at), c = channel_of(share, at);
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const unsigned held = plans.held[first + slot * SLOT_ROWS];
        const index_t from = plans.aims[first + slot * SLOT_ROWS].pixel + c;
        const index_t below = from + share.below;
        corners->v[slot][0] = load16_if(held & HELD_00, input + from);
        corners->v[slot][1] = load16_if(held & HELD_01, input + (from + share.right));
        corners->v[slot][2] = load16_if(held & HELD_10, input + below);
        corners->v[slot][3] = load16_if(held & HELD_11, input + (below + share.right));
    }
}

struct Blend { acc_t v[VECTOR]; };

// The corners' sum; those that do not count were loaded as zeros.
__device__ inline Blend blended(Aim aim, const vec16_t* corners) {
    const acc_t hy = 1 - aim.ly, hx = 1 - aim.lx;
    const acc_t weights[4] = {hy * hx, hy * aim.lx, aim.ly * hx, aim.ly * aim.lx};
    Blend blend = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            blend.v[i] += weights[j] * number_of(scalar_t(), corners[j], i);
        }
    }
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        blend.v[i] *= aim.mask;
    }
    return blend;
}

// Blend what was loaded for a stage.
__device__ inline void store_samples(
        const Plans& plans, Share share, Cursor at, const Corners& corners, vec16_t* a) {
    const int first = first_aim(share, at);
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const Blend blend = blended(plans.aims[first + slot * SLOT_ROWS], corners.v[slot]);
        const Unit unit = unit_of(blend.v);
#pragma unroll
        for (int part = 0; part < FACTOR_PARTS; ++part) {
            // SLOT_ROWS is a multiple of 8: units lie there as they do here.
            a[share.store + slot * SLOT_ROWS * STAGE + part * A_PART] = unit.part[part];
        }
    }
}
