// channels_last: copy some images so that their channels are neighbours.
//
//   source  (N, C, H, W)       any strides
//   target  (images, H, W, C)  every element written once
//
// A block copies squares of SIDE channels by SIDE pixels through shared memory, so that reads run along
// the pixels and writes along the channels. Rows are padded by one element to avoid bank conflicts.

const int SIDE = 32;

extern "C" __global__ void channels_last(
        const scalar_t* __restrict__ source, scalar_t* __restrict__ target, ChannelsLast params) {
    scalar_t* square = reinterpret_cast<scalar_t*>(dynamic_shared());  // (SIDE channels, SIDE + 1)
    const int channels = params.channels;
    const index_t pixels = static_cast<index_t>(params.height) * params.width;
    const index_t pixel_squares = (pixels + SIDE - 1) / SIDE;
    const int channel_squares = (channels + SIDE - 1) / SIDE;
    const int lane = threadIdx.x % SIDE, line = threadIdx.x / SIDE, lines = blockDim.x / SIDE;
    const index_t squares = params.images * channel_squares * pixel_squares;
    for (index_t item = blockIdx.x; item < squares; item += gridDim.x) {
        const index_t pixel0 = item % pixel_squares * SIDE;
        const int c0 = static_cast<int>(item / pixel_squares % channel_squares) * SIDE;
        const int image = static_cast<int>(item / pixel_squares / channel_squares);
        for (int i = line; i < SIDE && c0 + i < channels; i += lines) {
            const index_t pixel = pixel0 + lane;
            if (pixel < pixels) {
                const int y = static_cast<int>(pixel / params.width);
                const int x = static_cast<int>(pixel - static_cast<index_t>(y) * params.width);
                square[i * (SIDE + 1) + lane] = source[strided_index(
                    params.source, params.first_image + image, c0 + i, params.first_row + y, x)];
            }
        }
        __syncthreads();
        for (int i = line; i < SIDE && pixel0 + i < pixels; i += lines) {
            if (c0 + lane < channels) {
                const index_t pixel = image * pixels + pixel0 + i;
                target[pixel * channels + c0 + lane] = square[lane * (SIDE + 1) + i];
            }
        }
        __syncthreads();
    }
}
