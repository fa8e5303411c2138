// SPDX-License-Identifier: BSL-1.0
// iowq/coro/detail/continuation.hpp -- what runs when an awaitable completes: a coroutine or a
// callback.
//
// Usually a coroutine awaits, and is resumed. A combinator such as when_all waits for several
// awaitables at a time. With coroutines it would need one for each child, only to count them. It
// uses callbacks instead, which need no coroutine frame.
#pragma once

#include <concepts>
#include <coroutine>

#include <iowq/base/stop_token.hpp>
#include <iowq/coro/awaiter.hpp>
#include <iowq/coro/detail/trampoline.hpp>

namespace iowq::inline v0::detail {

/// A callback that an awaitable invokes once, when it completes. Must live until then.
class completion_callback {
 public:
  using function = void(completion_callback* self) noexcept;
  explicit completion_callback(function* told) noexcept : invoke_{told} {}
  completion_callback(const completion_callback&) = delete;
  completion_callback& operator=(const completion_callback&) = delete;

  /// May destroy *this. Must not destroy the awaitable that has completed, because that is still
  /// executing its last step.
  void invoke() noexcept { invoke_(this); }

 private:
  function* invoke_;
};

/// The waiter of an awaitable: a coroutine, a completion_callback, or none (false).
class continuation {
 public:
  continuation() noexcept = default;
  template <class Promise>
  continuation(std::coroutine_handle<Promise> waiter) noexcept : coroutine_{waiter} {}
  continuation(completion_callback& waiter) noexcept : callback_{&waiter} {}

  [[nodiscard]] explicit operator bool() const noexcept {
    return coroutine_ != nullptr || callback_ != nullptr;
  }
  /// Resumes the coroutine by hand_over(), or invokes the callback. Call it last in an
  /// await_suspend, a completion or an item of the loop.
  void run() const noexcept {
    if (coroutine_ != nullptr) [[likely]]
      hand_over(coroutine_);
    else
      callback_->invoke();
  }

 private:
  std::coroutine_handle<> coroutine_;
  completion_callback* callback_ = nullptr;
};

/// An awaitable that can start with a completion_callback instead of a coroutine, under `token`.
/// start() returns false, and never invokes the callback, if the awaitable has already completed.
/// After completion the result is taken as from an awaiter.
template <class A>
concept startable = awaitable<A> && requires(A& a, completion_callback& l, stop_token token) {
  { a.start(l, token) } -> std::same_as<bool>;
};

}  // namespace iowq::inline v0::detail
