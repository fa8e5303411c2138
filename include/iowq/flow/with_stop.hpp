// SPDX-License-Identifier: BSL-1.0
// iowq/flow/with_stop.hpp -- awaits under another stop token.
#pragma once

#include <coroutine>
#include <type_traits>
#include <utility>

#include <iowq/flow/detail/concurrent.hpp>

namespace iowq::inline v0 {

namespace detail {

template <class A>
class [[nodiscard("co_await it")]] under_stop final : completion_callback {
 public:
  under_stop(stop_token token, A&& awaitable)
      : completion_callback{&over}, token_{token}, awaitable_(as_startable(std::move(awaitable))) {}
  // NOLINTNEXTLINE(performance-noexcept-move-constructor): as the awaitable's
  under_stop(under_stop&& other)
      : completion_callback{&over}, token_{other.token_}, awaitable_(std::move(other.awaitable_)) {}

  static bool await_ready() noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    return begin(waiter);
  }
  bool start(completion_callback& waiter, stop_token) noexcept { return begin(waiter); }

  decltype(auto) await_resume() { return result_of(awaitable_); }
  auto await_resume_result()
    requires result_awaiter<startable_of<A>>
  {
    return awaitable_.await_resume_result();
  }

 private:
  bool begin(continuation waiter) noexcept {
    waiter_ = waiter;
    return awaitable_.start(*this, token_);
  }
  static void over(completion_callback* self) noexcept {
    static_cast<under_stop*>(self)->waiter_.run();
  }

  stop_token token_;
  continuation waiter_;
  startable_of<A> awaitable_;
};

}  // namespace detail

/// Awaits `awaitable` under `token` instead of the token that the awaiting task inherited, and
/// yields its result. With an empty token only the executor's own stop cancels it. Use that for
/// clean-up that must run although a stop was requested.
///
/// The executor's stop cancels every wait in progress, whatever its token. It does not cancel a
/// wait that begins afterwards under its own token: bound such a wait with timeout(), or only a
/// second request cancels it.
///
///     co_await iowq::with_stop({}, say_goodbye(socket));
template <awaitable A>
  requires(!std::is_lvalue_reference_v<A>)
[[nodiscard("co_await it")]] auto with_stop(stop_token token, A&& awaitable) {
  return detail::under_stop<std::remove_cvref_t<A>>{token, std::move(awaitable)};
}

}  // namespace iowq::inline v0
