// transpose: transposes images in squares of SIDE pixels by SIDE channels in shared memory.
//
// Reads run along the innermost axis of the source, writes along that of the target. A thread
// accesses column `lane` of the square and every `lines`-th row, from row `line` on. Rows of a
// square are padded by one element to avoid bank conflicts.

const int SIDE = 32, PADDED_SIDE = SIDE + 1;

struct Squares {
    index_t pixels, pixel_squares, count;
    int channel_squares;
};

struct Square {
    int image, c0;  // image and first channel
    index_t pixel0;
};

// Number of squares of some images with `pixels` pixels each.
__device__ inline Squares squares_of(int images, int channels, index_t pixels) {
    Squares squares;
    squares.pixels = pixels;
    squares.pixel_squares = (squares.pixels + SIDE - 1) / SIDE;
    squares.channel_squares = (channels + SIDE - 1) / SIDE;
    squares.count = images * squares.channel_squares * squares.pixel_squares;
    return squares;
}

__device__ inline Square square_at(const Squares& squares, index_t item) {
    Square square;
    square.pixel0 = item % squares.pixel_squares * SIDE;
    square.c0 = static_cast<int>(item / squares.pixel_squares % squares.channel_squares) * SIDE;
    square.image = static_cast<int>(item / squares.pixel_squares / squares.channel_squares);
    return square;
}
