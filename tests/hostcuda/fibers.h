// fibers: several stacks on one processor. A switch takes a few nanoseconds.
//
//   Context            the saved state of a stopped fiber
//   prepare(c, top, f) the next switch to c calls f on the stack that ends at top; f never returns
//   change(from, to)   save the current state in `from`, and continue where `to` stopped
//
// All fibers share the signal mask and the floating-point modes, so these are not saved.

#pragma once

#if defined(__x86_64__) && !defined(HOSTCUDA_UCONTEXT)

namespace hostcuda {
struct Context {
    void* stack_pointer;
};
}  // namespace hostcuda

// Push the callee-saved registers (System V ABI), switch stacks, pop the registers, return.
extern "C" void hostcuda_change(hostcuda::Context* from, const hostcuda::Context* to)
    __attribute__((visibility("hidden")));

asm(R"(
    .text
    .hidden hostcuda_change
    .globl hostcuda_change
    .type hostcuda_change, @function
hostcuda_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size hostcuda_change, .-hostcuda_change
)");

namespace hostcuda {

inline void prepare(Context& context, char* top, char* /* bottom */, void (*entry)()) {
    void** stack = reinterpret_cast<void**>(top);  // a multiple of 16
    *--stack = nullptr;                            // where a call leaves its return address
    *--stack = reinterpret_cast<void*>(entry);     // where `ret` goes
    for (int saved = 0; saved < 6; ++saved) *--stack = nullptr;
    context.stack_pointer = stack;
}

inline void change(Context& from, const Context& to) { hostcuda_change(&from, &to); }

}  // namespace hostcuda

#else  // any other processor: correct but slow, since each switch is a system call

#include <ucontext.h>

namespace hostcuda {

struct Context {
    ucontext_t state;
};

inline void prepare(Context& context, char* top, char* bottom, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = bottom;
    context.state.uc_stack.ss_size = static_cast<size_t>(top - bottom);
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}

inline void change(Context& from, const Context& to) { swapcontext(&from.state, &to.state); }

}  // namespace hostcuda

#endif
