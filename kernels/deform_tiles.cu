// deform_tiles: gradient of the input, summed in shared memory before it is added to the rest.
//
//   offset      (N, 2*OG*KH*KW, OH, OW)       any strides; (dy, dx) of each tap
//   mask        (N, OG*KH*KW, OH, OW)         any strides; may be absent
//   columns     (groups, positions, leading)  gradient of the columns, each element read once
//   grad_input  (images, H, W, C)  acc_t      added to, in no fixed order
//
// A block takes a tile of `tile_w` by `tile_w` positions and a run of `lanes` channels, and holds a
// window of the image of `window_h` by `window_w` pixels. A walker, one of the first WALKERS threads,
// owns a channel of the run: it alone adds to that channel's cells of the window, sample by sample,
// so that neither atomics nor barriers come between two samples. Meanwhile the other threads plan the
// next `plan_pairs` pairs. Corners beyond the window are added to global memory at once, and so is
// the window at the end, as far as it is not 0.

const int WALKERS = 32;
const int AHEAD = 8;  // gradients that a walker has on their way; divides plan_pairs

// Where a walker is to load from next: it goes through the pairs of the tile in order.
struct Cursor {
    index_t from;
    int tap, col;
};

struct Walk {
    Cursor at;
    scalar_t grads[AHEAD];  // as they were loaded: to convert them would be to wait for them
};

__device__ inline Cursor cursor_of(const Launch& p, const Tile& tile, int channel) {
    const index_t line = static_cast<index_t>(tile.image) * p.rows + tile.row;
    return {column_of(p, line * p.g.out_w + tile.col, 0, channel), 0, 0};
}

// Steps are added up, since a division for each sample would take longer than the sample.
__device__ inline void advance(const Launch& p, const Tile& tile, Cursor* at) {
    const int group_channels = p.g.channels / p.g.groups, taps = p.g.kernel_h * p.g.kernel_w;
    at->from += group_channels;
    if (++at->tap == taps) {
        at->tap = 0;
        at->from += p.leading - taps * group_channels;
        if (++at->col == tile.cols) {
            at->col = 0;
            at->from += (p.g.out_w - tile.cols) * p.leading;
        }
    }
}

// Load a walker's next gradients; past the last of the tile, 0.
__device__ inline void load_ahead(
        const Launch& p, const Tile& tile, const scalar_t* __restrict__ columns, int left,
        Cursor* at, scalar_t* grads) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        grads[i] = scalar_t();
        if (i < left) {
            grads[i] = columns[at->from];
            advance(p, tile, at);
        }
    }
}

// Add a sample's gradient of one channel: `own` are that channel's cells, `table` its images.
__device__ inline void let_fall(
        const Launch& p, const Drop& drop, acc_t grad, acc_t* own, acc_t* table) {
    if (drop.corners == 15) {
        // All four are loaded before one is stored: the compiler cannot know that they differ.
        acc_t sums[4];
        for (int j = 0; j < 4; ++j) {
            sums[j] = own[drop.cell + cell_step(p, j)];
        }
        for (int j = 0; j < 4; ++j) {
            own[drop.cell + cell_step(p, j)] = sums[j] + drop.weight[j] * grad;
        }
        return;
    }
    for (int j = 0; j < 4; ++j) {
        if (drop.corners >> j & 1) {
            own[drop.cell + cell_step(p, j)] += drop.weight[j] * grad;
        } else if (drop.corners >> (j + 4) & 1) {
            const index_t pixel = drop.pixel + static_cast<index_t>(j >> 1) * p.g.in_w + (j & 1);
            add_global(table + pixel * p.g.channels, drop.weight[j] * grad);
        }
    }
}

// Clear the walker's cells, and load its first gradients.
__device__ inline void begin_walk(
        const Launch& p, const Tile& tile, const scalar_t* __restrict__ columns, int channel,
        acc_t* own, Walk* walk) {
    walk->at = cursor_of(p, tile, channel);
    load_ahead(p, tile, columns, pairs_of(p, tile), &walk->at, walk->grads);
    for (int cell = 0; cell < p.window_h * p.window_w; ++cell) {
        own[cell * p.lanes] = 0;
    }
}

// Walk through the pairs of a plan, of which `left` are left in the tile.
__device__ inline void walk_on(
        const Launch& p, const Tile& tile, const scalar_t* __restrict__ columns, const Drop* drops,
        int left, acc_t* own, acc_t* table, Walk* walk) {
    const int count = min(p.plan_pairs, left);
    for (int k = 0; k < count; k += AHEAD) {
        scalar_t next[AHEAD];
        load_ahead(p, tile, columns, left - k - AHEAD, &walk->at, next);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (k + i < count) {
                let_fall(p, drops[(k + i) * p.plan_groups], to_acc(walk->grads[i]), own, table);
            }
            walk->grads[i] = next[i];
        }
    }
}

// Plan the pairs from `first` on, as many as there are and the plan holds.
__device__ inline void plan_drops(
        const Launch& p, const Tile& tile, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, int first, Drop* drops) {
    const int og = group_of(p, tile.channel);
    const int groups = group_of(p, tile.channel + tile.channels - 1) - og + 1;
    const int pairs = min(p.plan_pairs, pairs_of(p, tile) - first);
    for (int k = threadIdx.x - WALKERS; k < pairs * groups; k += blockDim.x - WALKERS) {
        const int pair = k / groups, group = k - pair * groups;
        drops[pair * p.plan_groups + group] =
            drop_of(p, tile, offset, mask, first + pair, og + group);
    }
}

__device__ inline void add_window(
        const Launch& p, const Tile& tile, const acc_t* window, acc_t* grad_input) {
    const int vectors = tile.channels / VECTOR;
    for (int k = threadIdx.x; k < p.window_h * p.window_w * vectors; k += blockDim.x) {
        const int cell = k / vectors, c = (k - cell * vectors) * VECTOR;
        const int y = cell / p.window_w, x = cell - y * p.window_w;
        Vector sum;
        bool any = false;
        for (int i = 0; i < VECTOR; ++i) {
            sum.v[i] = window[cell * p.lanes + c + i];
            any |= sum.v[i] != 0;  // true of NaN, too
        }
        if (any) {
            const index_t line = static_cast<index_t>(tile.image) * p.g.in_h + tile.top + y;
            const index_t pixel = line * p.g.in_w + tile.left + x;
            add_vector(grad_input + pixel * p.g.channels + tile.channel + c, sum);
        }
    }
}

extern "C" __global__ void deform_tiles(
        const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        const scalar_t* __restrict__ columns, acc_t* __restrict__ grad_input, Launch p) {
    const int plans = p.plan_pairs * p.plan_groups;  // of one of two buffers
    Drop* const drops = reinterpret_cast<Drop*>(dynamic_shared());
    acc_t* const window = reinterpret_cast<acc_t*>(drops + 2 * plans);
    acc_t* const own = window + threadIdx.x;
    for (index_t number = blockIdx.x; number < tiles_of(p); number += gridDim.x) {
        const Tile tile = tile_of(p, number);
        const int pairs = pairs_of(p, tile), channel = tile.channel + threadIdx.x;
        const bool walks = threadIdx.x < WALKERS && threadIdx.x < tile.channels;
        Walk walk;
        if (walks) {
            begin_walk(p, tile, columns, channel, own, &walk);
        } else if (threadIdx.x >= WALKERS) {
            plan_drops(p, tile, offset, mask, 0, drops);
        }
        __syncthreads();
        int buffer = 0;
        for (int first = 0; first < pairs; first += p.plan_pairs) {
            const Drop* const planned = drops + buffer * plans;
            buffer = 1 - buffer;
            if (walks) {
                const Drop* const mine = planned + group_of(p, channel) - group_of(p, tile.channel);
                walk_on(p, tile, columns, mine, pairs - first, own, grad_input + channel, &walk);
            } else if (threadIdx.x >= WALKERS) {
                const int next = first + p.plan_pairs;
                plan_drops(p, tile, offset, mask, next, drops + buffer * plans);
            }
            __syncthreads();
        }
        add_window(p, tile, window, grad_input);
        __syncthreads();
    }
}
