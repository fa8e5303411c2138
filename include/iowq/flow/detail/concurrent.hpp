// SPDX-License-Identifier: BSL-1.0
// iowq/flow/detail/concurrent.hpp -- the common part of when_all, when_any and timeout.
//
// Each child is started with a completion_callback. The last child to complete resumes the
// coroutine that awaits the whole. So no wrapper coroutine is needed for operations, tasks and
// waits of sync/, and no heap memory for the children of a tuple. An awaitable of another library,
// which takes no completion_callback, is wrapped in a task.
#pragma once

#include <coroutine>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <ranges>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <iowq/base/assert.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/awaiter.hpp>
#include <iowq/coro/detail/continuation.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/detail/loop.hpp>

namespace iowq::inline v0::detail {

template <class A>
task<await_result_t<A>> as_task(A awaitable) {
  co_return co_await std::move(awaitable);
}

/// Returns the object to start for an `A`: the awaitable itself if it can be started with a
/// completion_callback, else a task that awaits it.
template <class A>
auto as_startable(A&& awaitable) {
  static_assert(!std::is_lvalue_reference_v<A>, "std::move it in: it can be awaited only once");
  if constexpr (startable<A>)
    return std::move(awaitable);
  else
    return as_task<A>(std::move(awaitable));
}
template <class A>
using startable_of = decltype(as_startable(std::declval<A>()));

template <class A>
inline constexpr bool is_task = false;
template <class T>
inline constexpr bool is_task<task<T>> = true;

/// The result of a started `A` that has completed.
template <startable A>
decltype(auto) result_of(A& over) {
  if constexpr (is_task<A>)
    return over.take_result();
  else
    return over.await_resume();
}
template <class A>
using value_of = decltype(result_of(std::declval<startable_of<A>&>()));

/// An operation: it can report its failure as a value, together with its name.
template <class A>
concept has_error_result = result_awaiter<A> && requires(const A& a) { a.row().name; };

/// The type in which a `T` is stored: a pointer for a reference, std::monostate for void.
template <class T>
using stored_t = typename std::conditional_t<
    std::is_void_v<T>, std::type_identity<std::monostate>,
    std::conditional_t<std::is_reference_v<T>, std::add_pointer<T>, std::remove_cv<T>>>::type;
/// The type in which a `T` is returned in a tuple or a variant.
template <class T>
using result_t = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

template <class T>
result_t<T> take_stored(stored_t<T>& value) {
  if constexpr (std::is_reference_v<T>)
    return static_cast<T>(*value);
  else
    return std::move(value);
}

/// State shared by the children of when_all, when_any and timeout. Owner thread only. May be moved
/// only before it is awaited, when it holds nothing that needs moving.
class concurrent_base {
 public:
  concurrent_base() noexcept = default;
  concurrent_base(concurrent_base&& other) noexcept {
    IOWQ_ASSERT(!other.begun_, "several awaits were moved after they had begun");
  }
  concurrent_base& operator=(concurrent_base&&) = delete;
  ~concurrent_base() {
    IOWQ_ASSERT(running_ == 0,
                "several awaits (when_all, when_any, timeout) were destroyed before all had ended");
  }

  /// The token under which each child runs.
  [[nodiscard]] stop_token token() const noexcept { return stop_.get_token(); }

 protected:
  /// Starts the children by calling `start_each()`. Returns false if all children have completed
  /// already.
  template <class StartEach>
  bool begin_each(continuation waiter, stop_token outer, std::size_t count,
                  StartEach&& start_each) noexcept {
    IOWQ_ASSERT(!begun_, "several awaits (when_all, when_any, timeout) were awaited twice");
    begun_ = true;
    waiter_ = waiter;
    running_ = count + 1;  // one extra: no child can be the last before all are started
    if (outer.stop_possible()) inherited_.emplace(outer, pass_on{&stop_});
    start_each();
    if (--running_ != 0) return true;
    inherited_.reset();
    return false;
  }

  void stop_others() noexcept { stop_.request_stop(); }

  /// Counts one child as completed; the last one resumes the waiter, which may destroy *this.
  void child_completed() noexcept {
    if (--running_ != 0) return;
    inherited_.reset();
    waiter_.run();
  }

 private:
  struct pass_on {
    stop_source* source;
    void operator()() const noexcept { source->request_stop(); }
  };

  bool begun_ = false;
  std::size_t running_ = 0;
  continuation waiter_;
  stop_source stop_;
  std::optional<stop_callback<pass_on>> inherited_;
};

/// One child, an `A`. When it completes it calls `All::ended(child&)`.
template <class All, class A>
class child final : completion_callback, loop_item {
 public:
  using value = value_of<A>;

  explicit child(A&& awaitable)
      : completion_callback{&over},
        loop_item{&begin_task},
        awaitable_(as_startable(std::move(awaitable))) {}
  child(child&& other)  // NOLINT(performance-noexcept-move-constructor): as the awaitable's
      : completion_callback{&over},
        loop_item{&begin_task},
        awaitable_(std::move(other.awaitable_)) {}

  /// Starts an operation now, and a task at the loop's next turn. So nested children do not nest on
  /// the stack, however deep they are.
  void start(All& all) noexcept {
    all_ = &all;
    home_ = &loop::current();
    if constexpr (is_task<startable_of<A>>)
      home_->ready(*this);
    else if (!awaitable_.start(*this, all.token()))
      all.ended(*this);
  }

  /// Stores the value of the completed child and returns true, or stores its exception in `error`
  /// and returns false. The failure of an operation is not thrown for that: most failures are
  /// stops, and only the first failure is ever looked at.
  bool take(std::exception_ptr& error) noexcept {
    try {
      if constexpr (has_error_result<startable_of<A>>) {
        auto result = awaitable_.await_resume_result();
        if (!result) {
          error = std::make_exception_ptr(std::system_error{result.error(), awaitable_.row().name});
          return false;
        }
        if constexpr (std::is_void_v<value>)
          value_.emplace();
        else
          value_.emplace(*std::move(result));
      } else if constexpr (std::is_void_v<value>) {
        result_of(awaitable_), value_.emplace();
      } else if constexpr (std::is_reference_v<value>) {
        value_.emplace(std::addressof(result_of(awaitable_)));
      } else {
        value_.emplace(result_of(awaitable_));
      }
      return true;
    } catch (...) {
      error = std::current_exception();
      return false;
    }
  }
  /// Discards the result. The result is still taken out, because it may own a resource such as a
  /// descriptor.
  void drop() noexcept {
    if constexpr (!is_task<startable_of<A>>) (void)succeeds();  // a task's frame owns its result
  }
  /// Returns whether the child succeeded, and discards its value. The failure of an operation costs
  /// no exception.
  bool succeeds() noexcept {
    try {
      if constexpr (result_awaiter<startable_of<A>>)
        return awaitable_.await_resume_result().has_value();
      else
        return static_cast<void>(result_of(awaitable_)), true;
    } catch (...) {
      return false;
    }
  }

  [[nodiscard]] bool has_value() const noexcept { return value_.has_value(); }
  [[nodiscard]] result_t<value> take_result() { return detail::take_stored<value>(*value_); }
  [[nodiscard]] stored_t<value>&& kept_value() { return std::move(*value_); }

 private:
  static void over(completion_callback* self) noexcept {
    auto& one = *static_cast<child*>(self);
    if (loop* const here = this_thread_loop; here != one.home_) [[unlikely]] {  // resume_on()
      one.set_action(&come_home);
      return here->migrate_to(*one.home_, one);
    }
    one.all_->ended(one);
  }
  static void come_home(loop_item* self) noexcept {
    auto& one = *static_cast<child*>(self);
    one.home_->arrive();
    one.all_->ended(one);
  }
  static void begin_task(loop_item* self) noexcept {
    auto& one = *static_cast<child*>(self);
    one.awaitable_.start(one, one.all_->token());
  }

  startable_of<A> awaitable_;
  All* all_ = nullptr;
  loop* home_ = nullptr;
  std::optional<stored_t<value>> value_;
};

/// One child for each element of `range`, which is moved out of the range.
template <class All, class A, class R>
std::vector<child<All, A>> children_of(R& range) {
  std::vector<child<All, A>> ones;
  if constexpr (requires { std::ranges::size(range); })
    ones.reserve(static_cast<std::size_t>(std::ranges::size(range)));
  for (auto&& awaitable : range) ones.emplace_back(std::move(awaitable));
  return ones;
}

/// Makes `Derived` an awaiter that is movable until it is awaited and that can itself be started
/// with a completion_callback. `Derived` has `bool begin(continuation, stop_token)`.
template <class Derived>
class concurrent_awaiter : public concurrent_base {
 public:
  static bool await_ready() noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    return static_cast<Derived*>(this)->begin(waiter, stop_of(waiter));
  }
  bool start(completion_callback& waiter, stop_token token) noexcept {
    return static_cast<Derived*>(this)->begin(waiter, token);
  }
};

}  // namespace iowq::inline v0::detail
