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
/// yields what it yields. Under an empty token it runs to its end whatever is requested, short of
/// the executor's own stop: for what has to be put in order although a stop is on. The executor's
/// stop ends each wait that is under way, under whichever token, and not those that begin after it:
/// give them a timeout(), else they end only by a second request.
///
///     co_await iowq::with_stop({}, say_goodbye(socket));
template <awaitable A>
  requires(!std::is_lvalue_reference_v<A>)
[[nodiscard("co_await it")]] auto with_stop(stop_token token, A&& awaitable) {
  return detail::under_stop<std::remove_cvref_t<A>>{token, std::move(awaitable)};
}

}  // namespace iowq::inline v0
