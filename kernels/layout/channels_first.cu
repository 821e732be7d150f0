// channels_first: round the gradients of some channels-last images into a contiguous NCHW array.
//
//   source  (images, H, W, C)  acc_t, dense
//   target  (N, C, H, W)       contiguous; every element of the images written once
//
// A block moves squares of SIDE pixels by SIDE channels through shared memory, as channels_last does in
// the other direction.

const int SIDE = 32;

extern "C" __global__ void channels_first(
        const acc_t* __restrict__ source, scalar_t* __restrict__ target, ChannelsFirst params) {
    acc_t* square = reinterpret_cast<acc_t*>(dynamic_shared());  // (SIDE pixels, SIDE + 1)
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
        for (int i = line; i < SIDE && pixel0 + i < pixels; i += lines) {
            if (c0 + lane < channels) {
                const index_t pixel = image * pixels + pixel0 + i;
                square[i * (SIDE + 1) + lane] = source[pixel * channels + c0 + lane];
            }
        }
        __syncthreads();
        for (int i = line; i < SIDE && c0 + i < channels; i += lines) {
            if (pixel0 + lane < pixels) {
                const index_t plane = static_cast<index_t>(params.first_image + image) * channels;
                from_acc(square[lane * (SIDE + 1) + i],
                         target + (plane + c0 + i) * pixels + pixel0 + lane);
            }
        }
        __syncthreads();
    }
}
