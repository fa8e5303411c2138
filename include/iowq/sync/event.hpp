// SPDX-License-Identifier: BSL-1.0
// iowq/sync/event.hpp -- something has happened.
#pragma once

#include <source_location>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0 {

/// Set or not set. Who waits goes on once it is set, in the order of the waits; it stays set until
/// reset(). For the coroutines of one executor, on its thread. Destroy it when nobody waits.
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

  /// All who wait go on, at the next turn of the loop; who comes later does not wait.
  void set() noexcept {
    set_ = true;
    while (waiters_.grant_first<detail::wait_operation<event>>()) {
    }
  }
  /// Who comes now waits. Whoever was woken by set() goes on all the same.
  void reset() noexcept { set_ = false; }

  /// Waits until it is set. Throws operation_canceled if a stop came first.
  [[nodiscard("co_await it")]] detail::wait_operation<event> wait(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }

 private:
  friend detail::wait_operation<event>;
  static constexpr operation_row row{
      .name = "event.wait", .first = route::inline_, .reason = "a line in user space"};
  [[nodiscard]] bool take() const noexcept { return set_; }
  static void given() noexcept {}

  bool set_ = false;
  detail::wait_queue waiters_;
};

}  // namespace iowq::inline v0
