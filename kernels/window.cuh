// window: the part of the image that a block of deform_tiles sums up in shared memory.
//
// A *pair* is a (position, tap) of the block's tile, numbered in that order. A *drop* is what a
// pair gives to one offset group: four weights, and where they go. The window surrounds what the
// taps of the tile reach without displacements; at a border it is moved into the image.

struct Tile {
    int image, row, col;    // first output position; image and row count from the launch's first
    int rows, cols;         // of positions
    int top, left;          // first pixel of the window
    int channel, channels;  // the block's run of channels
};

// 16 bytes at a time, which is how shared memory is read best.
struct alignas(16) Drop {
    acc_t weight[4];   // mask included, in the order of the HELD bits
    index_t pixel;     // top left corner in dense images; may lie outside, see corners
    int cell;          // the same in the window, counted in numbers
    unsigned corners;  // HELD bits of those in the window, and four bits higher of those beyond it
};

__device__ inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

__device__ inline index_t tiles_of(const Launch& p) {
    const index_t lines = static_cast<index_t>(p.images) * ceil_div(p.rows, p.tile_w);
    return lines * ceil_div(p.g.out_w, p.tile_w) * ceil_div(p.g.channels, p.lanes);
}

// Where a window begins that shall begin at `first` and has to lie in the image.
__device__ inline int start_of(int first, int size, int window) {
    const int last = size - window;
    return first < 0 ? 0 : first < last ? first : last;
}

// Runs of the same positions are next to each other: they share lines of the cache.
__device__ inline Tile tile_of(const Launch& p, index_t number) {
    const int runs = ceil_div(p.g.channels, p.lanes);
    const int across = ceil_div(p.g.out_w, p.tile_w), down = ceil_div(p.rows, p.tile_w);
    const index_t square = number / runs, line = square / across;
    Tile tile;
    tile.channel = static_cast<int>(number - square * runs) * p.lanes;
    tile.channels = min(p.lanes, p.g.channels - tile.channel);
    tile.image = static_cast<int>(line / down);
    tile.row = static_cast<int>(line - static_cast<index_t>(tile.image) * down) * p.tile_w;
    tile.col = static_cast<int>(square - line * across) * p.tile_w;
    tile.rows = min(p.tile_w, p.rows - tile.row);
    tile.cols = min(p.tile_w, p.g.out_w - tile.col);
    const int y = (p.first_row + tile.row) * p.g.stride_h - p.g.pad_top - p.reach;
    const int x = tile.col * p.g.stride_w - p.g.pad_left - p.reach;
    tile.top = start_of(y, p.g.in_h, p.window_h);
    tile.left = start_of(x, p.g.in_w, p.window_w);
    return tile;
}

__device__ inline int pairs_of(const Launch& p, const Tile& tile) {
    return tile.rows * tile.cols * p.g.kernel_h * p.g.kernel_w;
}

__device__ inline int group_of(const Launch& p, int channel) {
    return channel / (p.g.channels / p.g.offset_groups);
}

// Distance from the top left corner to corner j, in the window.
__device__ inline int cell_step(const Launch& p, int j) {
    return ((j >> 1) * p.window_w + (j & 1)) * p.lanes;
}

__device__ inline Drop drop_of(
        const Launch& p, const Tile& tile, const scalar_t* __restrict__ offset,
        const scalar_t* __restrict__ mask, int pair, int og) {
    const int spot = pair / (p.g.kernel_h * p.g.kernel_w), row = spot / tile.cols;
    Place at;
    at.image = tile.image;
    at.row = p.first_row + tile.row + row;
    at.col = tile.col + spot - row * tile.cols;
    at.tap = pair - spot * (p.g.kernel_h * p.g.kernel_w);
    at.og = og;
    at.position = 0;
    const Sample s = sample_of(p, offset, mask, at);
    const acc_t tall[2] = {1 - s.ly, s.ly}, wide[2] = {1 - s.lx, s.lx};
    Drop drop;
    drop.corners = 0;
    for (int j = 0; j < 4; ++j) {
        drop.weight[j] = scatter_weight(tall[j >> 1] * wide[j & 1], s.mask);
        // What lies above the window, or left of it, is beyond its size when taken as unsigned.
        const unsigned y = s.y0 + (j >> 1) - tile.top, x = s.x0 + (j & 1) - tile.left;
        const bool within = y < p.window_h && x < p.window_w;
        if (corners_of(s.flags) >> j & 1 && drop.weight[j] != 0) {
            drop.corners |= 1 << (within ? j : j + 4);
        }
    }
    const index_t line = static_cast<index_t>(at.image) * p.g.in_h + s.y0;
    drop.pixel = line * p.g.in_w + s.x0;
    // A corner far away is no cell, nor need its number be an integer.
    const bool near = drop.corners & 15;
    drop.cell = near ? ((s.y0 - tile.top) * p.window_w + s.x0 - tile.left) * p.lanes : 0;
    return drop;
}
