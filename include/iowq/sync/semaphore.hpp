// SPDX-License-Identifier: BSL-1.0
// iowq/sync/semaphore.hpp -- so many at a time.
#pragma once

#include <cstddef>
#include <source_location>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0 {

/// A number of permits. acquire() takes one, or waits for one in the order of arrival; release()
/// gives it back. For the coroutines of one executor. Destroy it when nobody waits.
///
///     iowq::semaphore connections{64};
///     co_await connections.acquire();
///     ...
///     connections.release();
class semaphore {
 public:
  explicit semaphore(std::size_t permits) noexcept : free_{permits} {}
  semaphore(const semaphore&) = delete;
  semaphore& operator=(const semaphore&) = delete;
  ~semaphore() {
    IOWQ_ASSERT(waiters_.empty(), "a semaphore was destroyed while coroutines wait for it");
  }

  /// Permits that nobody holds.
  [[nodiscard]] std::size_t available() const noexcept { return free_; }

  /// Takes a permit. Throws operation_canceled, without one, if a stop came first.
  [[nodiscard("co_await it")]] detail::wait_operation<semaphore> acquire(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }
  /// The same if there is one now, which there never is while anybody waits.
  [[nodiscard]] bool try_acquire() noexcept { return take(); }

  /// Gives `permits` back, or adds them: first to those who wait.
  void release(std::size_t permits = 1) noexcept {
    while (permits != 0 && waiters_.grant_first<detail::wait_operation<semaphore>>()) --permits;
    free_ += permits;
  }

 private:
  friend detail::wait_operation<semaphore>;
  static constexpr operation_row row{
      .name = "semaphore.acquire", .first = route::inline_, .reason = "a line in user space"};
  bool take() noexcept {
    if (free_ == 0) return false;
    --free_;
    return true;
  }
  static void given() noexcept {}

  std::size_t free_;
  detail::wait_queue waiters_;
};

}  // namespace iowq::inline v0
