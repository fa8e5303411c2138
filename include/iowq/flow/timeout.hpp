// SPDX-License-Identifier: BSL-1.0
// iowq/flow/timeout.hpp -- stops an await that takes longer than a given time.
#pragma once

#include <cerrno>
#include <chrono>
#include <exception>
#include <source_location>
#include <system_error>
#include <type_traits>
#include <utility>

#include <iowq/base/result.hpp>
#include <iowq/flow/detail/concurrent.hpp>
#include <iowq/op/time.hpp>

namespace iowq::inline v0 {

namespace detail {

/// An `A` and a sleep. The one that completes first stops the other.
template <class A>
class [[nodiscard("co_await it")]] within_time final : public concurrent_awaiter<within_time<A>> {
  using part = child<within_time, A>;
  using limit = child<within_time, sleep_operation>;

 public:
  within_time(A&& awaitable, sleep_operation&& time)
      : work_{std::move(awaitable)}, limit_{std::move(time)} {}

  value_of<A> await_resume() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    if constexpr (!std::is_void_v<value_of<A>>) return work_.take_result();
  }

  bool begin(continuation waiter, stop_token outer) noexcept {
    return this->begin_each(waiter, outer, 2, [this] {
      limit_.start(*this);  // first: work_ may complete in start() and then stops limit_
      work_.start(*this);
    });
  }

  template <class One>
  void ended(One& one) noexcept {
    if constexpr (std::is_same_v<One, limit>) {
      if (&one == &limit_) {
        expired_ = one.succeeds() && !over_;
        return stop_the_other();
      }
    }
    if constexpr (std::is_same_v<One, part>) {
      over_ = true;
      if (!one.take(error_) && expired_ && is_cancellation(error_))
        error_ = std::make_exception_ptr(std::system_error{to_error(-ETIMEDOUT), "timeout"});
      stop_the_other();
    }
  }

 private:
  void stop_the_other() noexcept {
    this->stop_others();
    this->child_completed();
  }

  bool over_ = false;
  bool expired_ = false;
  std::exception_ptr error_;
  part work_;
  limit limit_;
};

}  // namespace detail

/// Awaits `awaitable` for at most `limit`. When the time has passed, the awaitable is stopped; the
/// await waits until it has ended and then throws timed_out. If the awaitable succeeds although the
/// stop was requested, its result is yielded and not lost. If it fails for another reason than the
/// stop, that failure is rethrown. The time starts with this call, not with the await.
///
///     auto n = co_await as_result(iowq::timeout(iowq::recv(socket, buffer), 5s));
template <awaitable A, class Rep, class Period>
  requires(!std::is_lvalue_reference_v<A>)
[[nodiscard("co_await it")]] auto(timeout)(  // in parentheses: curses has a macro `timeout`
    A&& awaitable, std::chrono::duration<Rep, Period> limit,
    std::source_location at = std::source_location::current()) {
  return detail::within_time<std::remove_cvref_t<A>>{std::move(awaitable), sleep_for(limit, at)};
}

}  // namespace iowq::inline v0
