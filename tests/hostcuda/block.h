// One block of CUDA threads on one processor: who runs, who waits for whom, and who waits in vain.
//
// Threads start one after the other on the same stack. A thread that has to wait keeps that stack,
// and the next one starts on a fresh stack. So a kernel without barriers is a plain loop, and
// nobody has to say beforehand which kernels have them. Threads start in a random order (given by
// the seed), and at random one is picked of those that may go on: a GPU promises no order either.

#pragma once

#include "fibers.h"
#include "launch.h"

namespace hostcuda {

constexpr unsigned lanes_of_warp = 32;

// What the lanes of a warp do once they have met: `brought[i]` is what lane i came with, if bit i
// of `active` is set. It lives until lane i goes on, so results can be left in it.
using Combine = void (*)(void* const* brought, unsigned active);

enum class State { runnable, at_barrier, at_warp, gone };

struct Thread {
    Context context;
    State state;
    Where at;         // where it waits
    unsigned mask;    // for which lanes of its warp
    Combine combine;  // to do what
    void* brought;
};

struct Warp {
    unsigned alive;  // lanes that have not left the kernel
    unsigned met;    // lanes that wait for other lanes
    unsigned phase;  // how often its lanes have met at a barrier
};

static struct {
    Context scheduler;
    void (*kernel)();  // runs as the current thread
    Thread threads[most_threads];
    Warp warps[most_threads / lanes_of_warp];
    unsigned count, started, gone, at_barrier;
    unsigned phase;  // how often the block has met at a barrier
    unsigned order[most_threads];               // in which they start
    unsigned ready[most_threads], ready_count;  // those that may go on
    unsigned first_at_barrier;
    unsigned long long random;
} now;

// A random number from 0 to bound - 1 (xorshift*).
inline unsigned random_below(unsigned bound) {
    now.random ^= now.random >> 12;
    now.random ^= now.random << 25;
    now.random ^= now.random >> 27;
    return static_cast<unsigned>(((now.random * 0x2545F4914F6CDD1DULL) >> 32) * bound >> 32);
}

inline void random_order(unsigned* items, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
        const unsigned place = random_below(i + 1);
        items[i] = items[place];
        items[place] = i;
    }
}

inline void wait(State state, Where at) {
    Thread& self = now.threads[threadIdx.x];
    self.state = state;
    self.at = at;
    change(self.context, now.scheduler);
}

inline void resume(unsigned thread) {
    if (thread == threadIdx.x) return;  // it has not stopped
    now.threads[thread].state = State::runnable;
    now.ready[now.ready_count++] = thread;
}

// Meet every thread of the block. CUDA wants all of them at the same place.
inline void meet_block(Where at) {
    if (now.at_barrier == 0) now.first_at_barrier = threadIdx.x;
    const Where first = now.at_barrier == 0 ? at : now.threads[now.first_at_barrier].at;
    if (at != first)
        fail("divergent barrier: thread %u waits at %s:%d, and thread %u at %s:%d",
             now.first_at_barrier, first.file, first.line, threadIdx.x, at.file, at.line);
    if (++now.at_barrier < now.count) return wait(State::at_barrier, at);
    now.at_barrier = 0;
    ++now.phase;
    for (unsigned i = 0; i < now.count; ++i) resume(i);
}

inline bool meet_at_same_place(const Thread& one, const Thread& other) {
    return one.mask == other.mask && one.combine == other.combine && !(one.at != other.at);
}

// If all that `lane` waits for are there, for the same thing, do it and let them go on.
inline bool settle(unsigned warp_index, unsigned lane) {
    Warp& warp = now.warps[warp_index];
    const unsigned first = warp_index * lanes_of_warp;
    const Thread& one = now.threads[first + lane];
    const unsigned active = one.mask & warp.alive;
    if (active & ~warp.met) return false;
    void* brought[lanes_of_warp] = {};
    for (unsigned i = 0; i < lanes_of_warp; ++i) {
        if (!(active >> i & 1)) continue;
        if (!meet_at_same_place(one, now.threads[first + i])) return false;
        brought[i] = now.threads[first + i].brought;
    }
    one.combine(brought, active);
    warp.met &= ~active;
    for (unsigned i = 0; i < lanes_of_warp; ++i)
        if (active >> i & 1) resume(first + i);
    return true;
}

// Meet the lanes of `mask` in the own warp; those that have left the kernel do not count.
inline void meet_warp(unsigned mask, void* brought, Combine combine, Where at) {
    const unsigned lane = threadIdx.x % lanes_of_warp;
    const unsigned warp = threadIdx.x / lanes_of_warp;
    if (!(mask >> lane & 1))
        fail("%s:%d: lane %u is not in its own mask %08x", at.file, at.line, lane, mask);
    Thread& self = now.threads[threadIdx.x];
    self.at = at;
    self.mask = mask;
    self.combine = combine;
    self.brought = brought;
    now.warps[warp].met |= 1u << lane;
    if (!settle(warp, lane)) wait(State::at_warp, at);
}

// The current thread has returned from the kernel; some of its warp may have waited for that.
inline void end_thread() {
    now.threads[threadIdx.x].state = State::gone;
    ++now.gone;
    const unsigned index = threadIdx.x / lanes_of_warp;
    Warp& warp = now.warps[index];
    warp.alive &= ~(1u << threadIdx.x % lanes_of_warp);
    for (unsigned lane = 0; lane < lanes_of_warp && warp.met != 0; ++lane)
        if (warp.met >> lane & 1) settle(index, lane);
}

[[noreturn]] inline void give_up() {
    static Context left_for_good;
    change(left_for_good, now.scheduler);
    __builtin_unreachable();
}

// What runs on a stack: as many threads as can be started before one of them waits.
[[noreturn]] inline void run_threads() {
    while (now.started < now.count) {
        threadIdx.x = now.order[now.started++];
        now.kernel();
        end_thread();
    }
    give_up();
}

inline bool waits_in_vain(unsigned waiting, unsigned thread) {
    const Thread& one = now.threads[waiting];
    const Thread& other = now.threads[thread];
    if (one.state == State::at_barrier) return other.state != State::at_barrier;
    const bool wanted = one.mask >> thread % lanes_of_warp & 1 && other.state != State::gone;
    return thread / lanes_of_warp == waiting / lanes_of_warp && wanted &&
           (other.state != State::at_warp || !meet_at_same_place(one, other));
}

// Nobody can go on: say who waits for whom.
inline void explain_deadlock() {
    const State kind = now.at_barrier > 0 ? State::at_barrier : State::at_warp;
    unsigned waiting = 0, missing = 0;
    while (now.threads[waiting].state != kind) ++waiting;
    while (!waits_in_vain(waiting, missing)) ++missing;
    const Where at = now.threads[waiting].at;
    const Thread& other = now.threads[missing];
    char where[128] = "has left the kernel";
    if (other.state != State::gone)
        std::snprintf(where, sizeof where, "waits at %s:%d", other.at.file, other.at.line);
    std::snprintf(launch->message, sizeof launch->message,
                  "divergent barrier: thread %u waits at %s:%d for thread %u, which %s", waiting,
                  at.file, at.line, missing, where);
    threadIdx.x = waiting;
    record_failure();
}

inline void run_block() {
    constexpr int poison = 0xFF;  // NaN in every floating-point format, and -1
    if (launch->shared_bytes > 0)
        std::memset(launch->shared, poison, static_cast<size_t>(launch->shared_bytes));
    if (__start_hostcuda_shared != nullptr)
        std::memset(__start_hostcuda_shared, poison,
                    static_cast<size_t>(__stop_hostcuda_shared - __start_hostcuda_shared));
    now.started = now.gone = now.at_barrier = now.ready_count = 0;
    random_order(now.order, now.count);
    for (unsigned i = 0; i < now.count; ++i) now.threads[i].state = State::runnable;
    for (unsigned first = 0; first < now.count; first += lanes_of_warp) {
        const unsigned lanes = now.count - first;
        now.warps[first / lanes_of_warp] = {lanes < lanes_of_warp ? (1u << lanes) - 1 : ~0u, 0, 0};
    }
    for (unsigned stack = 0; now.started < now.count && launch->failure == 0; ++stack) {
        Context fresh;
        prepare(fresh, stack_top(stack), stack_bottom(stack), run_threads);
        change(now.scheduler, fresh);
    }
    while (now.ready_count > 0 && launch->failure == 0) {
        const unsigned place = random_below(now.ready_count);
        threadIdx.x = now.ready[place];
        now.ready[place] = now.ready[--now.ready_count];
        change(now.scheduler, now.threads[threadIdx.x].context);
    }
    if (now.gone < now.count && launch->failure == 0) explain_deadlock();
}

}  // namespace hostcuda
