// SPDX-License-Identifier: BSL-1.0
// iowq/coro/detail/promise.hpp -- the base of all promises: the continuation and the stop token.
#pragma once

#include <concepts>
#include <coroutine>
#include <exception>
#include <utility>

#include <iowq/base/stop_token.hpp>
#include <iowq/coro/detail/continuation.hpp>
#include <iowq/coro/detail/frame_cache.hpp>

namespace iowq::inline v0 {

namespace detail {

/// Base of the promises of task and stream. Owner thread only.
class promise_base : public recycled_frame {
 public:
  promise_base() noexcept = default;
  promise_base(const promise_base&) = delete;
  promise_base& operator=(const promise_base&) = delete;

  [[nodiscard]] stop_token stop() const noexcept { return stop_; }
  void stop(stop_token token) noexcept { stop_ = token; }

  [[nodiscard]] detail::continuation continuation() const noexcept { return continuation_; }
  void continuation(detail::continuation waiter) noexcept { continuation_ = waiter; }

 private:
  detail::continuation continuation_;
  stop_token stop_;
};

template <class Promise>
concept carries_stop = std::derived_from<Promise, promise_base>;

/// The stop token of the coroutine of `handle`. An empty token if its promise is not derived from
/// promise_base.
template <class Promise>
[[nodiscard]] stop_token stop_of(std::coroutine_handle<Promise> handle) noexcept {
  if constexpr (carries_stop<Promise>)
    return handle.promise().stop();
  else
    return {};
}

/// The final suspend point of a coroutine: runs its continuation next.
struct final_awaiter {
  static bool await_ready() noexcept { return false; }
  template <carries_stop Promise>
  static void await_suspend(std::coroutine_handle<Promise> ended) noexcept {
    ended.promise().continuation().run();
  }
  static void await_resume() noexcept {}
};

struct ambient_stop_awaiter {
  stop_token token;
  static bool await_ready() noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> handle) noexcept {
    token = stop_of(handle);
    return false;
  }
  [[nodiscard]] stop_token await_resume() const noexcept { return token; }
};

}  // namespace detail

/// `co_await ambient_stop()` returns the stop token that the running coroutine inherited from its
/// awaiter. In a coroutine of another library the token is empty. Does not suspend.
[[nodiscard("co_await it")]] inline detail::ambient_stop_awaiter ambient_stop() noexcept {
  return {};
}

}  // namespace iowq::inline v0
