// channels_last: copy some images so that their channels are neighbours.
//
//   source  (N, C, H, W)           any strides
//   target  (images, H, W, C)      every element written once
//
// A block moves squares of TILE channels by TILE pixels through shared memory, so that reads run
// along the pixels and writes along the channels. One more column keeps the banks apart.

const int TILE = 32;

extern "C" __global__ void channels_last(
        const scalar_t* __restrict__ source, scalar_t* __restrict__ target, Launch p) {
    scalar_t* tile = reinterpret_cast<scalar_t*>(dynamic_shared());
    const index_t pixels = static_cast<index_t>(p.size_h) * p.size_w;
    const index_t across = (pixels + TILE - 1) / TILE;
    const int down = (p.size_c + TILE - 1) / TILE;
    const int lane = threadIdx.x % TILE, line = threadIdx.x / TILE, lines = blockDim.x / TILE;
    const index_t squares = p.images * down * across;
    for (index_t square = blockIdx.x; square < squares; square += gridDim.x) {
        const index_t pixel0 = square % across * TILE;
        const int c0 = static_cast<int>(square / across % down) * TILE;
        const int image = static_cast<int>(square / across / down);
        for (int i = line; i < TILE && c0 + i < p.size_c; i += lines) {
            const index_t pixel = pixel0 + lane;
            if (pixel < pixels) {
                const int y = static_cast<int>(pixel / p.size_w);
                const int x = static_cast<int>(pixel - static_cast<index_t>(y) * p.size_w);
                tile[i * (TILE + 1) + lane] =
                    source[element_of(p.source, p.first_image + image, c0 + i, p.first_h + y, x)];
            }
        }
        __syncthreads();
        for (int i = line; i < TILE && pixel0 + i < pixels; i += lines) {
            if (c0 + lane < p.size_c) {
                const index_t pixel = image * pixels + pixel0 + i;
                target[pixel * p.size_c + c0 + lane] = tile[lane * (TILE + 1) + i];
            }
        }
        __syncthreads();
    }
}
