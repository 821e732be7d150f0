// block: how the threads of one CUDA block wait for one another. Defined in runtime.cc.

#pragma once

#include "launch.h"

namespace hostcuda {

constexpr unsigned lanes_of_warp = 32;
constexpr unsigned most_warps = most_threads / lanes_of_warp;

// Combines what the lanes of a warp bring to a collective operation. If bit i of `active` is set,
// `brought[i]` points to the data of lane i, which stays valid until lane i goes on: the function
// writes the results there.
using Combine = void (*)(void* const* brought, unsigned active);

// Numbers of completed barriers.
struct Phases {
    unsigned block;              // __syncthreads calls
    unsigned warps[most_warps];  // __syncwarp calls of each warp
};

#pragma GCC visibility push(hidden)

extern Phases phases;

// Wait for all threads of the block. CUDA requires that they wait at the same barrier.
void meet_block(Where at);

// Perform an operation together with the lanes of `mask` in the current thread's warp. Lanes that
// have left the kernel are not waited for.
void meet_warp(unsigned mask, void* brought, Combine combine, Where at);

// Run all blocks of the current launch; a call of `kernel` runs the current thread.
void run_grid(void (*kernel)());

#pragma GCC visibility pop

}  // namespace hostcuda
