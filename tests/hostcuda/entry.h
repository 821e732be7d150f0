// entry: the functions that Python calls. Comes after the text of the kernel HOSTCUDA_KERNEL.

#pragma once

namespace hostcuda {

template <class T>
constexpr bool is_pointer = false;
template <class T>
constexpr bool is_pointer<T*> = true;

// Derived from Indices<0, 1, ..., n - 1>. The header that has the standard's is slow to load.
template <int... i>
struct Indices {};
template <int n, int... i>
struct Count : Count<n - 1, n - 1, i...> {};
template <int... i>
struct Count<0, i...> : Indices<i...> {};

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

    template <int... i>
    [[gnu::no_sanitize_thread]]  // parameters are not global memory
    static void call(void (*kernel)(Parameters...), void** arguments, Indices<i...>) {
        kernel(*static_cast<Parameters*>(arguments[i])...);
    }
};

using Kernel = Signature<decltype(&HOSTCUDA_KERNEL)>;

inline void run_kernel() {
    Kernel::call(HOSTCUDA_KERNEL, launch->arguments, Count<Kernel::count>());
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
    hostcuda::run_grid(hostcuda::run_kernel);
}
