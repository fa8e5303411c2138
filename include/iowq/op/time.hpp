// SPDX-License-Identifier: BSL-1.0
// iowq/op/time.hpp -- waits until a time.
//
// All deadlines of a loop are in one heap in user space. The kernel gets only the earliest one, as
// the timeout of the call in which the loop waits anyway. These deadlines use the steady clock,
// which cannot be set. A wait for a time of day must follow the system clock even if it is set
// during the wait. Only the kernel notices that, so each such wait is a timeout of its own in the
// kernel.
#pragma once

#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/base/result.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/parked_operation.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/blocking_wait.hpp>

namespace iowq::inline v0 {

namespace detail {

/// `now` plus `d`, rounded up and saturated: `now` if `d` is not positive, `never` if it is longer
/// than a century.
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

/// Converts a time of the system clock for the kernel, saturated: a time before 1970 becomes 1970,
/// and a time that the kernel's nanoseconds may not reach becomes the year 2255.
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
  /// The first call arms the timer and returns -EAGAIN, so that a time that has passed completes
  /// the operation in the next turn of the loop, and not immediately.
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
  fd clock = {};  // a timerfd(2), if not on the ring

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

/// Sleeps until a deadline of the steady clock.
class [[nodiscard("co_await it")]] sleep_operation final
    : public parked_operation<sleep_operation> {
 public:
  static constexpr operation_row row{
      .name = "sleep", .first = route::inline_, .reason = "a timer of the loop"};

  sleep_operation(time_point deadline, std::source_location at) noexcept
      : parked_operation{at}, deadline_{deadline} {}
  sleep_operation(sleep_operation&& other) noexcept
      : parked_operation{std::move(other)},  // moves the base only
        deadline_{other.deadline_} {}        // NOLINT(bugprone-use-after-move)
  ~sleep_operation() {
    // Checked here, before the destructor of the timer fails with a less clear message.
    check_not_parked();
  }

 private:
  friend parked_operation;

  static bool try_complete() noexcept { return false; }
  void park(loop& here) noexcept { here.arm(alarm_, deadline_); }
  bool unpark() noexcept {
    this_thread_loop->disarm(alarm_);
    return true;
  }

  time_point deadline_;
  alarm alarm_{*this};
};

}  // namespace detail

/// Suspends for at least `d`. If `d` is zero or negative, resumes in the next turn of the loop; if
/// it is longer than a century, never. Throws operation_canceled after a stop request.
template <class Rep, class Period>
[[nodiscard("co_await it")]] detail::sleep_operation sleep_for(
    std::chrono::duration<Rep, Period> d,
    std::source_location at = std::source_location::current()) {
  return {detail::deadline_after(detail::linux_policy::now(), d), at};
}

/// Suspends until `when` of the steady clock. Throws operation_canceled after a stop request.
template <class Duration>
[[nodiscard("co_await it")]] detail::sleep_operation sleep_until(
    std::chrono::time_point<detail::steady_clock, Duration> when,
    std::source_location at = std::source_location::current()) {
  return {detail::deadline_after(detail::time_point{}, when.time_since_epoch()), at};
}

/// Suspends until `when` of the system clock, even if that clock is set during the wait. If `when`
/// has passed, resumes in the next turn of the loop; a time beyond the year 2255 counts as never.
/// Each wait is a timer in the kernel, and not in the loop's heap: use it for times of day, not for
/// many short waits. Throws operation_canceled after a stop request.
template <class Duration>
[[nodiscard("co_await it")]] operation<detail::day_sleep_call> sleep_until(
    std::chrono::time_point<std::chrono::system_clock, Duration> when,
    std::source_location at = std::source_location::current()) {
  return operation<detail::day_sleep_call>{at, detail::time_of_day(when)};
}

}  // namespace iowq::inline v0
