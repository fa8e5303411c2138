// SPDX-License-Identifier: BSL-1.0
#include <iowq/coro/as_result.hpp>

#include <memory>
#include <stdexcept>
#include <system_error>
#include <type_traits>
#include <utility>

#include <iowq/coro/stream.hpp>
#include <iowq/coro/task.hpp>

#include <doctest/doctest.h>

#include "manual.hpp"

namespace {
using iowq::as_result;
using iowq::await_result_t;
using iowq::result;
using iowq::task;
using iowq_test::started;
using iowq_test::suspension;

template <class A>
concept accepted = requires(A&& a) { as_result(std::forward<A>(a)); };
static_assert(accepted<task<int>>);
static_assert(!accepted<task<int>&>);  // it takes its operation over: std::move it in
static_assert(!accepted<int>);
static_assert(
    std::is_same_v<await_result_t<decltype(as_result(std::declval<task<int&>>()))>, result<int&>>);

const std::error_code enoent{ENOENT, std::system_category()};

template <class T>
task<T> give(T value) {
  co_return std::forward<T>(value);
}
task<> nothing() { co_return; }
task<int> fail(std::error_code error) {
  throw std::system_error(error, "on purpose");
  co_return 0;
}

/// As an operation is: its own awaiter, that knows how it ended. Throwing would be a mistake.
struct operation {
  int answer;
  bool await_ready() const noexcept { return answer >= 0; }
  bool await_suspend(std::coroutine_handle<>) const noexcept { return false; }
  int await_resume() const noexcept { std::abort(); }
  result<int> await_resume_result() const noexcept {
    if (answer < 0) return iowq::detail::to_error(answer);
    return answer;
  }
};
}  // namespace

TEST_SUITE("coro/as_result") {
  TEST_CASE("a value stays a value, be it void, a reference or move-only") {
    int object = 1;
    auto body = [&]() -> task<> {
      auto done = co_await as_result(nothing());
      CHECK(done);
      auto number = co_await as_result(give(7));
      CHECK(number.value() == 7);
      auto same = co_await as_result(give<int&>(object));
      CHECK(&*same == &object);
      auto owner = co_await as_result(give(std::make_unique<int>(8)));
      CHECK(**owner == 8);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("the system_error that left a task is its error") {
    auto body = []() -> task<> {
      auto number = co_await as_result(fail(enoent));
      CHECK(number.error() == enoent);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("an exception that is no system_error passes") {
    auto child = []() -> task<int> {
      throw std::logic_error("passes");
      co_return 0;
    };
    auto body = [&]() -> task<> { (void)co_await as_result(child()); };
    started run{body()};
    CHECK_THROWS_AS(run.ended(), std::logic_error);
  }

  TEST_CASE("an operation is asked how it ended, and throws nothing") {
    auto body = []() -> task<> {
      auto good = co_await as_result(operation{3});
      CHECK(*good == 3);
      auto bad = co_await as_result(operation{-ENOENT});
      CHECK(bad.error() == enoent);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("it may be stored and moved before it is awaited, and wait") {
    suspension point;
    auto child = [&]() -> task<int> {
      co_await point;
      throw std::system_error(enoent);
    };
    std::error_code error;
    auto body = [&]() -> task<> {
      auto stored = as_result(child());
      auto moved = std::move(stored);
      auto number = co_await moved;
      error = number.error();
    };
    started run{body()};
    CHECK_FALSE(run.ended());
    point.resume();
    REQUIRE(run.ended());
    CHECK(error == enoent);
  }

  TEST_CASE("an awaiter of somebody else's, and next() of a stream, have results, too") {
    auto numbers = []() -> iowq::stream<int> {
      co_yield 1;
      throw std::system_error(enoent);
    };
    auto body = [&]() -> task<> {
      auto never_suspended = co_await as_result(std::suspend_never{});
      CHECK(never_suspended);
      auto stream = numbers();
      auto first = co_await as_result(stream.next());
      CHECK(**first == 1);
      auto second = co_await as_result(stream.next());
      CHECK(second.error() == enoent);
    };
    started run{body()};
    REQUIRE(run.ended());
  }
}
