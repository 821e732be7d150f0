// races: reports data races. Two threads access the same byte, at least one of them writes, and no
// barrier orders the accesses.
//
// Compiled in on demand. GCC's thread sanitizer puts a call before every access; the functions that
// it calls are defined here instead of in its library. For each byte they store which thread wrote
// it last and which have read it since. Blocks are never ordered, whatever the order in which they
// run here: two blocks may access the same byte only if both read it or both use atomics. Accesses
// by memcpy are not seen.

#pragma once

#include <cstdio>
#include <cstdlib>

#include "block.h"

namespace hostcuda {

#ifndef HOSTCUDA_RACES

constexpr bool watches_races = false;
inline void forget_touches() {}
struct Atomic {
    Atomic() {}  // avoids the warning about an unused variable
};

#else

// Accesses are atomic while an object of this class exists. The compiler does not know that the
// sanitizer's functions read the flag, hence the compiler barriers.
static volatile bool in_atomic, in_touch;
struct Atomic {
    Atomic() { set(true); }
    ~Atomic() { set(false); }
    static void set(bool value) {
        asm volatile("" ::: "memory");
        in_atomic = value;
        asm volatile("" ::: "memory");
    }
};

constexpr bool watches_races = true;
constexpr unsigned several = ~0u;  // threads, or blocks
constexpr std::uintptr_t page_bytes = 4096;

constexpr unsigned several_of_warp = most_threads + 1;

struct Touch {
    unsigned who;  // thread + 1, or several_of_warp + warp, or several; 0: none yet
    unsigned block, phase, warp_phase;
    bool atomic;
};

struct Byte {
    Touch write, read;
};

struct Page {
    std::uintptr_t number;
    Page* next;  // in the same bucket
    Byte bytes[page_bytes];
};

static Page* buckets[4096];
static Page* latest;

inline Byte& byte_at(std::uintptr_t address) {
    const std::uintptr_t number = address / page_bytes;
    if (latest == nullptr || latest->number != number) {
        Page*& bucket = buckets[number % (sizeof buckets / sizeof *buckets)];
        latest = bucket;
        while (latest != nullptr && latest->number != number) latest = latest->next;
        if (latest == nullptr) {
            latest = static_cast<Page*>(std::calloc(1, sizeof(Page)));
            latest->number = number;
            latest->next = bucket;
            bucket = latest;
        }
    }
    return latest->bytes[address % page_bytes];
}

// Launches are ordered, so a new one starts without any history.
[[gnu::no_sanitize_thread]] inline void forget_touches() {
    in_atomic = in_touch = false;
    latest = nullptr;
    for (Page*& bucket : buckets)
        while (bucket != nullptr) {
            Page* const page = bucket;
            bucket = page->next;
            std::free(page);
        }
}

// The warp of an access by one thread, or by several of one warp.
inline unsigned warp_of(unsigned who) {
    return who < several_of_warp ? (who - 1) / lanes_of_warp : who - several_of_warp;
}

// Whether an earlier access is ordered before the current one on every GPU.
inline bool ordered(const Touch& touch, bool shared) {
    if (touch.who == 0) return true;
    if (touch.block != blockIdx.x) return shared;  // each block has its own shared memory
    if (touch.who == threadIdx.x + 1 || touch.phase != phases.block) return true;
    const bool same_warp =
        touch.who != several && warp_of(touch.who) == threadIdx.x / lanes_of_warp;
    return same_warp && touch.warp_phase != phases.warps[threadIdx.x / lanes_of_warp];
}

[[noreturn]] inline void report_race(const char* verb, const char* done, const Touch& by) {
    char thread[32] = "several threads", block[32] = "of several blocks";
    if (by.who < several_of_warp) std::snprintf(thread, sizeof thread, "thread %u", by.who - 1);
    if (by.block != several) std::snprintf(block, sizeof block, "of block %u", by.block);
    fail("race: %s what %s %s %s, and nothing puts them in order", verb, thread, block, done);
}

// Store an access, together with earlier ones that are not ordered before it.
inline void remember(Touch& last, const Touch& touch, bool shared) {
    if (ordered(last, shared)) {
        last = touch;
        return;
    }
    const unsigned warp = warp_of(touch.who);
    if (last.who != several && warp_of(last.who) != warp) last.who = several;
    if (last.who != several && last.who != touch.who) last.who = several_of_warp + warp;
    if (last.block != touch.block) last.block = several;
}

inline void touch_byte(Byte& byte, bool write, bool shared) {
    const char* const verb = write ? "writes" : "reads";
    const Touch touch = {threadIdx.x + 1, blockIdx.x, phases.block,
                         phases.warps[threadIdx.x / lanes_of_warp], in_atomic};
    if (!ordered(byte.write, shared) && !(touch.atomic && byte.write.atomic))
        report_race(verb, "wrote", byte.write);
    if (!write) return remember(byte.read, touch, shared);
    if (!ordered(byte.read, shared)) report_race(verb, "read", byte.read);
    remember(byte.write, touch, shared);
    byte.read = {};
}

inline void touch_bytes(const void* address, std::size_t size, bool write) {
    if (!is_on_stack(__builtin_frame_address(0))) return;  // the harness between two threads
    const bool shared = is_shared(address);
    const bool of_harness = is_within(address, __ehdr_start, _end) && !shared;
    if (of_harness || is_on_stack(address) || is_within(address, launch, launch + 1)) return;
    long long& bytes = in_atomic ? launch->added : write ? launch->stored : launch->loaded;
    if (shared)
        launch->in_shared += static_cast<long long>(size);
    else if (write || !in_atomic)
        bytes += static_cast<long long>(size);
    for (std::size_t i = 0; i < size; ++i) {
        Byte& byte = byte_at(reinterpret_cast<std::uintptr_t>(address) + i);
        touch_byte(byte, write || in_atomic, shared);
    }
}

// Called by the sanitizer before every access, those of this file included.
[[gnu::no_sanitize_thread]] inline void touched(const void* address, std::size_t size, bool write,
                                                const void* caller) {
    if (in_touch) return;
    in_touch = true;
    launch->instruction = static_cast<const char*>(caller) - __ehdr_start - 1;  // in the call
    touch_bytes(address, size, write);
    launch->instruction = 0;
    in_touch = false;
}

#endif

// Count the bytes of an access by a function of ptx.h, unless every access is counted anyway.
inline void count(long long Launch::* bytes, long long moved) {
    if constexpr (!watches_races) launch->*bytes += moved;
}

}  // namespace hostcuda

#ifdef HOSTCUDA_RACES

#define HOSTCUDA_UNWATCHED extern "C" [[gnu::no_sanitize_thread]] void
#define HOSTCUDA_TOUCH(name, size, write)                                     \
    HOSTCUDA_UNWATCHED __tsan_##name(const void* address) {                   \
        hostcuda::touched(address, size, write, __builtin_return_address(0)); \
    }
#define HOSTCUDA_TOUCHES(size)                        \
    HOSTCUDA_TOUCH(read##size, size, false)           \
    HOSTCUDA_TOUCH(write##size, size, true)           \
    HOSTCUDA_TOUCH(unaligned_read##size, size, false) \
    HOSTCUDA_TOUCH(unaligned_write##size, size, true)
HOSTCUDA_TOUCHES(1)
HOSTCUDA_TOUCHES(2)
HOSTCUDA_TOUCHES(4)
HOSTCUDA_TOUCHES(8)
HOSTCUDA_TOUCHES(16)

HOSTCUDA_UNWATCHED __tsan_read_range(const void* address, std::size_t size) {
    hostcuda::touched(address, size, false, __builtin_return_address(0));
}
HOSTCUDA_UNWATCHED __tsan_write_range(const void* address, std::size_t size) {
    hostcuda::touched(address, size, true, __builtin_return_address(0));
}
HOSTCUDA_UNWATCHED __tsan_init() {}
HOSTCUDA_UNWATCHED __tsan_func_entry(const void*) {}
HOSTCUDA_UNWATCHED __tsan_func_exit() {}

#endif
