// launch: the struct that Python and a launch exchange, and how a launch fails.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
};

// Bounds defined by the linker: of static shared memory, which the shim puts into a section, and of
// this library.
extern "C" [[gnu::weak, gnu::visibility("hidden")]] char __start_hostcuda_shared[];
extern "C" [[gnu::weak, gnu::visibility("hidden")]] char __stop_hostcuda_shared[];
extern "C" [[gnu::visibility("hidden")]] char __ehdr_start[], _end[];

// Defined in runtime.cc.
#pragma GCC visibility push(hidden)
extern dim3 gridDim, blockDim;
extern uint3 blockIdx;  // of the current thread
extern uint3 threadIdx;
#pragma GCC visibility pop

namespace hostcuda {

constexpr int most_threads = 1024;

// The same struct as `Launch` in library.py.
struct Launch {
    // Inputs.
    void** arguments;  // address of each parameter of the kernel
    char* shared;      // dynamic shared memory
    char* stacks;      // one for each thread and one for signals, see stack_top
    long long shared_bytes, stack_bytes, guard_bytes;
    long long blocks, threads;
    unsigned long long seed;
    double seconds;  // limit of processor time, after which the launch fails

    // Results.
    long long failure;  // 0: none; 1: see message; 2: see address too
    long long block, thread;
    long long address;                // the address that could not be accessed
    long long instruction;            // the instruction at fault, as an offset in the library
    long long access;                 // 'r', 'w', or 0 if unknown
    long long loaded, stored, added;  // bytes of global memory, by functions of ptx.h
    long long in_shared;              // bytes of shared memory, if races are watched
    char message[256];
};

// A source location. As a default argument, `here()` is the location of the call.
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

#pragma GCC visibility push(hidden)

extern Launch* launch;  // the current launch

// Fail the launch with a message. No thread of it runs any more.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

#pragma GCC visibility pop

// Stacks begin at different distances from the ends of their pages, to use different cache sets.
inline char* stack_bottom(unsigned index) {
    return launch->stacks + index * (launch->guard_bytes + launch->stack_bytes) +
        launch->guard_bytes;
}
inline char* stack_top(unsigned index) {
    return stack_bottom(index) + launch->stack_bytes - index % 32 * 128;
}

// The kind of memory at an address.
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

inline void check_aligned(const void* address, std::size_t alignment, const char* what, Where at) {
    if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0)
        fail("%s:%d: %s of the misaligned address %p", at.file, at.line, what, address);
}

}  // namespace hostcuda
