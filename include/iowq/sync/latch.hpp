// SPDX-License-Identifier: BSL-1.0
// iowq/sync/latch.hpp -- all have arrived.
#pragma once

#include <cstddef>
#include <source_location>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0 {

/// Counts down once; who waits goes on when it has reached 0. For the coroutines of one executor.
/// Destroy it when nobody waits.
class latch {
 public:
  explicit latch(std::size_t expected) noexcept : missing_{expected} {}
  latch(const latch&) = delete;
  latch& operator=(const latch&) = delete;
  ~latch() { IOWQ_ASSERT(waiters_.empty(), "a latch was destroyed while coroutines wait for it"); }

  /// `n` more have arrived. At 0 all who wait go on, in the order of their waits.
  void count_down(std::size_t n = 1) noexcept {
    IOWQ_ASSERT(n <= missing_, "a latch was counted down below 0");
    missing_ -= n;
    if (missing_ != 0) return;
    while (waiters_.grant_first<detail::wait_operation<latch>>()) {
    }
  }
  [[nodiscard]] bool try_wait() const noexcept { return missing_ == 0; }

  /// Waits for 0. Throws operation_canceled if a stop came first.
  [[nodiscard("co_await it")]] detail::wait_operation<latch> wait(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }
  /// Counts down now, and waits for the others when awaited.
  [[nodiscard("co_await it")]] detail::wait_operation<latch> arrive_and_wait(
      std::source_location at = std::source_location::current()) noexcept {
    count_down();
    return wait(at);
  }

 private:
  friend detail::wait_operation<latch>;
  static constexpr operation_row row{
      .name = "latch.wait", .first = route::inline_, .reason = "a line in user space"};
  [[nodiscard]] bool take() const noexcept { return missing_ == 0; }
  static void given() noexcept {}

  std::size_t missing_;
  detail::wait_queue waiters_;
};

}  // namespace iowq::inline v0
