// runtime: what the libraries of all kernels have in common: threads, barriers, failures. It is
// compiled once, and linked into each of them.

#include <cstdlib>

#include "faults.h"
#include "scheduler.h"

dim3 gridDim, blockDim;
uint3 blockIdx, threadIdx;

namespace hostcuda {

Launch* launch;
Phases phases;

void run_grid(void (*kernel)()) {
    now.kernel = kernel;
    now.count = static_cast<unsigned>(launch->threads);
    now.random = launch->seed * 0x9E3779B97F4A7C15ULL | 1;  // not 0, and spread over all bits
    gridDim = {static_cast<unsigned>(launch->blocks), 1, 1};
    blockDim = {now.count, 1, 1};
    auto* const order = static_cast<unsigned*>(std::malloc(gridDim.x * sizeof(unsigned)));
    random_order(order, gridDim.x);
    {
        const Guard guard;
        for (unsigned i = 0; i < gridDim.x && launch->failure == 0; ++i) {
            blockIdx.x = order[i];
            run_block();
        }
    }
    std::free(order);
}

}  // namespace hostcuda
