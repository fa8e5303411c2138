// SPDX-License-Identifier: BSL-1.0
// iowq/sync/latch.hpp -- a counter that coroutines wait for to reach zero, for one use.
#pragma once

#include <cstddef>
#include <source_location>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0 {

/// Counts down to 0 once; waiting coroutines resume when it reaches 0. For the coroutines of one
/// executor, on its thread. The destructor asserts that no coroutine waits.
class latch {
 public:
  explicit latch(std::size_t expected) noexcept : missing_{expected} {}
  latch(const latch&) = delete;
  latch& operator=(const latch&) = delete;
  ~latch() { IOWQ_ASSERT(waiters_.empty(), "a latch was destroyed while coroutines wait for it"); }

  /// Decrements the counter by `n`. At 0, all waiting coroutines resume at the next turn of the
  /// loop, in the order of their waits. Asserts that the counter is at least `n`.
  void count_down(std::size_t n = 1) noexcept {
    IOWQ_ASSERT(n <= missing_, "a latch was counted down below 0");
    missing_ -= n;
    if (missing_ != 0) return;
    while (waiters_.grant_first<detail::wait_operation<latch>>()) {
    }
  }
  [[nodiscard]] bool try_wait() const noexcept { return missing_ == 0; }

  /// Waits until the counter is 0. Throws operation_canceled if a stop is requested first.
  [[nodiscard("co_await it")]] detail::wait_operation<latch> wait(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }
  /// Counts down in this call, not in the await. The await waits until the counter is 0.
  [[nodiscard("co_await it")]] detail::wait_operation<latch> arrive_and_wait(
      std::source_location at = std::source_location::current()) noexcept {
    count_down();
    return wait(at);
  }

 private:
  friend detail::wait_operation<latch>;
  static constexpr operation_row row{
      .name = "latch.wait", .first = route::inline_, .reason = "a queue in user space"};
  [[nodiscard]] bool take() const noexcept { return missing_ == 0; }
  static void given() noexcept {}

  std::size_t missing_;
  detail::wait_queue waiters_;
};

}  // namespace iowq::inline v0
