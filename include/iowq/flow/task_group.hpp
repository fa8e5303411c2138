// SPDX-License-Identifier: BSL-1.0
// iowq/flow/task_group.hpp -- a scope for any number of tasks, joined before the scope ends.
#pragma once

#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <source_location>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/result.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/coro/detail/continuation.hpp>
#include <iowq/coro/detail/frame_cache.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/detail/loop.hpp>

namespace iowq::inline v0 {

/// Tasks that run concurrently with their parent and are joined before the parent continues. The
/// destructor asserts that all tasks have ended, so join() must have been awaited. The first
/// failure of a task stops the others. A group is stopped by the token it was constructed with
/// (without one, by its executor's), by the token of the coroutine that joins it, and by
/// request_stop(). Only the owner thread may use a group, except for request_stop().
///
///     iowq::task_group group;
///     for (auto& peer : peers) group.spawn(talk_to(peer));
///     co_await group.join();
///
/// An exception between spawn() and join() would leave tasks running: catch it, call request_stop()
/// and await join().
class task_group {
 public:
  task_group(std::source_location at = std::source_location::current()) noexcept : source_{at} {}
  /// Stops the tasks when `outer` is stopped. Pass `co_await ambient_stop()` if a long time may
  /// pass before the group is joined.
  explicit task_group(stop_token outer,
                      std::source_location at = std::source_location::current()) noexcept
      : outer_{outer}, source_{at} {}
  task_group(const task_group&) = delete;
  task_group& operator=(const task_group&) = delete;
  ~task_group() {
    IOWQ_ASSERT(running_ == 0 || detail::at_fault(source_),
                "a task_group was destroyed while tasks of it run: co_await its join()");
  }

  /// Starts `child` at the next turn of the loop, after the tasks that were spawned before. A task
  /// of the group may also call it. The task is destroyed when it ends, not with the group. Throws
  /// std::bad_alloc.
  void spawn(task<> child) {
    IOWQ_ASSERT(child, "a task was spawned after it had been moved away");
    detail::loop& here = detail::loop::current();
    IOWQ_ASSERT(running_ == 0 || owner_ == &here || detail::at_fault(source_),
                "a task was spawned into a task_group of another executor: post() it there");
    owner_ = &here;
    auto* const fresh = new member{*this, std::move(child)};
    if (running_++ == 0)
      inherited_.emplace(outer_.stop_possible() ? outer_ : here.ambient(), pass_on{&stop_});
    here.ready(*fresh);
  }

  /// Requests a stop of all tasks of the group, including those that are spawned later. The tasks
  /// must still be joined; after this call a task that ends with a cancellation does not count as
  /// failed. Any thread.
  void request_stop() noexcept {
    // relaxed: this flag publishes no other data. failed() reads it on the owner's thread after a
    // task has seen the stop, and the stop has its own release and acquire.
    asked_.store(true, std::memory_order_relaxed);
    stop_.request_stop();
  }
  [[nodiscard]] bool stop_requested() const noexcept { return stop_.stop_requested(); }
  /// The token under which the tasks run.
  [[nodiscard]] stop_token token() const noexcept { return stop_.get_token(); }
  /// The number of tasks that have not ended.
  [[nodiscard]] std::size_t size() const noexcept { return running_; }

 private:
  struct pass_on {
    stop_source* source;
    void operator()() const noexcept { source->request_stop(); }
  };

  class member final : public detail::recycled_frame,
                       public detail::completion_callback,
                       public detail::loop_item {
   public:
    member(task_group& group, task<> work) noexcept
        : completion_callback{&over}, loop_item{&begin}, group_{group}, work_{std::move(work)} {}

   private:
    static void begin(loop_item* self) noexcept {
      auto& one = *static_cast<member*>(self);
      one.work_.start(one, one.group_.token());
    }
    /// The task's coroutine is still in its final suspend. Destroys its frame at the next turn.
    static void over(completion_callback* self) noexcept {
      auto& one = *static_cast<member*>(self);
      detail::loop& here = *detail::this_thread_loop;
      detail::loop& home = *one.group_.owner_;
      one.set_action(&here == &home ? &dispose : &dispose_at_home);
      if (&here == &home) return home.ready(one);
      here.migrate_to(home, one);  // the task ended on another thread, by resume_on()
    }
    static void dispose_at_home(loop_item* self) noexcept {
      detail::this_thread_loop->arrive();
      dispose(self);
    }
    static void dispose(loop_item* self) noexcept {
      auto* const one = static_cast<member*>(self);
      task_group& group = one->group_;
      try {
        one->work_.take_result();
      } catch (...) {
        group.failed(std::current_exception());
      }
      delete one;
      group.child_completed();
    }
    task_group& group_;
    task<> work_;
  };

  class [[nodiscard("co_await it")]] joiner {
   public:
    explicit joiner(task_group& group) noexcept : group_{group} {}
    [[nodiscard]] bool await_ready() const noexcept { return group_.running_ == 0; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
      group_.wait(waiter, detail::stop_of(waiter));
    }
    bool start(detail::completion_callback& waiter, stop_token token) noexcept {
      if (await_ready()) return false;
      group_.wait(waiter, token);
      return true;
    }
    void await_resume() const { group_.rethrow(); }

   private:
    task_group& group_;
  };

 public:
  /// Waits until all tasks of the group have ended, including those spawned while it waits, and
  /// rethrows the first failure. A stop request cancels the tasks; the join still waits for them.
  /// The group may be used again afterwards. A stop that it has received stays in effect.
  [[nodiscard("co_await it")]] joiner join() noexcept { return joiner{*this}; }

 private:
  void wait(detail::continuation waiter, stop_token token) noexcept {
    IOWQ_ASSERT(!waiter_ || detail::at_fault(source_), "a task_group was joined twice at once");
    IOWQ_ASSERT(owner_ == detail::this_thread_loop || detail::at_fault(source_),
                "a task_group was joined on another thread than its tasks'");
    waiter_ = waiter;
    if (token.stop_possible()) joined_.emplace(token, pass_on{&stop_});
  }
  void failed(std::exception_ptr error) noexcept {
    // relaxed: see request_stop().
    if (asked_.load(std::memory_order_relaxed) && is_cancellation(error)) return;
    if (!error_) error_ = std::move(error);
    stop_.request_stop();
  }
  void child_completed() noexcept {
    if (--running_ != 0) return;
    inherited_.reset();
    joined_.reset();
    if (waiter_) std::exchange(waiter_, {}).run();
  }
  void rethrow() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  stop_source stop_;
  detail::atomic<bool> asked_{false};
  stop_token outer_;
  std::source_location source_;    // where the group was constructed
  detail::loop* owner_ = nullptr;  // the executor of the running tasks
  std::size_t running_ = 0;
  detail::continuation waiter_;
  std::exception_ptr error_;
  std::optional<stop_callback<pass_on>> inherited_;
  std::optional<stop_callback<pass_on>> joined_;
};

}  // namespace iowq::inline v0
