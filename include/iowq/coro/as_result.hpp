// SPDX-License-Identifier: BSL-1.0
// iowq/coro/as_result.hpp -- as_result(), which awaits and returns errors as values.
#pragma once

#include <coroutine>
#include <cstddef>
#include <new>
#include <system_error>
#include <type_traits>
#include <utility>

#include <iowq/base/result.hpp>
#include <iowq/coro/awaiter.hpp>
#include <iowq/coro/detail/promise.hpp>

namespace iowq::inline v0 {

namespace detail {

/// An awaiter that can return its result or its error without an exception.
template <class A>
concept result_awaiter = requires(A& a) { a.await_resume_result(); };

template <class Awaitable>
class as_result_awaiter {
  using inner = std::remove_cvref_t<decltype(get_awaiter(std::declval<Awaitable&>()))>;
  using value = decltype(std::declval<inner&>().await_resume());
  // An operation is its own awaiter. For a task, awaitable_ holds the task, and await_ready()
  // creates the task's awaiter in awaiter_.
  static constexpr bool direct = std::is_same_v<inner, Awaitable>;

 public:
  explicit as_result_awaiter(Awaitable&& awaitable) : awaitable_(std::move(awaitable)) {}

  bool await_ready() {
    if constexpr (!direct) ::new (static_cast<void*>(&awaiter_)) inner(get_awaiter(awaitable_));
    return waiter().await_ready();
  }
  template <class Promise>
  auto await_suspend(std::coroutine_handle<Promise> handle) {
    return waiter().await_suspend(handle);
  }
  result<value> await_resume() {
    if constexpr (result_awaiter<inner>) {
      return waiter().await_resume_result();
    } else {
      try {
        if constexpr (std::is_void_v<value>) {
          waiter().await_resume();
          return {};
        } else {
          return waiter().await_resume();
        }
      } catch (const std::system_error& error) {
        return error.code();
      }
    }
  }

 private:
  auto& waiter() noexcept {
    if constexpr (direct)
      return awaitable_;
    else
      return *std::launder(reinterpret_cast<inner*>(&awaiter_));
  }

  struct nothing {};
  Awaitable awaitable_;
  alignas(inner) std::conditional_t<direct, nothing, std::byte[sizeof(inner)]> awaiter_;
  static_assert(direct || std::is_trivially_destructible_v<inner>);
};

}  // namespace detail

/// Awaits an rvalue awaitable and returns result<T>. It holds the value or the std::error_code:
/// that of an operation, or that of a std::system_error thrown by a task. Other exceptions are
/// rethrown.
///
///     if (auto n = co_await as_result(read(file, buffer)); !n) co_return n.error();
template <class Awaitable>
  requires(!std::is_lvalue_reference_v<Awaitable> && awaitable<Awaitable>)
[[nodiscard("co_await it")]] auto as_result(Awaitable&& operation) {
  return detail::as_result_awaiter<std::remove_cvref_t<Awaitable>>{std::move(operation)};
}

}  // namespace iowq::inline v0
