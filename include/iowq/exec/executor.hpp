// SPDX-License-Identifier: BSL-1.0
// iowq/exec/executor.hpp -- one owner thread, one ring, one pool.
#pragma once

#include <signal.h>
#include <time.h>

#include <cerrno>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/migration.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/exec/stats.hpp>

namespace iowq::inline v0 {
class executor;
}

namespace iowq::inline v0::detail {

/// A task without an awaiter. The loop starts it; it destroys its own frame when it ends.
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

/// Blocks SIGPIPE on an executor's thread while the executor runs: a write to a closed pipe through
/// the ring raises the signal in the thread that submitted it. The destructor discards a SIGPIPE
/// that arrived in between.
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
    timespec const no_wait{};
    if (!was_pending_)
      while (::sigtimedwait(&only_sigpipe(), nullptr, &no_wait) < 0 && errno == EINTR) {
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

/// An object that belongs to one run of an executor. When the run ends, `ended` is called with it,
/// once. The address of `ended` also identifies the kind of object.
class end_of_run {
 public:
  using function = void(end_of_run* self) noexcept;
  end_of_run(executor& here, function* ended) noexcept;
  /// Returns the object of this kind in this run, or null.
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

}  // namespace iowq::inline v0::detail

namespace iowq::inline v0 {

/// How to build an executor.
struct executor_options {
  unsigned entries = 256;                          ///< submission queue entries
  backend_kind backend = backend_kind::automatic;  ///< runs the operations that do not block
  punt_policy punt = punt_policy::pool;            ///< runs the operations that do block
  pool_options pool = {};
  iowq::pool* shared_pool = nullptr;  ///< instead of a pool of its own; must outlive the executor
  /// Receives the exceptions of spawned tasks, on the owner thread. Default: print and terminate.
  std::function<void(std::exception_ptr)> on_unhandled = {};
};

class executor;

namespace detail {

inline constinit thread_local executor* this_thread_executor = nullptr;

}  // namespace detail

/// Runs coroutines on the thread that constructed it. Immovable. At most one executor runs on a
/// thread at a time. If io_uring is refused, backend_kind::automatic uses epoll and threads
/// instead, and reports that on stderr once per process. With IOWQ_BACKEND=poll in the environment
/// it does not try io_uring. Construction throws std::system_error, with the reason, if descriptors
/// or memory run out.
class executor {
 public:
  explicit executor(executor_options options = {})
      : unhandled_{std::move(options.on_unhandled)},
        loop_{options.entries, options.backend, options.punt, std::move(options.pool),
              options.shared_pool} {}
  executor(const executor&) = delete;
  executor& operator=(const executor&) = delete;
  ~executor() {
    IOWQ_ASSERT(detail::this_thread_executor != this, "an executor was destroyed while it runs");
  }

  /// Runs `root` on this thread, which must be the one that constructed the executor. Returns
  /// root's result when `root` and all spawned tasks have ended, or rethrows root's exception.
  /// After request_stop(), a task<> that ended as cancelled returns normally. May be called again.
  template <class T>
  T run(task<T> root) {
    outcome<T> end;
    drive(root_of(std::move(root), end));
    return end.take(stopped_);
  }

  /// Starts `child` in the next turn. Owner thread; during run() or before it.
  template <class = void>
  void spawn(task<> child) {
    check_owner();
    auto& frame = prepare(std::move(child), true);
    began();
    loop_.ready(frame);
  }

  /// As spawn(), from any thread. The executor must be alive when the call begins; `child` may
  /// cause its destruction before the call returns. A task that never started is destroyed with the
  /// executor.
  template <class = void>
  void post(task<> child) {
    loop_.post(prepare(std::move(child), false));
  }

  /// Cancels every operation in flight on this executor; run() then drains and returns. Operations
  /// that begin afterwards fail immediately, except those that with_stop() shields: a second
  /// request cancels them. Any thread, and signal handlers. The request applies to the run() in
  /// progress, otherwise to the next run().
  void request_stop() noexcept { loop_.request_stop(); }

  /// The pool, which is started if necessary. Throws std::system_error if no thread can be created.
  [[nodiscard]] iowq::pool& pool() {
    check_owner();
    return loop_.pool().get();
  }

  /// The backend in use: the one that `automatic` chose, or the one that was set.
  [[nodiscard]] backend_kind backend() const noexcept {
    return loop_.has_ring() ? backend_kind::io_uring : backend_kind::poll;
  }
  /// The reason for that backend, in words: "io_uring_setup: EPERM (…)".
  [[nodiscard]] std::string_view backend_reason() const noexcept { return loop_.backend_reason(); }

  /// The counters up to now. Owner thread.
  [[nodiscard]] executor_stats stats() const {
    check_owner();
    return detail::collect(loop_);
  }

  /// Prints every operation in flight: name, descriptor, key, state, age, source line. Owner
  /// thread.
  void dump(std::ostream& out) {
    check_owner();
    detail::write_in_flight(out, loop_);
  }

  /// The executor that runs on the calling thread. Asserts that there is one.
  [[nodiscard]] static executor& current() noexcept {
    IOWQ_ASSERT(detail::this_thread_executor != nullptr, "no executor runs on this thread");
    return *detail::this_thread_executor;
  }

 private:
  friend class runtime;
  friend detail::end_of_run;
  friend detail::migration resume_on(executor& other) noexcept;

  template <class T>
  struct outcome {
    std::exception_ptr error;
    std::optional<std::conditional_t<std::is_reference_v<T>,
                                     std::add_pointer_t<std::remove_reference_t<T>>, T>>
        value;
    T take(bool) {
      if (error) std::rethrow_exception(error);
      if constexpr (std::is_reference_v<T>)
        return static_cast<T>(**value);
      else
        return std::move(*value);
    }
  };

  template <class T>
  detail::detached root_of(task<T> root, outcome<T>& end) {
    try {
      if constexpr (std::is_void_v<T>)
        co_await root;
      else if constexpr (std::is_reference_v<T>)
        end.value = std::addressof(co_await root);
      else
        end.value.emplace(co_await root);
    } catch (...) {
      end.error = std::current_exception();
    }
    if (detail::this_thread_loop != &loop_) co_await returning();
    ended();
  }

  /// Any thread may create the coroutine's frame. Its body runs on the owner thread.
  template <class = void>
  static detail::detached child_of(executor* here, task<> child, bool counted) {
    if (!counted) here->began();
    std::exception_ptr error;
    try {
      co_await child;
    } catch (...) {
      error = std::current_exception();
    }
    bool asked = false;  // true: the executor to which the task had migrated was asked to stop
    if (detail::this_thread_loop != &here->loop_) {
      asked = detail::this_thread_loop->stopping();
      co_await here->returning();
    }
    if (error) here->unhandled(error, asked || here->loop_.group_stops());
    here->ended();
  }

  detail::migration returning() noexcept {
    return detail::migration{loop_, detail::migration::why::returning};
  }

  template <class = void>
  detail::loop_item& prepare(task<> child, bool counted) {
    auto const frame = child_of(this, std::move(child), counted);
    frame.handle.promise().owner = &loop_;
    return frame.handle.promise();
  }

  void began() noexcept {
    ++begun_;
    hold();
  }
  void hold() noexcept {
    ++living_;
    done_ = false;
  }
  void ended() noexcept { done_ = --living_ == 0; }

  void check_owner() const noexcept {
    IOWQ_ASSERT(detail::linux_policy::thread_id() == owner_,
                "an executor was used on a thread that did not make it: only post() and "
                "request_stop() are for other threads");
  }

  IOWQ_COLD void unhandled(const std::exception_ptr& error, bool asked) noexcept {
    if ((asked || loop_.stopping()) && is_cancellation(error)) return;  // as requested
    if (unhandled_) return unhandled_(error);
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "iowq: an exception left a spawned task: %s\n", e.what());
    } catch (...) {
      std::fprintf(stderr, "iowq: an exception left a spawned task\n");
    }
    std::terminate();
  }

  void drive(detail::detached root) noexcept;

  /// Makes `here` the executor that runs on the calling thread, until this object is destroyed.
  class on_this_thread {
   public:
    explicit on_this_thread(executor& here) noexcept;
    on_this_thread(const on_this_thread&) = delete;
    on_this_thread& operator=(const on_this_thread&) = delete;
    ~on_this_thread();

   private:
    executor& here_;
    detail::without_sigpipe quiet_;
  };

  int const owner_ = detail::linux_policy::thread_id();
  int const process_ = detail::linux_policy::process_id();
  bool done_ = false;
  bool stopped_ = false;  // a stop was requested during the last run()
  std::size_t living_ = 0;
  std::uint64_t begun_ = 0;
  std::function<void(std::exception_ptr)> unhandled_;
  detail::end_of_run* endings_ = nullptr;
  detail::loop loop_;
};

template <>
struct executor::outcome<void> {
  std::exception_ptr error;
  void take(bool stopped) const {
    if (error && !(stopped && is_cancellation(error))) std::rethrow_exception(error);
  }
};

inline detail::end_of_run::end_of_run(executor& here, function* ended) noexcept
    : ended_{ended}, next_{std::exchange(here.endings_, this)} {}
inline detail::end_of_run* detail::end_of_run::find(const executor& here,
                                                    function* ended) noexcept {
  end_of_run* one = here.endings_;
  while (one != nullptr && one->ended_ != ended) one = one->next_;
  return one;
}

inline executor::on_this_thread::on_this_thread(executor& here) noexcept : here_{here} {
  here.check_owner();
  IOWQ_ASSERT(detail::linux_policy::process_id() == here.process_,
              "an executor was run in a child of fork(): its ring belongs to the parent");
  IOWQ_ASSERT(detail::this_thread_executor == nullptr,
              "run() inside a coroutine: co_await the task, or spawn() it");
  detail::this_thread_executor = &here;
  detail::this_thread_loop = &here.loop_;
  detail::before_close = &detail::assert_unused;
}
inline executor::on_this_thread::~on_this_thread() {
  while (detail::end_of_run* const one = here_.endings_) {
    here_.endings_ = one->next_;  // first: ended_() may delete `one`
    one->ended_(one);
  }
  detail::this_thread_loop = nullptr;
  detail::this_thread_executor = nullptr;
}

inline void executor::drive(detail::detached root) noexcept {
  on_this_thread const here{*this};
  began();
  root.handle.promise().owner = &loop_;
  loop_.ready(root.handle.promise());
  loop_.run_until(done_);
  stopped_ = loop_.will_stop();
  loop_.forget_stop();
}

/// `co_await resume_on(other)` continues the task, and its awaiters, on `other`'s thread. The task
/// is queued behind the items that are ready there, even if it is already on that thread. `other`
/// must be running, or must run later. Its run() does not return while a migrated task is there. A
/// task that was run or spawned returns to its own executor before it ends; so does a child of
/// when_all or task_group. The task keeps its stop token. On arrival it throws operation_canceled
/// if its token or `other` was asked to stop.
[[nodiscard("co_await it")]] inline detail::migration resume_on(executor& other) noexcept {
  return detail::migration{other.loop_};
}

/// Constructs an executor on this thread and runs `root`. Returns root's result when `root` and all
/// tasks that it spawned have ended, or rethrows root's exception.
///
///     int main(int, char** argv) { iowq::run(cat(argv[1])); }
template <class T>
T run(task<T> root, executor_options options = {}) {
  executor here{std::move(options)};
  return here.run(std::move(root));
}

namespace detail {

/// Moves the coroutine to the end of the ready queue.
class [[nodiscard("co_await it")]] turn_awaiter : loop_item {
 public:
  turn_awaiter() noexcept : loop_item{&go_on} {}
  static bool await_ready() noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    waiter_ = waiter;
    token_ = stop_of(waiter);
    loop::current().ready(*this);
  }
  void await_resume() const {
    if (token_.stop_requested()) [[unlikely]]
      throw_error(-ECANCELED, "yield");
  }

 private:
  static void go_on(loop_item* self) noexcept {
    static_cast<turn_awaiter*>(self)->waiter_.resume();
  }
  std::coroutine_handle<> waiter_;
  stop_token token_;
};

}  // namespace detail

/// `co_await yield()` lets everything else that is ready run first. Owner thread. Throws
/// operation_canceled if a stop was requested.
[[nodiscard("co_await it")]] inline detail::turn_awaiter yield() noexcept { return {}; }

}  // namespace iowq::inline v0
