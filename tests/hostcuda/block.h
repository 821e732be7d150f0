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

constexpr int lanes_of_warp = 32;

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
};

static struct {
    Context scheduler;
    void (*kernel)();  // runs as the current thread
    Thread threads[most_threads];
    Warp warps[most_threads / lanes_of_warp];
    int count;
    int order[most_threads], started;
    int ready[most_threads], ready_count;  // those that may go on
    int first_at_barrier, at_barrier, gone;
    unsigned long long random;
} now;

// A random number from 0 to bound - 1 (xorshift*).
inline int random_below(long long bound) {
    now.random ^= now.random >> 12;
    now.random ^= now.random << 25;
    now.random ^= now.random >> 27;
    const unsigned long long high = (now.random * 0x2545F4914F6CDD1DULL) >> 32;
    return static_cast<int>((high * static_cast<unsigned long long>(bound)) >> 32);
}

inline void random_order(int* items, long long count) {
    for (long long i = 0; i < count; ++i) {
        const int place = random_below(i + 1);
        items[i] = items[place];
        items[place] = static_cast<int>(i);
    }
}

inline void wait(State state, Where at) {
    Thread& self = now.threads[thread];
    self.state = state;
    self.at = at;
    change(self.context, now.scheduler);
}

inline void resume(int other) {
    if (other == thread) return;  // it has not stopped
    now.threads[other].state = State::runnable;
    now.ready[now.ready_count++] = other;
}

// Meet every thread of the block. CUDA wants all of them at the same place.
inline void meet_block(Where at) {
    if (now.at_barrier == 0) now.first_at_barrier = static_cast<int>(thread);
    const Where other = now.at_barrier == 0 ? at : now.threads[now.first_at_barrier].at;
    if (at != other)
        fail("divergent barrier: this thread is at %s:%d, thread %d at %s:%d", at.file, at.line,
             now.first_at_barrier, other.file, other.line);
    if (++now.at_barrier < now.count) return wait(State::at_barrier, at);
    now.at_barrier = 0;
    for (int i = 0; i < now.count; ++i) resume(i);
}

// If all that `lane` waits for are there, for the same thing, do it and let them go on.
inline bool settle(int warp_index, int lane) {
    Warp& warp = now.warps[warp_index];
    Thread* const lanes = now.threads + warp_index * lanes_of_warp;
    const Thread& one = lanes[lane];
    const unsigned active = one.mask & warp.alive;
    if (active & ~warp.met) return false;
    void* brought[lanes_of_warp] = {};
    for (int i = 0; i < lanes_of_warp; ++i) {
        if (!(active >> i & 1)) continue;
        const Thread& other = lanes[i];
        if (other.mask != one.mask || other.combine != one.combine || other.at != one.at)
            return false;
        brought[i] = other.brought;
    }
    warp.met &= ~active;
    one.combine(brought, active);
    for (int i = 0; i < lanes_of_warp; ++i)
        if (active >> i & 1) resume(warp_index * lanes_of_warp + i);
    return true;
}

// Meet the lanes of `mask` in the own warp; those that have left the kernel do not count.
inline void meet_warp(unsigned mask, void* brought, Combine combine, Where at) {
    Thread& self = now.threads[thread];
    const int lane = static_cast<int>(thread) % lanes_of_warp;
    const int warp = static_cast<int>(thread) / lanes_of_warp;
    if (!(mask >> lane & 1))
        fail("%s:%d: lane %d calls with the mask %08x of others", at.file, at.line, lane, mask);
    self.at = at;
    self.mask = mask;
    self.combine = combine;
    self.brought = brought;
    now.warps[warp].met |= 1u << lane;
    if (!settle(warp, lane)) wait(State::at_warp, at);
}

// The thread has returned from the kernel: others may have waited for it to come or go.
inline void end_thread() {
    now.threads[thread].state = State::gone;
    ++now.gone;
    const int index = static_cast<int>(thread) / lanes_of_warp;
    Warp& warp = now.warps[index];
    warp.alive &= ~(1u << (thread % lanes_of_warp));
    for (int lane = 0; lane < lanes_of_warp && warp.met != 0; ++lane)
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
        thread = now.order[now.started++];
        now.kernel();
        end_thread();
    }
    give_up();
}

// Nobody can go on: say who waits for whom.
inline void explain_deadlock() {
    const State kind = now.at_barrier > 0 ? State::at_barrier : State::at_warp;
    int waiting = 0;
    while (now.threads[waiting].state != kind) ++waiting;
    const Thread& one = now.threads[waiting];
    const int first_lane = waiting - waiting % lanes_of_warp;
    int missing = 0;
    for (int i = 0; i < now.count; ++i) {
        const Thread& other = now.threads[i];
        const bool wanted = kind == State::at_barrier || (one.mask >> (i - first_lane) & 1);
    }
}

char* stack_top(long long index) {...}

