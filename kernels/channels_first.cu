// channels_first: round gradients of some images and put them where the caller wants them.
//
//   source  (images, H, W, C)  acc_t, channels are neighbours
//   target  (N, C, H, W)       contiguous; every element of the images written once
//
// Squares of TILE pixels by TILE channels go through shared memory, as in channels_last.

const int TILE = 32;

extern "C" __global__ void channels_first(
        const acc_t* __restrict__ source, scalar_t* __restrict__ target, Launch p) {
    acc_t* tile = reinterpret_cast<acc_t*>(dynamic_shared());
    const index_t pixels = static_cast<index_t>(p.size_h) * p.size_w;
    const index_t across = (pixels + TILE - 1) / TILE;
    const int down = (p.size_c + TILE - 1) / TILE;
    const int lane = threadIdx.x % TILE, line = threadIdx.x / TILE, lines = blockDim.x / TILE;
    const index_t squares = p.images * down * across;
    for (index_t square = blockIdx.x; square < squares; square += gridDim.x) {
        const index_t pixel0 = square % across * TILE;
        const int c0 = static_cast<int>(square / across % down) * TILE;
        const int image = static_cast<int>(square / across / down);
        for (int i = line; i < TILE && pixel0 + i < pixels; i += lines) {
            if (c0 + lane < p.size_c) {
                const index_t pixel = image * pixels + pixel0 + i;
                tile[i * (TILE + 1) + lane] = source[pixel * p.size_c + c0 + lane];
            }
        }
        __syncthreads();
        for (int i = line; i < TILE && c0 + i < p.size_c; i += lines) {
            if (pixel0 + lane < pixels) {
                const index_t plane = static_cast<index_t>(p.first_image + image) * p.size_c;
                from_acc(tile[lane * (TILE + 1) + i],
                         target + (plane + c0 + i) * pixels + pixel0 + lane);
            }
        }
        __syncthreads();
    }
}
