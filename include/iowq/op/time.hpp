// SPDX-License-Identifier: BSL-1.0
// iowq/op/time.hpp -- waiting for a time.
//
// All deadlines of a loop are in one heap in user space; the kernel gets one timeout, the next
// of them, as an argument of the call that waits anyway. They are of the steady clock, which nobody
// sets. Who waits for a time of day wants it by the clock on the wall, however that is set
// meanwhile: only the kernel sees that, so each such wait is a timeout of the kernel's own.
#pragma once

#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/base/result.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/blocking_wait.hpp>

namespace iowq::inline v0 {

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

/// `when` of the system clock as the kernel takes it, saturated: what lies before 1970 is 1970,
/// what it could not count in nanoseconds lies beyond its reach.
template <class Duration>
[[nodiscard]] __kernel_timespec time_of_day(
    std::chrono::time_point<std::chrono::system_clock, Duration> when) noexcept {
  using seconds = std::chrono::duration<long double>;
  constexpr long long beyond = 9'000'000'000;  // the year 2255; ktime_t ends in 2262
  seconds const since{when.time_since_epoch()};
  if (!(since > seconds::zero())) return {.tv_sec = 0, .tv_nsec = 1};
  if (since > seconds{beyond}) return {.tv_sec = beyond, .tv_nsec = 0};
  auto const all = std::chrono::ceil<std::chrono::nanoseconds>(when.time_since_epoch()).count();
  return {.tv_sec = all / 1'000'000'000, .tv_nsec = all % 1'000'000'000};
}

/// Sleeps until a time of day: clock_nanosleep(2) with CLOCK_REALTIME and TIMER_ABSTIME.
struct day_sleep_call {
  static constexpr operation_row row{
      .name = "sleep_until",
      .opcode = IORING_OP_TIMEOUT,
      .first = route::ring,
      .unbound = true,
      .reason = "only the kernel follows its clock of the day when that is set"};
  static constexpr bool keeps_errors = true;  // ETIME is success
  static constexpr bool value_may_throw = true;

  explicit day_sleep_call(__kernel_timespec when) noexcept : until{when} {}

  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_TIMEOUT;
    sqe.fd = -1;
    sqe.addr = reinterpret_cast<std::uintptr_t>(&until);
    sqe.len = 1;
    sqe.timeout_flags = IORING_TIMEOUT_ABS | IORING_TIMEOUT_REALTIME;
  }
  int call(const stop_token& stop) noexcept {
    if (int const r = arm(); r < 0) return r;
    int const r = wait_for_events(clock.get(), POLLIN, stop);
    return r < 0 ? r : 0;
  }
  /// Armed at first, so never over at once: a time that has passed ends at the next turn.
  int try_nonblocking() noexcept {
    if (!clock) {
      int const r = arm();
      return r < 0 ? r : -EAGAIN;
    }
    std::uint64_t times = 0;
    return ::read(clock.get(), &times, sizeof times) < 0 ? -errno : 0;
  }
  [[nodiscard]] readiness waits_for() const noexcept { return {clock.get(), POLLIN}; }
  static void value(int answer) {
    if (answer < 0 && answer != -ETIME) throw_error(answer, "sleep_until");
  }

  __kernel_timespec until;
  fd clock = {};  // timerfd(2), off the ring

 private:
  int arm() noexcept {
    clock.reset(::timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!clock) return -errno;
    itimerspec const at{.it_interval = {},
                        .it_value = {.tv_sec = static_cast<time_t>(until.tv_sec),
                                     .tv_nsec = static_cast<long>(until.tv_nsec)}};
    return or_errno(::timerfd_settime(clock.get(), TFD_TIMER_ABSTIME, &at, nullptr));
  }
};

/// Sleeps until a deadline of the loop's clock.
class [[nodiscard("co_await it")]] sleep_operation : public operation_base {
 public:
  static constexpr operation_row row_of_all{
      .name = "sleep", .first = route::inline_, .reason = "a timer of the loop"};

  sleep_operation(time_point deadline, std::source_location at) noexcept
      : operation_base{kind, at}, deadline_{deadline} {
    set_action(&on_item);
  }
  sleep_operation(sleep_operation&& other) noexcept
      : operation_base{std::move(other)},  // moves the base only
        deadline_{other.deadline_} {       // NOLINT(bugprone-use-after-move)
    set_action(&on_item);
  }
  ~sleep_operation() {
    // Before its timer says it in other words.
    IOWQ_ASSERT(stage_ <= stage::completed || at_fault(source_),
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
  bool start(completion_callback& waiter, stop_token token) noexcept {
    set_callback(waiter);
    return begin(token);
  }
  void await_resume() const {
    if (result_.res() < 0) throw_error(result_.res(), "sleep");
  }
  result<void> await_resume_result() const noexcept {
    if (result_.res() < 0) return to_error(result_.res());
    return {};
  }

 private:
  bool begin(stop_token token) noexcept {
    loop& here = loop::current();
    bool const ambient = token == here.ambient();
    bool const stopped = token.stop_requested();
    if (stopped || (!ambient && !stop_hook::prepare(here, *this, token))) {
      result_.set(stopped ? -ECANCELED : -ENOMEM);
      stage_ = stage::completed;
      return false;
    }
    here.arm(alarm_, deadline_);
    here.watch(*this, token, ambient);
    return true;
  }
  static void on_item(loop_item* self) noexcept {
    auto& op = *static_cast<sleep_operation*>(static_cast<operation_base*>(self));
    this_thread_loop->finish<row_of_all>(op, &operation_stats::inline_ops);
  }
  static bool disarm(operation_base& op) noexcept {
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
  return {detail::deadline_after(detail::linux_policy::now(), d), at};
}

/// Suspends until `when` of the steady clock.
template <class Duration>
[[nodiscard("co_await it")]] detail::sleep_operation sleep_until(
    std::chrono::time_point<detail::steady_clock, Duration> when,
    std::source_location at = std::source_location::current()) {
  return {detail::deadline_after(detail::time_point{}, when.time_since_epoch()), at};
}

/// Suspends until `when` by the system clock: sooner or later if that is set meanwhile. A time that
/// has passed ends at the next turn of the loop, one beyond 2255 never. A wait of the kernel's own,
/// where the others are the loop's: for a time of day, not for many short ones.
template <class Duration>
[[nodiscard("co_await it")]] operation<detail::day_sleep_call> sleep_until(
    std::chrono::time_point<std::chrono::system_clock, Duration> when,
    std::source_location at = std::source_location::current()) {
  return operation<detail::day_sleep_call>{at, detail::time_of_day(when)};
}

}  // namespace iowq::inline v0
