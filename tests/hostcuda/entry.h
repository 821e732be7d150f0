// entry: the functions that Python calls. Comes after the text of the kernel HOSTCUDA_KERNEL.

#pragma once

#include <cstdlib>
#include <utility>

namespace hostcuda {

template <class T>
constexpr bool is_pointer = false;
template <class T>
constexpr bool is_pointer<T*> = true;

template <class Function>
struct Signature;

// A kernel takes any number of pointers, then one struct by value.
template <class... Parameters>
struct Signature<void (*)(Parameters...)> {
    static constexpr int count = sizeof...(Parameters);
    static constexpr bool is_class[] = {__is_class(Parameters)...};
    static constexpr int sizes[] = {static_cast<int>(sizeof(Parameters))...};
    static_assert(count > 0 && (int(is_pointer<Parameters>) + ... + 1) == count &&
                      is_class[count - 1],
                  "a kernel takes pointers and then one struct");

    template <size_t... i>
    [[gnu::no_sanitize_thread]]  // parameters are not global memory
    static void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<i...>) {
        kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[i])...);
    }
};

using Kernel = Signature<decltype(&HOSTCUDA_KERNEL)>;

inline void run_kernel() {
    Kernel::call(HOSTCUDA_KERNEL, launch->arguments, std::make_index_sequence<Kernel::count>());
}

inline void run_grid() {
    now.kernel = run_kernel;
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

extern "C" [[gnu::visibility("default")]] int hostcuda_parameters() {
    return hostcuda::Kernel::count;
}

extern "C" [[gnu::visibility("default")]] int hostcuda_struct_bytes() {
    return hostcuda::Kernel::sizes[hostcuda::Kernel::count - 1];
}

extern "C" [[gnu::visibility("default"), gnu::no_sanitize_thread]] void hostcuda_launch(
    hostcuda::Launch* launch) {
    hostcuda::launch = launch;
    hostcuda::forget_touches();
    hostcuda::run_grid();
}
