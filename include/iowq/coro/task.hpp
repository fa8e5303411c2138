// SPDX-License-Identifier: BSL-1.0
// iowq/coro/task.hpp -- task<T>, a coroutine that starts when awaited and returns one result.
#pragma once

#include <coroutine>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/coro/awaiter.hpp>
#include <iowq/coro/detail/promise.hpp>

namespace iowq::inline v0 {

template <class T = void>
class task;

namespace detail {

/// Holds the outcome of a task: nothing yet, a value, or an exception. A union and a tag, not a
/// std::variant: a variant costs about forty template instantiations for each task type.
template <class T>
class task_promise_base : public promise_base {
  using stored = std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<T>, T>;

 public:
  task_promise_base() noexcept {}
  ~task_promise_base() { destroy(); }

  /// A task that returns a reference accepts only objects to which T can bind directly: a
  /// conversion would bind it to a temporary.
  template <class U = T>
    requires(std::is_constructible_v<T, U> &&
             (!std::is_reference_v<T> || std::is_convertible_v<std::add_pointer_t<U>, stored>))
  void return_value(U&& value) {
    if constexpr (std::is_reference_v<T>) {
      auto&& object = static_cast<T>(std::forward<U>(value));
      std::construct_at(std::addressof(value_), std::addressof(object));
    } else {
      std::construct_at(std::addressof(value_), std::forward<U>(value));
    }
    state_ = outcome::value;
  }
  void unhandled_exception() noexcept {
    destroy();  // a destructor may have thrown after return_value()
    std::construct_at(std::addressof(error_), std::current_exception());
    state_ = outcome::error;
  }
  T take() {
    if (state_ == outcome::error) std::rethrow_exception(std::exchange(error_, nullptr));
    if constexpr (std::is_reference_v<T>)
      return static_cast<T>(*value_);
    else
      return std::move(value_);
  }

 private:
  enum class outcome : unsigned char { none, value, error };

  void destroy() noexcept {
    if (state_ == outcome::value)
      value_.~stored();
    else if (state_ == outcome::error)
      error_.~exception_ptr();
  }

  union {
    stored value_;
    std::exception_ptr error_;
  };
  outcome state_ = outcome::none;
};

template <>
class task_promise_base<void> : public promise_base {
 public:
  void return_void() noexcept {}
  void unhandled_exception() noexcept { error_ = std::current_exception(); }
  void take() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  std::exception_ptr error_;
};

template <class T>
class task_promise final : public task_promise_base<T> {
 public:
  task<T> get_return_object() noexcept;
  static std::suspend_always initial_suspend() noexcept { return {}; }
  static final_awaiter final_suspend() noexcept { return {}; }
};

}  // namespace detail

/// A lazy coroutine with a single owner. It starts when it is awaited, on the awaiting thread (its
/// owner); it can be awaited once. It returns its `T` (void, a reference, or a movable type) to the
/// awaiter, or throws its exception there. It inherits the awaiter's stop token. The stack does not
/// grow, however many tasks complete without suspending and however deep they nest.
///
/// Destroying a task that has not started destroys its arguments. Destroying a task that waits
/// stops the program, because the kernel might still write into its frame.
///
///     iowq::task<int> answer() { co_return 42; }
///     int n = co_await answer();
template <class T>
class [[nodiscard("co_await it, or it never starts")]] task {
 public:
  using promise_type = detail::task_promise<T>;
  using value_type = T;

  task(task&& other) noexcept : handle_{std::exchange(other.handle_, nullptr)} {}
  task& operator=(task&& other) noexcept {
    if (this != &other) {
      destroy();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~task() { destroy(); }

  /// False if the task was moved from, or if an await has completed and destroyed the frame.
  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(handle_); }

  auto operator co_await() noexcept { return awaiter{*this, handle_}; }

  /// Starts the task with a callback instead of a coroutine (coro/detail/continuation.hpp).
  bool start(detail::completion_callback& waiter, stop_token token) noexcept {
    return awaiter{*this, handle_}.begin(waiter, token), true;
  }
  /// Returns the result of a completed task that start() started, or throws its exception. The
  /// frame stays until the task is destroyed, because the callback runs inside the frame's last
  /// step.
  T take_result() { return handle_.promise().take(); }

 private:
  friend promise_type;
  using handle_type = std::coroutine_handle<promise_type>;
  explicit task(handle_type handle) noexcept : handle_{handle} {}

  struct awaiter {
    task& owner;
    handle_type child;

    static bool await_ready() noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> parent) const noexcept {
      begin(parent, detail::stop_of(parent));
    }
    void begin(detail::continuation waiter, stop_token token) const noexcept {
      IOWQ_ASSERT(child, "a task was awaited twice, or after it had been moved away");
      IOWQ_ASSERT(!child.promise().continuation(), "a task was awaited twice");
      child.promise().continuation(waiter);
      child.promise().stop(token);
      detail::hand_over(child);
    }
    T await_resume() const {
      // Destroy the frame here, not with the task. A chain of tasks that hold each other as
      // arguments is then freed one by one on the way up, instead of by recursion at its end. A
      // task that returns a reference keeps its frame: the referenced object may be in it.
      struct end {
        task& ended;
        ~end() {
          if constexpr (!std::is_reference_v<T>) ended.destroy();
        }
      } const at_end{owner};
      return child.promise().take();
    }
  };

  void destroy() noexcept {
    if (!handle_) return;
    IOWQ_ASSERT(!handle_.promise().continuation() || handle_.done(),
                "a task was destroyed while it waits: await it to its end, or request a stop and "
                "then await it");
    handle_.destroy();
    handle_ = nullptr;
  }

  handle_type handle_;
};

template <class T>
task<T> detail::task_promise<T>::get_return_object() noexcept {
  return task<T>{std::coroutine_handle<task_promise>::from_promise(*this)};
}

}  // namespace iowq::inline v0
