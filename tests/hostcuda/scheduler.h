// scheduler: the threads of one CUDA block on one processor: their order, barriers, deadlock reports.
// Only runtime.cc includes it.
//
// Threads run one at a time and start one after the other on the same stack. A thread that has to
// wait keeps that stack, and the next one starts on a fresh stack. So a kernel without barriers is
// a plain loop, and it need not be known in advance which kernels have barriers. The order in which
// threads start, and which runnable thread goes on next, are random and given by the seed, because
// a GPU promises no order either.

#pragma once

#include "block.h"
#include "faults.h"
#include "fibers.h"

namespace hostcuda {

enum class State { runnable, at_barrier, at_warp, exited };

struct Thread {
    Context context;
    State state;
    Where at;         // the barrier or warp operation at which it waits
    unsigned mask;    // lanes of its warp that take part in the operation
    Combine combine;  // the operation
    void* brought;    // its data
};

struct Warp {
    unsigned alive;    // lanes that have not left the kernel
    unsigned waiting;  // lanes that wait for other lanes
};

static struct {
    Context scheduler;
    void (*kernel)();  // runs as the current thread
    Thread threads[most_threads];
    Warp warps[most_warps];
    unsigned count, started, exited, at_barrier;
    unsigned order[most_threads];               // in which threads start
    unsigned ready[most_threads], ready_count;  // threads that may go on
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
        const unsigned j = random_below(i + 1);
        items[i] = items[j];
        items[j] = i;
    }
}

// Stop the current thread until it is resumed.
inline void wait(State state, Where at) {
    Thread& self = now.threads[threadIdx.x];
    self.state = state;
    self.at = at;
    change(self.context, now.scheduler);
}

inline void resume(unsigned thread) {
    if (thread == threadIdx.x) return;  // the current thread has not stopped
    now.threads[thread].state = State::runnable;
    now.ready[now.ready_count++] = thread;
}

// Wait for all threads of the block. CUDA requires that they wait at the same barrier.
void meet_block(Where at) {
    if (now.at_barrier == 0) now.first_at_barrier = threadIdx.x;
    const Where first = now.at_barrier == 0 ? at : now.threads[now.first_at_barrier].at;
    if (at != first)
        fail("divergent barrier: thread %u waits at %s:%d, and thread %u at %s:%d",
             now.first_at_barrier, first.file, first.line, threadIdx.x, at.file, at.line);
    if (++now.at_barrier < now.count) return wait(State::at_barrier, at);
    now.at_barrier = 0;
    ++phases.block;
    for (unsigned i = 0; i < now.count; ++i) resume(i);
}

inline bool same_operation(const Thread& one, const Thread& other) {
    return one.mask == other.mask && one.combine == other.combine && !(one.at != other.at);
}

// If all lanes that `lane` waits for wait at the same operation, perform it and resume them.
inline bool complete(unsigned warp_index, unsigned lane) {
    Warp& warp = now.warps[warp_index];
    const unsigned first = warp_index * lanes_of_warp;
    const Thread& one = now.threads[first + lane];
    const unsigned active = one.mask & warp.alive;
    if (active & ~warp.waiting) return false;
    void* brought[lanes_of_warp] = {};
    for (unsigned i = 0; i < lanes_of_warp; ++i) {
        if (!(active >> i & 1)) continue;
        if (!same_operation(one, now.threads[first + i])) return false;
        brought[i] = now.threads[first + i].brought;
    }
    one.combine(brought, active);
    warp.waiting &= ~active;
    for (unsigned i = 0; i < lanes_of_warp; ++i)
        if (active >> i & 1) resume(first + i);
    return true;
}

// Perform an operation together with the lanes of `mask` in the current thread's warp. Lanes that
// have left the kernel are not waited for.
void meet_warp(unsigned mask, void* brought, Combine combine, Where at) {
    const unsigned lane = threadIdx.x % lanes_of_warp;
    const unsigned warp = threadIdx.x / lanes_of_warp;
    if (!(mask >> lane & 1))
        fail("%s:%d: lane %u is not in its own mask %08x", at.file, at.line, lane, mask);
    Thread& self = now.threads[threadIdx.x];
    self.at = at;
    self.mask = mask;
    self.combine = combine;
    self.brought = brought;
    now.warps[warp].waiting |= 1u << lane;
    if (!complete(warp, lane)) wait(State::at_warp, at);
}

// The current thread has returned from the kernel. Lanes of its warp may have waited for it.
inline void end_thread() {
    now.threads[threadIdx.x].state = State::exited;
    ++now.exited;
    const unsigned index = threadIdx.x / lanes_of_warp;
    Warp& warp = now.warps[index];
    warp.alive &= ~(1u << threadIdx.x % lanes_of_warp);
    for (unsigned lane = 0; lane < lanes_of_warp && warp.waiting != 0; ++lane)
        if (warp.waiting >> lane & 1) complete(index, lane);
}

[[noreturn]] inline void abandon_thread() {
    static Context never_resumed;
    change(never_resumed, now.scheduler);
    __builtin_unreachable();
}

// Entry point of a stack: start threads until one of them waits.
[[noreturn]] inline void run_threads() {
    while (now.started < now.count) {
        threadIdx.x = now.order[now.started++];
        now.kernel();
        end_thread();
    }
    abandon_thread();
}

// Whether `waiting` waits for `thread`, which will never come.
inline bool waits_in_vain(unsigned waiting, unsigned thread) {
    const Thread& one = now.threads[waiting];
    const Thread& other = now.threads[thread];
    if (one.state == State::at_barrier) return other.state != State::at_barrier;
    const bool wanted = one.mask >> thread % lanes_of_warp & 1 && other.state != State::exited;
    return thread / lanes_of_warp == waiting / lanes_of_warp && wanted &&
        (other.state != State::at_warp || !same_operation(one, other));
}

// No thread can go on: report a thread that waits and one that it waits for.
inline void explain_deadlock() {
    const State kind = now.at_barrier > 0 ? State::at_barrier : State::at_warp;
    unsigned waiting = 0, missing = 0;
    while (now.threads[waiting].state != kind) ++waiting;
    while (!waits_in_vain(waiting, missing)) ++missing;
    const Where at = now.threads[waiting].at;
    const Thread& other = now.threads[missing];
    char where[128] = "has left the kernel";
    if (other.state != State::exited)
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
    now.started = now.exited = now.at_barrier = now.ready_count = 0;
    random_order(now.order, now.count);
    for (unsigned i = 0; i < now.count; ++i) now.threads[i].state = State::runnable;
    for (unsigned first = 0; first < now.count; first += lanes_of_warp) {
        const unsigned lanes = now.count - first;
        now.warps[first / lanes_of_warp] = {lanes < lanes_of_warp ? (1u << lanes) - 1 : ~0u, 0};
        phases.warps[first / lanes_of_warp] = 0;
    }
    for (unsigned stack = 0; now.started < now.count && launch->failure == 0; ++stack) {
        Context fresh;
        prepare(fresh, stack_top(stack), stack_bottom(stack), run_threads);
        change(now.scheduler, fresh);
    }
    while (now.ready_count > 0 && launch->failure == 0) {
        const unsigned i = random_below(now.ready_count);
        threadIdx.x = now.ready[i];
        now.ready[i] = now.ready[--now.ready_count];
        change(now.scheduler, now.threads[threadIdx.x].context);
    }
    if (now.exited < now.count && launch->failure == 0) explain_deadlock();
}

}  // namespace hostcuda
