// shim: CUDA C++ for the host's compiler. It comes before the text of a kernel, entry.h after it.

#pragma once

#include "builtins.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) alignas(bytes)

// One copy is enough, since blocks run one after the other. "used": run_block fills it with poison.
#define __shared__ static __attribute__((section("hostcuda_shared"), used))

#define __builtin_assume(truth) \
    ((truth) ? void() : hostcuda::fail("%s:%d: assumed %s", __FILE__, __LINE__, #truth))

constexpr int warpSize = 32;

namespace hostcuda {

// The data of a lane in a shuffle.
template <class T>
struct Shuffled {
    T value;
    unsigned source;  // the lane whose value it receives
};

template <class T>
void shuffle_lanes(void* const* brought, unsigned active) {
    T values[lanes_of_warp];
    std::memset(values, 0xFF, sizeof values);  // inactive lanes give poison
    for (unsigned i = 0; i < lanes_of_warp; ++i)
        if (active >> i & 1) values[i] = static_cast<Shuffled<T>*>(brought[i])->value;
    for (unsigned i = 0; i < lanes_of_warp; ++i) {
        if (!(active >> i & 1)) continue;
        auto& lane = *static_cast<Shuffled<T>*>(brought[i]);
        lane.value = values[lane.source];
    }
}

template <class T>
T shuffle(unsigned mask, T value, unsigned source, Where at) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "the GPU shuffles 4 or 8 bytes");
    Shuffled<T> lane = {value, source};
    meet_warp(mask, &lane, shuffle_lanes<T>, at);
    return lane.value;
}

inline void vote_lanes(void* const* brought, unsigned active) {
    unsigned votes = 0;
    for (unsigned i = 0; i < lanes_of_warp; ++i)
        if (active >> i & 1) votes |= *static_cast<unsigned*>(brought[i]) << i;
    for (unsigned i = 0; i < lanes_of_warp; ++i)
        if (active >> i & 1) *static_cast<unsigned*>(brought[i]) = votes;
}

inline unsigned lane_index() { return threadIdx.x % lanes_of_warp; }

}  // namespace hostcuda

inline void __syncthreads(hostcuda::Where at = hostcuda::here()) { hostcuda::meet_block(at); }

inline void __syncwarp(unsigned mask = ~0u, hostcuda::Where at = hostcuda::here()) {
    // The lane that completes the operation is of the same warp. Shuffles do not order accesses.
    const auto meet = [](void* const*, unsigned) {
        ++hostcuda::phases.warps[threadIdx.x / warpSize];
    };
    hostcuda::meet_warp(mask, nullptr, meet, at);
}

inline unsigned __ballot_sync(unsigned mask, int vote, hostcuda::Where at = hostcuda::here()) {
    unsigned votes = vote != 0;
    hostcuda::meet_warp(mask, &votes, hostcuda::vote_lanes, at);
    return votes;
}

inline int __any_sync(unsigned mask, int vote, hostcuda::Where at = hostcuda::here()) {
    return __ballot_sync(mask, vote, at) != 0;
}

inline int __all_sync(unsigned mask, int vote, hostcuda::Where at = hostcuda::here()) {
    return __ballot_sync(mask, vote == 0, at) == 0;
}

// `width` divides the warp into segments. A lane whose source is outside its segment receives its
// own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              hostcuda::Where at = hostcuda::here()) {
    const unsigned size = static_cast<unsigned>(width), lane = hostcuda::lane_index();
    return hostcuda::shuffle(mask, value, lane / size * size + static_cast<unsigned>(source) % size,
                             at);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 hostcuda::Where at = hostcuda::here()) {
    const unsigned size = static_cast<unsigned>(width), lane = hostcuda::lane_index();
    return hostcuda::shuffle(mask, value, lane % size < delta ? lane : lane - delta, at);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   hostcuda::Where at = hostcuda::here()) {
    const unsigned size = static_cast<unsigned>(width), lane = hostcuda::lane_index();
    return hostcuda::shuffle(mask, value, lane % size + delta < size ? lane + delta : lane, at);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = warpSize,
                  hostcuda::Where at = hostcuda::here()) {
    const unsigned size = static_cast<unsigned>(width), lane = hostcuda::lane_index();
    const unsigned source = lane ^ static_cast<unsigned>(other);
    return hostcuda::shuffle(mask, value, source < lane / size * size + size ? source : lane, at);
}

// Which threads happen to be active is not defined, so no correct kernel can use it.
[[gnu::error("which threads are active is not defined; pass an explicit mask")]]
unsigned __activemask();

#include "ptx.h"
#include "tensor_core_ptx.h"
