// pack_tiles: the weight as the fused kernel copies it to shared memory, stage by stage.
//
//   weight  (O, C/groups, KH, KW)  any strides
//   packed  (groups, strips of O/groups, stages, TILE_N, STAGE units)  every element written once
//
// Within a stage, units lie as unit_at says. What is no weight is 0: channels of the output behind the
// last, and the end of a stage that is not full. For TF32 the weight is rounded here, once.

__device__ inline scalar_t tile_weight(scalar_t value) {
#if ROUNDS
    return to_tf32(value);
#else
    return value;
#endif
}

extern "C" __global__ void pack_tiles(
        const scalar_t* __restrict__ weight, scalar_t* __restrict__ packed, Launch p) {
    const int group_out = p.g.out_channels / p.g.groups;
    const int strips = (group_out + TILE_N - 1) / TILE_N, strip_units = TILE_N * STAGE;
    const Route route = route_of(p);
    const index_t size = static_cast<index_t>(p.g.groups) * strips * p.stages * strip_units * VECTOR;
    for (index_t item = first_item(); item < size; item += item_stride()) {
        const int slot = static_cast<int>(item / VECTOR % strip_units), row = slot / STAGE;
        const index_t strip = item / VECTOR / strip_units / p.stages;
        const int stage = static_cast<int>(item / VECTOR / strip_units - strip * p.stages);
        const int group = static_cast<int>(strip / strips);
        const int o = static_cast<int>(strip - static_cast<index_t>(group) * strips) * TILE_N + row;
        const Cursor at = cursor_of(route, stage);
        const int unit = at.unit + unit_at(row, slot % STAGE) % STAGE;
        if (o < group_out && unit < batch_taps(route, at) * CHUNK_UNITS) {
            const int tap = at.tap + unit / CHUNK_UNITS;
            const int c = chunk_channel(route, at) + unit % CHUNK_UNITS * VECTOR
                + static_cast<int>(item % VECTOR);
            const int i = tap / p.g.kernel_w, j = tap - i * p.g.kernel_w;
            const index_t from = element_of(p.weight, group * group_out + o, c, i, j);
            packed[item] = tile_weight(weight[from]);
        } else {
            from_acc(static_cast<acc_t>(0), packed + item);
        }
    }
}
