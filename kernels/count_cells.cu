// count_cells: which samples lie in which cell of the image, first step of the ordered gather.
//
// A *cell* is the square between four pixels, named by its top left one, for each image and offset
// group; there are (H + 1) x (W + 1) of them, since the outermost reach beyond the image.
//
//   offset   (N, 2*OG*KH*KW, OH, OW)   any strides
//   mask     (N, OG*KH*KW, OH, OW)     any strides; may be absent
//   offset_tangent, mask_tangent       as offset and mask, any strides; may be absent
//   counts   (images, OG, H+1, W+1)    zero before; samples of each cell
//   cells    (samples,)                the sample's cell, -1 where it touches no pixel
//   slots    (samples,)                a number within the cell, each once, in no fixed order
//   weights  (samples, 4)  acc_t       bilinear weights of the corners times the mask; where
//                                      `p.turns`, their changes along the tangents

extern "C" __global__ void count_cells(
        const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        const scalar_t* __restrict__ offset_tangent, const scalar_t* __restrict__ mask_tangent,
        int* __restrict__ counts, index_t* __restrict__ cells, int* __restrict__ slots,
        acc_t* __restrict__ weights, Launch p) {
    for (index_t sample = first_item(); sample < p.samples; sample += item_stride()) {
        const Place at = place_of(p, sample);
        const Sample s = sample_of(p, offset, mask, at);
        if (!(p.turns ? s.flags & 15 : corners_of(s.flags))) {
            cells[sample] = -1;
            continue;
        }
        const index_t plane = static_cast<index_t>(at.image) * p.g.offset_groups + at.og;
        const index_t row = plane * (p.g.in_h + 1) + s.y0 + 1;
        const index_t cell = row * (p.g.in_w + 1) + s.x0 + 1;
        cells[sample] = cell;
        slots[sample] = atomicAdd(counts + cell, 1);
        acc_t* const weight = weights + 4 * sample;
        if (p.turns) {
            const Move move = move_of(p, s, offset_tangent, mask_tangent, at);
            for (int j = 0; j < 4; ++j) {
                weight[j] = move.turn[j];
            }
        } else {
            weight[0] = scatter_weight((1 - s.ly) * (1 - s.lx), s.mask);
            weight[1] = scatter_weight((1 - s.ly) * s.lx, s.mask);
            weight[2] = scatter_weight(s.ly * (1 - s.lx), s.mask);
            weight[3] = scatter_weight(s.ly * s.lx, s.mask);
        }
    }
}
