// What passes between Python and a launch, and how a launch is given up.

#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
};

// The linker gives the ends of static shared memory, for which the shim has a section of its own,
// and of this library as a whole.
extern "C" [[gnu::weak, gnu::visibility("hidden")]] char __start_hostcuda_shared[];
extern "C" [[gnu::weak, gnu::visibility("hidden")]] char __stop_hostcuda_shared[];
extern "C" [[gnu::visibility("hidden")]] char __ehdr_start[], _end[];

static dim3 gridDim, blockDim;
static uint3 blockIdx;   // the CUDA block that runs
static uint3 threadIdx;  // and its thread

namespace hostcuda {

constexpr int most_threads = 1024;

// `library.Launch` is the same struct.
struct Launch {
    // What Python asks for.
    void** arguments;  // address of each parameter of the kernel
    char* shared;      // dynamic shared memory
    char* stacks;      // one for each thread and one for signals, see stack_top
    long long shared_bytes, stack_bytes, guard_bytes;
    long long blocks, threads;
    unsigned long long seed;
    double seconds;  // of processor time, after which the launch is given up

    // What it is told.
    long long failure;      // 0: none; 1: see message; 2: see address too
    long long block, thread;
    long long address;      // that could not be accessed
    long long instruction;  // that did it: its place in the library
    long long access;       // 'r', 'w', or 0 if it cannot be told
    long long loaded, stored, added;  // bytes of global memory, by the intrinsics
    long long in_shared;              // bytes of shared memory, if races are watched
    char message[256];
};

// A place in the text of a kernel. As a default argument, `here()` is the place of the call.
struct Where {
    const char* file;
    int line;
};

constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
}

inline bool operator!=(Where a, Where b) {
    return a.line != b.line || std::strcmp(a.file, b.file) != 0;
}

static Launch* launch;        // the one that runs
[[noreturn]] void give_up();  // leave all threads where they are; in block.h

inline void record_failure() {
    if (launch->failure == 0) launch->failure = 1;
    launch->block = blockIdx.x;
    launch->thread = threadIdx.x;
}

// Stacks begin at different distances from their pages' ends, else all compete for one cache set.
inline char* stack_bottom(unsigned index) {
    return launch->stacks + index * (launch->guard_bytes + launch->stack_bytes) +
           launch->guard_bytes;
}
inline char* stack_top(unsigned index) {
    return stack_bottom(index) + launch->stack_bytes - index % 32 * 128;
}

// What kind of memory is at an address?
inline bool is_within(const void* address, const void* begin, const void* end) {
    return address >= begin && address < end;
}
inline bool is_on_stack(const void* address) {
    return is_within(address, launch->stacks, stack_bottom(most_threads));
}
inline bool is_shared(const void* address) {
    return is_within(address, launch->shared, launch->shared + launch->shared_bytes) ||
           is_within(address, __start_hostcuda_shared, __stop_hostcuda_shared);
}

// Give the launch up with a message. Nothing of the kernel runs any more.
[[noreturn, gnu::format(printf, 1, 2)]] inline void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(launch->message, sizeof launch->message, format, values);
    va_end(values);
    record_failure();
    give_up();
}

inline void check_aligned(const void* address, std::size_t alignment, const char* what, Where at) {
    if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0)
        fail("%s:%d: %s of the misaligned address %p", at.file, at.line, what, address);
}

}  // namespace hostcuda
