// SPDX-License-Identifier: BSL-1.0
// iowq/op/time.hpp -- waiting for a time.
// Layer op; needs exec. Next in the book: op/raw.hpp.
//
// All deadlines of a loop are in one heap in user space; the kernel gets one timeout, the next
// of them, as an argument of the call that waits anyway.
#pragma once

#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <source_location>

#include <iowq/base/result.hpp>
#include <iowq/coro/promise.hpp>
#include <iowq/exec/loop.hpp>
#include <iowq/exec/stop_hook.hpp>

namespace iowq {

namespace detail {

/// `d` from `now`, saturated: what lies beyond a century is never.
template <class Rep, class Period>
[[nodiscard]] time_point deadline_after(time_point now,
                                        std::chrono::duration<Rep, Period> d) noexcept {
  using seconds = std::chrono::duration<long double>;
  constexpr seconds century{3.2e9L};
  seconds const span{d};
  if (!(span > seconds::zero())) return now;
  if (span > century) return never;
  return now + std::chrono::ceil<time_point::duration>(d);
}

/// Sleeps until a deadline of the loop's clock.
class [[nodiscard("co_await it")]] sleep_operation : public operation_base {
 public:
  static constexpr operation_row row_of_all{
      .name = "sleep", .first = route::inline_, .reason = "a timer of the loop"};

  sleep_operation(time_point deadline, std::source_location at) noexcept
      : operation_base{kind, at}, deadline_{deadline} {
    acts(&on_item);
  }
  sleep_operation(sleep_operation && other) noexcept
      : operation_base{std::move(other)}, deadline_{other.deadline_} {
    acts(&on_item);
  }
  ~sleep_operation() {
    // Before its timer says it in other words.
    IOWQ_ASSERT(stage_ <= stage::over || at_fault(source_),
                "a coroutine was destroyed while it sleeps: request a stop and await its end");
  }

  bool await_ready() const noexcept {
    IOWQ_ASSERT(is_fresh(), "a sleep was awaited twice");
    return false;
  }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    waiter_ = waiter;
    return begin(stop_of(waiter));
  }
  bool start(listener & waiter, stop_token token) noexcept {
    hear(waiter);
    return begin(token);
  }
  void await_resume() const {
    if (answer_.res() < 0) throw_error(answer_.res(), "sleep");
  }
  result<void> await_resume_result() const noexcept {
    if (answer_.res() < 0) return to_error(answer_.res());
    return {};
  }

 private:
  bool begin(stop_token token) noexcept {
    loop& here = loop::current();
    if (token.stop_requested()) {
      answer_.set(-ECANCELED);
      stage_ = stage::over;
      return false;
    }
    here.arm(alarm_, deadline_);
    here.watch(*this, token, token == here.ambient());
    return true;
  }
  static void on_item(loop_item * self) noexcept {
    auto& op = *static_cast<sleep_operation*>(static_cast<operation_base*>(self));
    this_thread_loop->finish<row_of_all>(op, &ledger_entry::inline_ops);
  }
  static bool disarm(operation_base & op) noexcept {
    this_thread_loop->disarm(static_cast<sleep_operation&>(op).alarm_);
    return true;
  }
  static constexpr operation_kind kind{&row_of_all, nullptr, nullptr, nullptr, &disarm, nullptr};

  time_point deadline_;
  alarm alarm_{*this};
};

}  // namespace detail

/// Suspends for `d`, or a little longer. Nothing or less than nothing ends at the next turn of
/// the loop, a century or more never. Throws operation_canceled when stopped.
template <class Rep, class Period>
[[nodiscard("co_await it")]] detail::sleep_operation sleep_for(
    std::chrono::duration<Rep, Period> d,
    std::source_location at = std::source_location::current()) {
  return {detail::deadline_after(linux_policy::now(), d), at};
}

/// Suspends until `when` of the steady clock.
template <class Duration>
[[nodiscard("co_await it")]] detail::sleep_operation sleep_until(
    std::chrono::time_point<steady_clock, Duration> when,
    std::source_location at = std::source_location::current()) {
  return {detail::deadline_after(time_point{}, when.time_since_epoch()), at};
}

}  // namespace iowq
