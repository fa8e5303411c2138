// SPDX-License-Identifier: BSL-1.0
// Counts the heap allocations and deallocations of the whole program. Replaces the global operator
// new. A sanitizer has its own operator new: then nothing is counted, and `counted` is false.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#include <iowq/base/config.hpp>

namespace iowq_test {

/// Calls of operator new and delete so far, on any thread.
struct allocations {
  static constexpr bool counted = !IOWQ_ASAN && !IOWQ_TSAN;

  long made = 0;
  long freed = 0;

  static inline std::atomic<long> all_made{}, all_freed{};
  static inline thread_local bool refused = false;  // allocations of the calling thread fail
  static allocations now() noexcept { return {all_made, all_freed}; }

  /// The calls since `earlier`.
  friend allocations operator-(allocations later, allocations earlier) noexcept {
    return {later.made - earlier.made, later.freed - earlier.freed};
  }
};

}  // namespace iowq_test

#if !IOWQ_ASAN && !IOWQ_TSAN
// noinline: else g++ looks through them and warns that free() meets what operator new gave.
// weak: several files of a program may include this.
[[gnu::noinline, gnu::weak]] void* operator new(std::size_t size) {
  if (iowq_test::allocations::refused) throw std::bad_alloc{};
  void* const memory = std::malloc(size != 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc{};
  iowq_test::allocations::all_made.fetch_add(1, std::memory_order_relaxed);
  return memory;
}
[[gnu::noinline, gnu::weak]] void* operator new(std::size_t size, std::align_val_t alignment) {
  if (iowq_test::allocations::refused) throw std::bad_alloc{};
  auto const step = static_cast<std::size_t>(alignment);
  void* const memory = std::aligned_alloc(step, (size + step - 1) / step * step);
  if (memory == nullptr) throw std::bad_alloc{};
  iowq_test::allocations::all_made.fetch_add(1, std::memory_order_relaxed);
  return memory;
}
[[gnu::noinline, gnu::weak]] void operator delete(void* memory) noexcept {
  if (memory != nullptr) iowq_test::allocations::all_freed.fetch_add(1, std::memory_order_relaxed);
  std::free(memory);
}
[[gnu::noinline, gnu::weak]] void operator delete(void* memory, std::size_t) noexcept {
  ::operator delete(memory);
}
[[gnu::noinline, gnu::weak]] void operator delete(void* memory, std::align_val_t) noexcept {
  ::operator delete(memory);
}
[[gnu::noinline, gnu::weak]] void operator delete(void* memory, std::size_t,
                                                  std::align_val_t) noexcept {
  ::operator delete(memory);
}
#endif
