// What a kernel must not do becomes a failed launch instead of a dead process:
// accesses outside of memory (signals) and undefined arithmetic (GCC's sanitizer calls, whose
// library is replaced here). A launch that takes too long ends in the same way.

#pragma once

#include <csignal>
#include <ctime>

#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "block.h"

namespace hostcuda {

// Where the interrupted code stood, and whether it wrote, as far as the processor tells.
struct Interrupted {
    const char* instruction;
    const char* stack_pointer;
    int access;  // 'r', 'w', or 0
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
#error "say here how to read the program counter and the stack pointer"
#endif
}

inline void on_signal(int signal, siginfo_t* info, void* context) {
    const Interrupted at = interrupted(context);
    const bool in_kernel = is_on_stack(at.stack_pointer);
    if (signal == SIGPROF) {
        if (in_kernel) fail("gave up after %g s of processor time", launch->seconds);
        return;  // between two threads; the timer comes again
    }
    if (!in_kernel) {  // the harness itself is wrong: die as usual
        std::signal(signal, SIG_DFL);
        return;
    }
    // A non-canonical address is no page fault: the processor does not tell which it was.
    const bool known = info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR;
    launch->failure = 2;
    launch->address = known ? reinterpret_cast<long long>(info->si_addr) : -1;
    launch->instruction = at.instruction - __ehdr_start;
    launch->access = known ? at.access : 0;
    record_failure();
    give_up();
}

// Takes over the signals for as long as it lives.
class Guard {
   public:
    Guard() {
        const stack_t stack = {stack_bottom(most_threads), 0,
                               static_cast<size_t>(launch->stack_bytes)};
        sigaltstack(&stack, &stack_before_);
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        // No signal is blocked in the handler, as it does not return but leaves by `give_up`.
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

// The sanitizer's calls. Each passes data that begins with the place in the source.
struct SanitizerPlace {
    const char* file;
    unsigned line, column;
};

#define HOSTCUDA_UNDEFINED(check, what)                                                      \
    extern "C" [[noreturn]] void __ubsan_handle_##check##_abort(const SanitizerPlace* place) { \
        hostcuda::fail("%s:%u: " what, place->file, place->line);                            \
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
