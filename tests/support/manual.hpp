// SPDX-License-Identifier: BSL-1.0
// Runs coroutines without an executor: start one, resume it later, and see how it ended.
//
//     iowq_test::suspension point;
//     auto body = [&]() -> iowq::task<> { co_await point; };
//     iowq_test::started run{body()};          // until `point`
//     point.resume();                          // as an event loop would
//     REQUIRE(run.ended());
//
// Everything runs on the calling thread. Store the closure in a variable: the coroutine reads its
// captures.
#pragma once

#include <coroutine>
#include <cstdlib>
#include <exception>
#include <utility>

#include <iowq/base/stop_token.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/task.hpp>

namespace iowq_test {

/// A coroutine type unrelated to iowq: starts immediately and destroys itself when it ends.
struct detached {
  struct promise_type {
    detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

/// A lazy coroutine type of another library: unrelated to iowq, transfers symmetrically.
class foreign {
 public:
  struct promise_type {
    int value = 0;
    std::coroutine_handle<> waiter;
    foreign get_return_object() noexcept { return foreign{handle::from_promise(*this)}; }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
      struct back {
        bool await_ready() noexcept { return false; }
        std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> ended) noexcept {
          return ended.promise().waiter;
        }
        void await_resume() noexcept {}
      };
      return back{};
    }
    void return_value(int n) noexcept { value = n; }
    void unhandled_exception() noexcept { std::terminate(); }
  };
  using handle = std::coroutine_handle<promise_type>;

  explicit foreign(handle own) noexcept : own_(own) {}
  foreign(foreign&& other) noexcept : own_(std::exchange(other.own_, nullptr)) {}
  ~foreign() {
    if (own_) own_.destroy();
  }
  bool await_ready() noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiter) noexcept {
    own_.promise().waiter = waiter;
    return own_;
  }
  int await_resume() noexcept { return own_.promise().value; }

 private:
  handle own_;
};

/// `co_await point` suspends until resume() or resume_flat() is called.
class suspension {
 public:
  bool waiting() const noexcept { return static_cast<bool>(waiting_); }

  /// Resumes like the event loop of another library, or like an awaitable that completes inline.
  void resume() { take().resume(); }
  /// Resumes like iowq's own loop.
  void resume_flat() { iowq::detail::resume_flat(take()); }

  // Not its own awaiter: g++ 12 copies an awaiter that is an lvalue, unless it is a plain variable.
  auto operator co_await() noexcept {
    struct awaiter {
      suspension* point;
      static bool await_ready() noexcept { return false; }
      void await_suspend(std::coroutine_handle<> handle) noexcept { point->waiting_ = handle; }
      static void await_resume() noexcept {}
    };
    return awaiter{this};
  }

 private:
  std::coroutine_handle<> take() {
    if (!waiting_) std::abort();
    return std::exchange(waiting_, nullptr);
  }
  std::coroutine_handle<> waiting_;
};

/// A coroutine of iowq awaits this; from then on it runs under `token`.
struct under {
  iowq::stop_token token;
  static bool await_ready() noexcept { return false; }
  template <iowq::detail::carries_stop Promise>
  bool await_suspend(std::coroutine_handle<Promise> handle) const noexcept {
    handle.promise().stop(token);
    return false;
  }
  static void await_resume() noexcept {}
};

/// A task that plain code started, under a stop token if one is given.
class started {
 public:
  explicit started(iowq::task<> body, iowq::stop_token token = {}) : body_(std::move(body)) {
    watch(*this, token);
  }
  started(const started&) = delete;
  started& operator=(const started&) = delete;

  /// Returns whether the task has ended. Rethrows its exception.
  bool ended() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return ended_;
  }

 private:
  struct root {
    struct promise_type : iowq::detail::promise_base {
      root get_return_object() noexcept { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() noexcept {}
      void unhandled_exception() noexcept { std::terminate(); }
    };
  };
  static root watch(started& self, iowq::stop_token token) {
    co_await under{token};
    try {
      co_await self.body_;
    } catch (...) {
      self.error_ = std::current_exception();
    }
    self.ended_ = true;
  }

  iowq::task<> body_;
  std::exception_ptr error_;
  bool ended_ = false;
};

}  // namespace iowq_test
