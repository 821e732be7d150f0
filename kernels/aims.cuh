// aims: where the fused kernel samples, and how its samples come to shared memory.
//
// A block's tile has TILE_M positions. The samples of a batch of taps are planned at once, and each serves
// all channels of the run. A thread loads the corners of SLOTS units a stage, and blends them later.

struct Spot { int image, row, col; };  // an output position; the image is -1 where there is none

struct Aim {
    index_t pixel;  // top left corner in the input, at channel 0
    acc_t ly, lx, mask;
    unsigned corners;
};

const int SLOTS = TILE_M * STAGE / THREADS;  // units of a stage that a thread samples

struct Corners { vec16_t v[SLOTS][4]; };

struct Plans {
    Spot* spots;  // (TILE_M,)
    Aim* aims;    // (plan_taps, TILE_M)
};

__device__ inline Spot spot_of(const Launch& p, int tile, int m) {
    const int out_w = p.g.out_w;
    Spot spot = {-1, 0, 0};
    if (p.tile_w == 0) {
        const index_t position = static_cast<index_t>(tile) * TILE_M + m, line = position / out_w;
        if (position < p.positions) {
            spot.image = static_cast<int>(line / p.rows);
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

__device__ inline Aim aim_of(
        const Launch& p, const scalar_t* offset, const scalar_t* mask, Spot spot, int tap, int og) {
    Aim aim = {0, 0, 0, 0, 0};
    if (spot.image >= 0) {
        const Place at = {spot.image, spot.row, spot.col, tap, og, 0};
        const Sample s = sample_of(p, offset, mask, at);
        aim.pixel = element_of(p.input, at.image, 0, s.y0, s.x0);
        aim.ly = s.ly;
        aim.lx = s.lx;
        aim.mask = s.flags & LOST ? static_cast<acc_t>(nanf("")) : s.mask;
        aim.corners = corners_of(s.flags);
    }
    return aim;
}

// Plan the samples of a batch of taps, one a thread at a time.
__device__ inline void take_aim(
        const Launch& p, const scalar_t* offset, const scalar_t* mask, const Plans& plans, int group,
        Cursor at) {
    const int group_in = p.g.channels / p.g.groups;
    const int c = group * group_in + chunk_channel(p, at);
    const int og = c / (p.g.channels / p.g.offset_groups);
    for (int k = threadIdx.x; k < batch_taps(p, at) * TILE_M; k += THREADS) {
        plans.aims[k] = aim_of(p, offset, mask, plans.spots[k % TILE_M], at.tap + k / TILE_M, og);
    }
}

// The sample of a thread's slot; null where the stage is not full.
__device__ inline const Aim* aim_at(const Launch& p, const Plans& plans, Cursor at, int slot) {
    const int k = threadIdx.x + slot * THREADS, tap = (at.unit + k % STAGE) / CHUNK_UNITS;
    return tap < batch_taps(p, at) ? plans.aims + tap * TILE_M + k / STAGE : nullptr;
}

// Begin to load what the stage samples.
__device__ inline void load_corners(
        const Launch& p, const scalar_t* __restrict__ input, const Plans& plans, int group, Cursor at,
        Corners* corners) {
    const int unit = at.unit + threadIdx.x % STAGE;
    const int c = group * (p.g.channels / p.g.groups) + chunk_channel(p, at)
        + unit % CHUNK_UNITS * VECTOR;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const Aim* const aim = aim_at(p, plans, at, slot);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (aim && aim->corners >> j & 1) {
                const index_t from = aim->pixel + (j >> 1) * p.input.h + (j & 1) * p.input.w + c;
                corners->v[slot][j] = load16(input + from);
            }
        }
    }
}

__device__ inline vec16_t blended(const Aim& aim, const vec16_t* corners) {
    const acc_t hy = 1 - aim.ly, hx = 1 - aim.lx;
    const acc_t weights[4] = {hy * hx, hy * aim.lx, aim.ly * hx, aim.ly * aim.lx};
    acc_t sums[VECTOR] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        if (aim.corners >> j & 1) {
            const scalar_t* const values = reinterpret_cast<const scalar_t*>(corners + j);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                sums[i] += weights[j] * to_acc(values[i]);
            }
        }
    }
    vec16_t result;
    scalar_t* const to = reinterpret_cast<scalar_t*>(&result);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
#if ROUNDS
        to[i] = to_tf32(sums[i] * aim.mask);
#else
        from_acc(sums[i] * aim.mask, to + i);
#endif
    }
    return result;
}

// Blend what was loaded, and put it where the warps multiply it.
__device__ inline void store_samples(
        const Launch& p, const Plans& plans, Cursor at, const Corners& corners, vec16_t* a) {
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const int k = threadIdx.x + slot * THREADS;
        const Aim* const aim = aim_at(p, plans, at, slot);
        vec16_t value = {{0, 0, 0, 0}};
        if (aim) {
            value = blended(*aim, corners.v[slot]);
        }
        a[unit_at(k / STAGE, k % STAGE)] = value;
    }
}
