// channels_last: copy pixels of some images so that their channels are contiguous.
//
//   source  (N, C, *size)        any strides
//   target  (images, pixels, C)  every element written once
//
// A block transposes one square of channels by pixels at a time; see transpose.cuh.

extern "C" __global__ void channels_last(
        const scalar_t* __restrict__ source, scalar_t* __restrict__ target, ChannelsLast params) {
    scalar_t* shared = reinterpret_cast<scalar_t*>(dynamic_shared());  // (channels, pixels)
    const int channels = params.channels;
    const Squares squares = squares_of(params.images, channels, params.pixels);
    const int lane = threadIdx.x % SIDE, line = threadIdx.x / SIDE, lines = blockDim.x / SIDE;
    for (index_t item = blockIdx.x; item < squares.count; item += gridDim.x) {
        const Square at = square_at(squares, item);
        for (int i = line; i < SIDE && at.c0 + i < channels; i += lines) {
            const index_t pixel = at.pixel0 + lane;
            if (pixel < squares.pixels) {
                int pixel_at[AXES];
                index_t rest = params.first_pixel + pixel;
                for (int a = AXES - 1; a > 0; --a) {
                    pixel_at[a] = static_cast<int>(rest % params.size[a]);
                    rest /= params.size[a];
                }
                pixel_at[0] = static_cast<int>(rest);
                shared[i * PADDED_SIDE + lane] = source[strided_index(
                        params.source, params.first_image + at.image, at.c0 + i, pixel_at)];
            }
        }
        __syncthreads();
        for (int i = line; i < SIDE && at.pixel0 + i < squares.pixels; i += lines) {
            if (at.c0 + lane < channels) {
                const index_t pixel = at.image * squares.pixels + at.pixel0 + i;
                target[pixel * channels + at.c0 + lane] = shared[lane * PADDED_SIDE + i];
            }
        }
        __syncthreads();
    }
}
