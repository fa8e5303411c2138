// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detached.hpp -- what an executor needs to run tasks that nobody awaits.
// Layer exec; needs coro. Next in the book: exec/thread_change.hpp.
#pragma once

#include <signal.h>
#include <time.h>

#include <cerrno>
#include <coroutine>
#include <exception>

#include <iowq/coro/promise.hpp>
#include <iowq/exec/item.hpp>
#include <iowq/exec/loop.hpp>

namespace iowq {
class executor;
}

namespace iowq::detail {

/// A task that nobody awaits: started by the loop, it destroys its own frame at its end.
struct detached {
  struct promise_type final : promise_base, loop_item {
    promise_type() noexcept : loop_item{&start} {}
    detached get_return_object() noexcept {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    static std::suspend_always initial_suspend() noexcept { return {}; }
    static std::suspend_never final_suspend() noexcept { return {}; }
    static void return_void() noexcept {}
    [[noreturn]] static void unhandled_exception() noexcept { std::terminate(); }

    inline static void start(loop_item* self) noexcept;
    loop* owner = nullptr;
  };
  std::coroutine_handle<promise_type> handle;
};

/// An executor keeps SIGPIPE from its thread while it runs: a write to a closed pipe through the
/// ring is a signal in whoever submitted it. One that came is swallowed.
class without_sigpipe {
 public:
  without_sigpipe() noexcept {
    sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &only_sigpipe(), &before_);
  }
  without_sigpipe(const without_sigpipe&) = delete;
  without_sigpipe& operator=(const without_sigpipe&) = delete;
  ~without_sigpipe() {
    timespec const at_once{};
    if (!was_pending_)
      while (::sigtimedwait(&only_sigpipe(), nullptr, &at_once) < 0 && errno == EINTR) {
      }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  static const sigset_t& only_sigpipe() noexcept {
    static sigset_t const set = [] {
      sigset_t s;
      ::sigemptyset(&s);
      ::sigaddset(&s, SIGPIPE);
      return s;
    }();
    return set;
  }
  sigset_t before_;
  bool was_pending_;
};

/// Something of a run of an executor, which is called, once, when that ends. `ended` says what
/// sort it is, too.
class end_of_run {
 public:
  using function = void(end_of_run* self) noexcept;
  end_of_run(executor& here, function* ended) noexcept;
  /// The one of this sort in this run, or null.
  [[nodiscard]] static end_of_run* find(const executor& here, function* ended) noexcept;

 private:
  friend executor;
  function* ended_;
  end_of_run* next_;
};

inline void detached::promise_type::start(loop_item* self) noexcept {
  auto& promise = *static_cast<promise_type*>(self);
  auto const handle = std::coroutine_handle<promise_type>::from_promise(promise);
  if (promise.owner->ending()) return handle.destroy();
  promise.stop(promise.owner->ambient());
  handle.resume();
}

}  // namespace iowq::detail
