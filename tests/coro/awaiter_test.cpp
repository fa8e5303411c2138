// SPDX-License-Identifier: BSL-1.0
#include <iowq/coro/awaiter.hpp>

#include <coroutine>
#include <type_traits>
#include <utility>

#include <iowq/coro/as_result.hpp>
#include <iowq/coro/stream.hpp>
#include <iowq/coro/task.hpp>

#include <doctest/doctest.h>

#include "manual.hpp"

namespace elsewhere {
template <class Answer>
struct ready {
  static bool await_ready() noexcept { return true; }
  static Answer await_suspend(std::coroutine_handle<>) noexcept { return Answer(); }
  static int await_resume() noexcept { return 1; }
};

struct by_member {
  ready<void> operator co_await() const noexcept { return {}; }
};
struct by_rvalue {
  ready<void> operator co_await() && noexcept { return {}; }
};
struct by_function {};
ready<void> operator co_await(by_function) noexcept { return {}; }
}  // namespace elsewhere

namespace {
using namespace elsewhere;
using iowq::await_result_t;
using iowq::awaitable;
using iowq::awaiter;
using iowq::task;

static_assert(awaiter<ready<void>>);
static_assert(awaiter<ready<bool>>);
static_assert(awaiter<ready<std::coroutine_handle<>>>);
static_assert(awaiter<ready<std::coroutine_handle<iowq_test::detached::promise_type>>>);
static_assert(!awaiter<ready<int>>);  // await_suspend may answer void, bool or a handle
static_assert(awaiter<std::suspend_always>);
static_assert(!awaiter<task<int>>);  // it has an awaiter, but is none

static_assert(awaitable<task<int>>);
static_assert(awaitable<task<int>&>);
static_assert(awaitable<decltype(std::declval<iowq::stream<int>&>().next())>);
static_assert(awaitable<decltype(iowq::as_result(std::declval<task<>>()))>);
static_assert(awaitable<decltype(iowq::ambient_stop())>);
static_assert(awaitable<by_member>);
static_assert(awaitable<by_function>);
static_assert(awaitable<by_rvalue>);
static_assert(!awaitable<by_rvalue&>);
static_assert(!awaitable<int>);
static_assert(!awaitable<void>);
static_assert(!awaitable<iowq::stream<int>>);

static_assert(std::is_same_v<await_result_t<task<int>>, int>);
static_assert(std::is_same_v<await_result_t<task<int&>>, int&>);
static_assert(std::is_void_v<await_result_t<task<>>>);
static_assert(std::is_same_v<await_result_t<by_function>, int>);
static_assert(std::is_same_v<await_result_t<iowq_test::suspension&>, void>);
}  // namespace

TEST_SUITE("coro/awaiter") {
  TEST_CASE("an awaiter stands behind co_await itself, it is not copied") {
    ready<void> own;
    CHECK(&iowq::detail::get_awaiter(own) == &own);
    static_assert(std::is_same_v<decltype(iowq::detail::get_awaiter(by_member{})), ready<void>>);
    static_assert(std::is_same_v<decltype(iowq::detail::get_awaiter(by_rvalue{})), ready<void>>);
    static_assert(std::is_same_v<decltype(iowq::detail::get_awaiter(by_function{})), ready<void>>);
  }
}
