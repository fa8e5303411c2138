// SPDX-License-Identifier: BSL-1.0
// iowq/coro/detail/continuation.hpp -- what runs when an awaitable completes: a coroutine or a
// callback.
//
// Most often a coroutine awaits, and goes on. Whoever waits for several at once (when_all, say)
// would need a coroutine for each only to count them; it listens instead, and needs no frame.
#pragma once

#include <concepts>
#include <coroutine>

#include <iowq/base/stop_token.hpp>
#include <iowq/coro/awaiter.hpp>
#include <iowq/coro/detail/trampoline.hpp>

namespace iowq::inline v0::detail {

/// Is told, once, that what it waits for is over. Lives until then.
class completion_callback {
 public:
  using function = void(completion_callback* self) noexcept;
  explicit completion_callback(function* told) noexcept : invoke_{told} {}
  completion_callback(const completion_callback&) = delete;
  completion_callback& operator=(const completion_callback&) = delete;

  /// May end the life of *this, but not of what is over: that is still at its last step.
  void invoke() noexcept { invoke_(this); }

 private:
  function* invoke_;
};

/// Who waits: a coroutine, a completion_callback, or nobody.
class continuation {
 public:
  continuation() noexcept = default;
  template <class Promise>
  continuation(std::coroutine_handle<Promise> waiter) noexcept : coroutine_{waiter} {}
  continuation(completion_callback& waiter) noexcept : callback_{&waiter} {}

  [[nodiscard]] explicit operator bool() const noexcept {
    return coroutine_ != nullptr || callback_ != nullptr;
  }
  /// The last act of an await_suspend, a completion or an item of the loop.
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

/// An awaitable that can begin with a listener in the place of a coroutine, under `token`: false,
/// and nobody is told, if it is over already. Its result is then asked of it as of an awaiter.
template <class A>
concept startable = awaitable<A> && requires(A& a, completion_callback& l, stop_token token) {
  { a.start(l, token) } -> std::same_as<bool>;
};

}  // namespace iowq::inline v0::detail
