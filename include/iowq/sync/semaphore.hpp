// SPDX-License-Identifier: BSL-1.0
// iowq/sync/semaphore.hpp -- limits how many coroutines of one executor do something concurrently.
#pragma once

#include <cstddef>
#include <source_location>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0 {

/// A number of permits. acquire() takes one, and waits if all are taken; waiters are served in the
/// order of their awaits. release() returns permits. For the coroutines of one executor, on its
/// thread. The destructor asserts that no coroutine waits.
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

  /// The number of free permits.
  [[nodiscard]] std::size_t available() const noexcept { return free_; }

  /// Takes a permit, and waits for one if none is free. Throws operation_canceled, without a
  /// permit, if a stop is requested first.
  [[nodiscard("co_await it")]] detail::wait_operation<semaphore> acquire(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }
  /// Takes a permit and returns true if one is free now. No permit is free while a coroutine waits.
  [[nodiscard]] bool try_acquire() noexcept { return take(); }

  /// Returns `permits` to the semaphore, or adds new ones. Waiting coroutines get them first, and
  /// resume at the next turn of the loop.
  void release(std::size_t permits = 1) noexcept {
    while (permits != 0 && waiters_.grant_first<detail::wait_operation<semaphore>>()) --permits;
    free_ += permits;
  }

 private:
  friend detail::wait_operation<semaphore>;
  static constexpr operation_row row{
      .name = "semaphore.acquire", .first = route::inline_, .reason = "a queue in user space"};
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
