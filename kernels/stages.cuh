// stages: the order in which the fused kernel goes through taps and channels.
//
// A *run* is as many channels as lie in one group and one offset group. For each run and each batch of
// `plan_taps` taps, whose samples are planned once, come the run's chunks of CHUNK channels; and for each
// chunk its taps, tap by tap, in stages of STAGE units. The last stage of a chunk may not be full.

const int CHUNK_UNITS = CHUNK / VECTOR;

struct Cursor {
    int run, tap, chunk, unit;  // tap: the first of its batch; unit: the first of the stage
};

__device__ inline int chunk_stages(const Launch& p) {
    return (p.plan_taps * CHUNK_UNITS + STAGE - 1) / STAGE;
}

__device__ inline Cursor cursor_of(const Launch& p, int stage) {
    const int taps = p.g.kernel_h * p.g.kernel_w;
    const int batches = (taps + p.plan_taps - 1) / p.plan_taps;
    const int chunk = stage / chunk_stages(p), plan = chunk / p.chunks;
    Cursor at;
    at.run = plan / batches;
    at.tap = (plan - at.run * batches) * p.plan_taps;
    at.chunk = chunk - plan * p.chunks;
    at.unit = (stage - chunk * chunk_stages(p)) * STAGE;
    return at;
}

__device__ inline Cursor next_stage(const Launch& p, Cursor at) {
    at.unit += STAGE;
    if (at.unit < p.plan_taps * CHUNK_UNITS) {
        return at;
    }
    at.unit = 0;
    if (++at.chunk < p.chunks) {
        return at;
    }
    at.chunk = 0;
    at.tap += p.plan_taps;
    if (at.tap >= p.g.kernel_h * p.g.kernel_w) {
        at.tap = 0;
        ++at.run;
    }
    return at;
}

// Taps of the batch; the last one may have fewer.
__device__ inline int batch_taps(const Launch& p, Cursor at) {
    const int left = p.g.kernel_h * p.g.kernel_w - at.tap;
    return left < p.plan_taps ? left : p.plan_taps;
}

// First channel of the chunk, in the group.
__device__ inline int chunk_channel(const Launch& p, Cursor at) {
    return (at.run * p.chunks + at.chunk) * CHUNK;
}
