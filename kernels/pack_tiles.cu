// pack_tiles: the weight as the fused kernel copies it to shared memory, stage by stage.
//
//   weight  (O, C/groups, KH, KW)  any strides
//   packed  (groups, strips of O/groups, stages, FACTOR_PARTS, TILE_N, STAGE units)
//                                  every element written once
//
// A thread takes a unit. Within a stage, units lie as unit_at says. What is no weight is 0: channels of the
// output behind the last, and the end of a stage that is not full. For TF32 the weight is rounded here, for
// three products it is split here, once.

// Load a unit: neighbouring channels of a tap. `unit` counts from the first of the batch.
__device__ inline void load_unit(
        const Launch& p, const scalar_t* __restrict__ weight, Cursor at, int unit, int o,
        acc_t* values) {
    const Tap tap = tap_at(p, at, unit / CHUNK_UNITS);
    const int c = tap.channel + at.chunk * CHUNK + unit % CHUNK_UNITS * VECTOR;
    const int i = quotient(tap.tap, p.by_kernel_w), j = tap.tap - i * p.g.kernel_w;
    const scalar_t* const from = weight + element_of(p.weight, o, c, i, j);
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        values[k] = to_acc(from[k * p.weight.c]);
    }
}

extern "C" __global__ void pack_tiles(
        const scalar_t* __restrict__ weight, vec16_t* __restrict__ packed, Launch p) {
    const int group_out = p.g.out_channels / p.g.groups;
    const int strips = (group_out + TILE_N - 1) / TILE_N;
    const Route route = route_of(p);
    const index_t units = static_cast<index_t>(p.g.groups) * strips * p.stages * B_PART;
    for (index_t item = first_item(); item < units; item += item_stride()) {
        const index_t tile = item / B_PART, strip = tile / p.stages;
        const int slot = static_cast<int>(item - tile * B_PART), row = slot / STAGE;
        const int group = static_cast<int>(strip / strips);
        const int in_group = static_cast<int>(strip - group * strips) * TILE_N + row;
        const Cursor at = cursor_of(route, static_cast<int>(tile - strip * p.stages));
        const int unit = at.unit + unit_at(row, slot % STAGE) % STAGE;
        acc_t values[VECTOR] = {};
        if (in_group < group_out && unit < batch_taps(route, at) * CHUNK_UNITS) {
            load_unit(p, weight, at, unit, group * group_out + in_group, values);
        }
        const Unit filled = unit_of(values);
#pragma unroll
        for (int part = 0; part < FACTOR_PARTS; ++part) {
            store16(packed + tile * B_UNITS + slot + part * B_PART, filled.part[part]);
        }
    }
}
