// SPDX-License-Identifier: BSL-1.0
// iowq/coro/awaiter.hpp -- the concepts of types that can be the operand of co_await.
#pragma once

#include <concepts>
#include <coroutine>
#include <type_traits>
#include <utility>

namespace iowq::inline v0 {

namespace detail {
template <class T>
concept suspend_answer = std::same_as<T, void> || std::same_as<T, bool> ||
                         std::convertible_to<T, std::coroutine_handle<>>;
}  // namespace detail

/// Has the three functions await_ready, await_suspend and await_resume, which the compiler calls.
template <class T>
concept awaiter = requires(T& t, std::coroutine_handle<> h) {
  static_cast<bool>(t.await_ready());
  { t.await_suspend(h) } -> detail::suspend_answer;
  t.await_resume();
};

namespace detail {
template <class T>
concept member_co_await = requires(T&& t) { static_cast<T&&>(t).operator co_await(); };
template <class T>
concept free_co_await = requires(T&& t) { operator co_await(static_cast<T&&>(t)); };

/// Returns the awaiter that the compiler obtains for `co_await t`.
template <class T>
decltype(auto) get_awaiter(T&& t) {
  if constexpr (member_co_await<T>)
    return static_cast<T&&>(t).operator co_await();
  else if constexpr (free_co_await<T>)
    return operator co_await(static_cast<T&&>(t));
  else
    return static_cast<T&&>(t);
}
}  // namespace detail

/// Can be the operand of co_await.
template <class T>
concept awaitable = detail::member_co_await<T> || detail::free_co_await<T> || awaiter<T>;

/// The type of `co_await t`.
template <awaitable T>
using await_result_t = decltype(detail::get_awaiter(std::declval<T>()).await_resume());

}  // namespace iowq::inline v0
