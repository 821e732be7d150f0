// deform_tiles: gradient of the input, summed in shared memory before it is added to the rest.
//
//   offset      (N, 2*OG*KH*KW, OH, OW)       any strides; (dy, dx) of each tap
//   mask        (N, OG*KH*KW, OH, OW)         any strides; may be absent
//   columns     (groups, positions, leading)  gradient of the columns, each element read once
//   grad_input  (images, H, W, C)  acc_t      added to, in no fixed order
//
// A block takes a tile of `tile_w` by `tile_w` positions and a run of `lanes` channels, and holds a
// window of the image, `window_h` by `window_w` pixels of them. A walker, one of the first WALKERS
// threads, owns a channel of the run: it alone adds to that channel's cells of the window, sample
// by sample, so neither atomics nor barriers come between two samples. Meanwhile the other threads
// plan the next `plan_pairs` pairs. What falls beyond the window is added to global memory at once,
// and the window at the end, as far as it is not 0.

const int WALKERS = 32, PLANNERS = 96;
const int BLOCKS = 4;  // that a multiprocessor shall hold at a time, as far as registers go
const int AHEAD = 8;   // gradients that a walker has on their way; divides plan_pairs

// A walker goes through the pairs of its tile in order. Where it loads from is added up, since a
// division for each sample would take longer than the sample.
struct Walk {
    scalar_t grads[AHEAD];  // as they were loaded: to convert them would be to wait for them
    index_t from;           // of the next
    index_t to_tap, to_spot, to_line;
    int tap, col;
};

__device__ inline void advance(const Tile& tile, int taps, bool more, Walk* walk) {
    const bool spot = ++walk->tap == taps;
    walk->tap = spot ? 0 : walk->tap;
    walk->col += spot;
    const bool line = walk->col == tile.cols;
    walk->col = line ? 0 : walk->col;
    const index_t step = line ? walk->to_line : spot ? walk->to_spot : walk->to_tap;
    walk->from += more ? step : 0;
}

// Load a walker's next gradients, of which `left` are left in the tile.
__device__ inline void load_ahead(
        const Launch& p, const Tile& tile, const scalar_t* __restrict__ columns, int left,
        Walk* walk, scalar_t* grads) {
    const int taps = p.g.kernel_h * p.g.kernel_w;
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        grads[i] = i < left ? columns[walk->from] : scalar_t();
        advance(tile, taps, i + 1 < left, walk);
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
    const int last_tap = p.g.kernel_h * p.g.kernel_w - 1;
    const index_t row = static_cast<index_t>(tile.image) * p.rows + tile.row;
    walk->from = column_of(p, row * p.g.out_w + tile.col, 0, channel);
    walk->to_tap = p.g.channels / p.g.groups;
    walk->to_spot = p.leading - last_tap * walk->to_tap;
    walk->to_line = walk->to_spot + (p.g.out_w - tile.cols) * p.leading;
    walk->tap = walk->col = 0;
    load_ahead(p, tile, columns, pairs_of(p, tile), walk, walk->grads);
    for (int cell = 0; cell < p.window_h * p.window_w; ++cell) {
        own[cell * p.lanes] = 0;
    }
}

// Walk through the pairs of a plan, of which `left` are left in the tile.
__device__ inline void walk_on(
        const Launch& p, const Tile& tile, const scalar_t* __restrict__ columns, const Drop* drops,
        int left, acc_t* own, acc_t* table, Walk* walk) {
    const int count = min(p.plan_pairs, left);
    Drop drop = drops[0];
    for (int k = 0; k < count; k += AHEAD) {
        scalar_t next[AHEAD];
        load_ahead(p, tile, columns, left - k - AHEAD, walk, next);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            // The next drop is loaded before this one falls. For all that the compiler knows, it
            // could lie where this one falls, too.
            const Drop here = drop;
            if (k + i + 1 < count) {
                drop = drops[(k + i + 1) * p.plan_groups];
            }
            if (k + i < count) {
                let_fall(p, here, to_acc(walk->grads[i]), own, table);
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
    for (int k = threadIdx.x - WALKERS; k < pairs * groups; k += PLANNERS) {
        const int pair = k / groups, group = k - pair * groups;
        drops[pair * p.plan_groups + group] =
            drop_of(p, tile, offset, mask, first + pair, og + group);
    }
}

__device__ inline void add_window(
        const Launch& p, const Tile& tile, const acc_t* window, acc_t* grad_input) {
    const int vectors = tile.channels / VECTOR;
    for (int k = threadIdx.x; k < p.window_h * p.window_w * vectors; k += WALKERS + PLANNERS) {
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

extern "C" __global__ void __launch_bounds__(WALKERS + PLANNERS, BLOCKS) deform_tiles(
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
