// stages: the order in which the fused kernel goes through taps and channels.
//
// A *run* is as many channels as lie in one group and one offset group. For each run and each batch of
// `plan_taps` taps, whose samples are planned once, come the run's chunks of CHUNK channels; and for each
// chunk its taps, tap by tap, in stages of STAGE units. The last stage of a chunk may not be full. Where a
// run is one chunk, all runs are gone through as if they were one: its taps are those of the first, then
// those of the second, and so on.

const int CHUNK_UNITS = CHUNK / VECTOR;

struct Cursor {
    int run, tap, chunk, unit;  // tap: the first of its batch; unit: the first of the stage
};

// What the order depends on.
struct Route { int taps, plan_taps, chunks; };

__device__ inline Route route_of(const Launch& p) {
    return {p.route_taps, p.plan_taps, p.chunks};
}

__device__ inline int chunk_stages(Route route) {
    return (route.plan_taps * CHUNK_UNITS + STAGE - 1) / STAGE;
}

// Taps of a batch, and those that its last stage would reach.
__device__ inline int planned_taps(Route route) {
    return (chunk_stages(route) * STAGE + CHUNK_UNITS - 1) / CHUNK_UNITS;
}

__device__ inline Cursor cursor_of(Route route, int stage) {
    const int batches = (route.taps + route.plan_taps - 1) / route.plan_taps;
    const int chunk = stage / chunk_stages(route), plan = chunk / route.chunks;
    Cursor at;
    at.run = plan / batches;
    at.tap = (plan - at.run * batches) * route.plan_taps;
    at.chunk = chunk - plan * route.chunks;
    at.unit = (stage - chunk * chunk_stages(route)) * STAGE;
    return at;
}

__device__ inline Cursor next_stage(Route route, Cursor at) {
    at.unit += STAGE;
    if (at.unit < route.plan_taps * CHUNK_UNITS) {
        return at;
    }
    at.unit = 0;
    if (++at.chunk < route.chunks) {
        return at;
    }
    at.chunk = 0;
    at.tap += route.plan_taps;
    if (at.tap >= route.taps) {
        at.tap = 0;
        ++at.run;
    }
    return at;
}

// Taps of the batch; the last one may have fewer.
__device__ inline int batch_taps(Route route, Cursor at) {
    const int left = route.taps - at.tap;
    return left < route.plan_taps ? left : route.plan_taps;
}

// Tap `i` of a batch: which one of the kernel it is, and the first channel of its run, in the group.
struct Tap { int tap, channel; };

__device__ inline Tap tap_at(const Launch& p, Cursor at, int i) {
    const int tap = at.tap + i, run = quotient(tap, p.by_taps);
    return {tap - run * p.taps, (at.run + run) * p.chunks * CHUNK};
}
