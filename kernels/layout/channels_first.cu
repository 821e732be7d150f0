// channels_first: round the gradients of some channels-last images into a contiguous (N, C, *size)
// array.
//
//   source  (images, pixels, C)  acc_t, dense
//   target  (N, C, pixels)       contiguous; every element of the images written once
//
// A block transposes one square of pixels by channels at a time; see transpose.cuh.

extern "C" __global__ void channels_first(
        const acc_t* __restrict__ source, scalar_t* __restrict__ target, ChannelsFirst params) {
    acc_t* shared = reinterpret_cast<acc_t*>(dynamic_shared());  // (pixels, channels)
    const int channels = params.channels;
    const Squares squares = squares_of(params.images, channels, params.pixels);
    const int lane = threadIdx.x % SIDE, line = threadIdx.x / SIDE, lines = blockDim.x / SIDE;
    for (index_t item = blockIdx.x; item < squares.count; item += gridDim.x) {
        const Square at = square_at(squares, item);
        for (int i = line; i < SIDE && at.pixel0 + i < squares.pixels; i += lines) {
            if (at.c0 + lane < channels) {
                const index_t pixel = at.image * squares.pixels + at.pixel0 + i;
                shared[i * PADDED_SIDE + lane] = source[pixel * channels + at.c0 + lane];
            }
        }
        __syncthreads();
        for (int i = line; i < SIDE && at.c0 + i < channels; i += lines) {
            if (at.pixel0 + lane < squares.pixels) {
                const index_t plane =
                        static_cast<index_t>(params.first_image + at.image) * channels;
                from_acc(
                        shared[lane * PADDED_SIDE + i],
                        target + (plane + at.c0 + i) * squares.pixels + at.pixel0 + lane);
            }
        }
        __syncthreads();
    }
}
