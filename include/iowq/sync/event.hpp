// SPDX-License-Identifier: BSL-1.0
// iowq/sync/event.hpp -- a flag that coroutines of one executor can wait for.
#pragma once

#include <source_location>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0 {

/// A flag, initially not set. Waiting coroutines resume once it is set, in the order of their
/// waits. The flag stays set until reset(). For the coroutines of one executor, on its thread. The
/// destructor asserts that no coroutine waits.
///
///     iowq::event ready;
///     co_await ready.wait();      // until someone calls ready.set()
class event {
 public:
  event() noexcept = default;
  event(const event&) = delete;
  event& operator=(const event&) = delete;
  ~event() { IOWQ_ASSERT(waiters_.empty(), "an event was destroyed while coroutines wait for it"); }

  [[nodiscard]] bool is_set() const noexcept { return set_; }

  /// Sets the flag. Waiting coroutines resume at the next turn of the loop. Until reset(), wait()
  /// does not block.
  void set() noexcept {
    set_ = true;
    while (waiters_.grant_first<detail::wait_operation<event>>()) {
    }
  }
  /// Clears the flag: later calls of wait() block. Coroutines that set() has already woken still
  /// resume.
  void reset() noexcept { set_ = false; }

  /// Waits until the flag is set. Throws operation_canceled if a stop is requested first.
  [[nodiscard("co_await it")]] detail::wait_operation<event> wait(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }

 private:
  friend detail::wait_operation<event>;
  static constexpr operation_row row{
      .name = "event.wait", .first = route::inline_, .reason = "a queue in user space"};
  [[nodiscard]] bool take() const noexcept { return set_; }
  static void given() noexcept {}

  bool set_ = false;
  detail::wait_queue waiters_;
};

}  // namespace iowq::inline v0
