// SPDX-License-Identifier: BSL-1.0
// iowq/base/config.hpp -- macros for compiler requirements, compiler bugs and sanitizers.
//
// The macros are for the library's own use. They never change the layout of a type, so two
// translation units compiled with different flags can share an object.
#pragma once

#if !defined(__linux__)
#error "iowq runs on Linux only"
#endif
#if !defined(__cpp_impl_coroutine) || __cplusplus < 202002L
#error "iowq needs C++20 with coroutines (g++ 12 or clang 19, -std=c++20)"
#endif

// GCC before 14 destroys a temporary closure that owns something twice if the closure is written
// inside a co_await expression (GCC bug 99576 and related bugs; 14.2 is correct). With such a
// compiler, `punt` rejects this form.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14
#define IOWQ_DESTROYS_CLOSURES_TWICE 1
#else
#define IOWQ_DESTROYS_CLOSURES_TWICE 0
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define IOWQ_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define IOWQ_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(IOWQ_ASAN)
#define IOWQ_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__) && !defined(IOWQ_TSAN)
#define IOWQ_TSAN 1
#endif
#if !defined(IOWQ_ASAN)
#define IOWQ_ASAN 0
#endif
#if !defined(IOWQ_TSAN)
#define IOWQ_TSAN 0
#endif

#define IOWQ_NOINLINE __attribute__((noinline))
#define IOWQ_ALWAYS_INLINE __attribute__((always_inline)) inline
#define IOWQ_COLD __attribute__((noinline, cold))

#if IOWQ_TSAN
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace iowq::inline v0::detail {

/// Tells ThreadSanitizer that the caller releases `address` to the kernel (in an SQE, for example).
/// ThreadSanitizer cannot see the order that the kernel provides. Without ThreadSanitizer this does
/// nothing.
inline void annotate_release([[maybe_unused]] void* address) noexcept {
#if IOWQ_TSAN
  __tsan_release(address);
#endif
}

/// Tells ThreadSanitizer that the caller acquires `address` from the kernel; pairs with
/// annotate_release().
inline void annotate_acquire([[maybe_unused]] void* address) noexcept {
#if IOWQ_TSAN
  __tsan_acquire(address);
#endif
}

}  // namespace iowq::inline v0::detail
