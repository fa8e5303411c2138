// SPDX-License-Identifier: BSL-1.0
// iowq/base/config.hpp -- which compiler this is, what is wrong with it, who watches us run.
//
// Macros here are for the library's own use; they never change a layout, so two translation
// units compiled with different flags can share an object.
#pragma once

#if !defined(__linux__)
#error "iowq runs on Linux only"
#endif
#if !defined(__cpp_impl_coroutine) || __cplusplus < 202002L
#error "iowq needs C++20 with coroutines (g++ 12 or clang 19, -std=c++20)"
#endif

// GCC before 14 destroys an owning temporary closure twice when it is written inside a co_await
// expression (GCC bug 99576 and its kin; right with 14.2). `punt` refuses the form there.
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

/// Tells ThreadSanitizer that `address` carries an order through the kernel (an SQE, say), which
/// it cannot see. Nothing without it.
inline void annotate_release([[maybe_unused]] void* address) noexcept {
#if IOWQ_TSAN
  __tsan_release(address);
#endif
}

/// The other end of annotate_release().
inline void annotate_acquire([[maybe_unused]] void* address) noexcept {
#if IOWQ_TSAN
  __tsan_acquire(address);
#endif
}

}  // namespace iowq::inline v0::detail
