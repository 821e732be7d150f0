// faults: turns errors of a kernel into a failed launch instead of a dead process.
//
// Accesses outside of buffers raise signals; undefined arithmetic calls functions of GCC's
// sanitizer library, which are defined here instead. A launch that exceeds its time fails in the
// same way. Only runtime.cc includes it.

#pragma once

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <ctime>

#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "launch.h"

namespace hostcuda {

[[noreturn]] void abandon_thread();  // never resume the current thread; defined in scheduler.h

inline void record_failure() {
    if (launch->failure == 0) launch->failure = 1;
    launch->block = blockIdx.x;
    launch->thread = threadIdx.x;
}

void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(launch->message, sizeof launch->message, format, values);
    va_end(values);
    record_failure();
    abandon_thread();
}

// The state of the interrupted code, as far as the processor reports it.
struct Interrupted {
    const char* instruction;
    const char* stack_pointer;
    int access;  // 'r' for a read, 'w' for a write, 0 if unknown
};

inline Interrupted interrupted(const void* context) {
    const mcontext_t& state = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    return {reinterpret_cast<const char*>(state.gregs[REG_RIP]),
            reinterpret_cast<const char*>(state.gregs[REG_RSP]),
            state.gregs[REG_ERR] & 2 ? 'w' : 'r'};
#elif defined(__aarch64__)
    return {reinterpret_cast<const char*>(state.pc), reinterpret_cast<const char*>(state.sp), 0};
#else
#error "add the program counter and the stack pointer of this processor"
#endif
}

inline void on_signal(int signal, siginfo_t* info, void* context) {
    const Interrupted at = interrupted(context);
    const bool in_kernel = is_on_stack(at.stack_pointer);
    if (signal == SIGPROF) {
        if (in_kernel) fail("gave up after %g s of processor time", launch->seconds);
        return;  // between two threads; the timer will fire again
    }
    if (!in_kernel) {  // an error of the harness: let the process die
        std::signal(signal, SIG_DFL);
        return;
    }
    // A non-canonical address raises no page fault, and the processor does not report it.
    const bool known = info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR;
    launch->failure = 2;
    launch->address = known ? reinterpret_cast<long long>(info->si_addr) : -1;
    launch->instruction = at.instruction - __ehdr_start;
    launch->access = known ? at.access : 0;
    record_failure();
    abandon_thread();
}

// Handles signals and limits the time while an object of this class exists.
class Guard {
   public:
    Guard() {
        const stack_t stack = {stack_bottom(most_threads), 0,
                               static_cast<size_t>(launch->stack_bytes)};
        sigaltstack(&stack, &stack_before_);
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        // SA_NODEFER: the handler leaves by `abandon_thread` and would never unblock a signal.
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 3; ++i) sigaction(signals_[i], &action, &actions_before_[i]);

        sigevent event = {};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGPROF;
        event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
        timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer_);
        const time_t seconds = static_cast<time_t>(launch->seconds);
        const long rest = static_cast<long>((launch->seconds - static_cast<double>(seconds)) * 1e9);
        const itimerspec times = {{0, 1000000}, {seconds, rest}};
        timer_settime(timer_, 0, &times, nullptr);
    }
    ~Guard() {
        timer_delete(timer_);
        for (int i = 0; i < 3; ++i) sigaction(signals_[i], &actions_before_[i], nullptr);
        sigaltstack(&stack_before_, nullptr);
    }

   private:
    static constexpr int signals_[3] = {SIGSEGV, SIGBUS, SIGPROF};
    struct sigaction actions_before_[3];
    stack_t stack_before_;
    timer_t timer_;
};

}  // namespace hostcuda

// The functions that the sanitizer calls. Their argument begins with a source location.
struct SanitizerLocation {
    const char* file;
    unsigned line, column;
};

#define HOSTCUDA_UNDEFINED(check, what)                                 \
    extern "C" [[noreturn]] void __ubsan_handle_##check##_abort(        \
        const SanitizerLocation* location) {                            \
        hostcuda::fail("%s:%u: " what, location->file, location->line); \
    }

HOSTCUDA_UNDEFINED(out_of_bounds, "index outside of an array")
HOSTCUDA_UNDEFINED(float_cast_overflow, "conversion of a number that the integer cannot hold")
HOSTCUDA_UNDEFINED(add_overflow, "signed overflow of +")
HOSTCUDA_UNDEFINED(sub_overflow, "signed overflow of -")
HOSTCUDA_UNDEFINED(mul_overflow, "signed overflow of *")
HOSTCUDA_UNDEFINED(negate_overflow, "signed overflow of -")
HOSTCUDA_UNDEFINED(divrem_overflow, "division by zero, or overflow of /")
HOSTCUDA_UNDEFINED(shift_out_of_bounds, "shift by too much")
HOSTCUDA_UNDEFINED(type_mismatch_v1, "misaligned access")
