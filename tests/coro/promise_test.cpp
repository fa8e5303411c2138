// SPDX-License-Identifier: BSL-1.0
#include <iowq/coro/detail/promise.hpp>

#include <type_traits>

#include <iowq/coro/as_result.hpp>
#include <iowq/coro/stream.hpp>
#include <iowq/coro/task.hpp>

#include <doctest/doctest.h>

#include "manual.hpp"

namespace {
using iowq::ambient_stop;
using iowq::stop_source;
using iowq::stop_token;
using iowq::task;
using iowq_test::started;
using iowq_test::suspension;

static_assert(!std::is_copy_constructible_v<iowq::detail::promise_base>);
static_assert(iowq::detail::carries_stop<task<int>::promise_type>);
static_assert(!iowq::detail::carries_stop<iowq_test::detached::promise_type>);
static_assert(!iowq::detail::carries_stop<void>);  // behind a coroutine_handle<>

task<stop_token> inherited() {
  const stop_token token = co_await ambient_stop();
  co_return token;
}
task<stop_token> inherited_through(int levels) {
  if (levels > 0) {
    const stop_token token = co_await inherited_through(levels - 1);
    co_return token;
  }
  const stop_token token = co_await ambient_stop();
  co_return token;
}
iowq::stream<stop_token> tokens() {
  for (;;) {
    const stop_token token = co_await inherited();
    co_yield token;
  }
}
iowq_test::detached ask_from_outside(stop_token& own, stop_token& of_child) {
  own = co_await ambient_stop();
  of_child = co_await inherited();
}
}  // namespace

TEST_SUITE("coro/promise") {
  TEST_CASE("a task inherits the stop token of whoever awaits it, through every level") {
    stop_source source;
    stop_token own, child, deep, as_value;
    auto body = [&]() -> task<> {
      own = co_await ambient_stop();
      child = co_await inherited();
      deep = co_await inherited_through(50);
      auto value = co_await iowq::as_result(inherited());
      as_value = *value;
    };
    started run{body(), source.get_token()};
    REQUIRE(run.ended());
    CHECK(own == source.get_token());
    CHECK(child == source.get_token());
    CHECK(deep == source.get_token());
    CHECK(as_value == source.get_token());
  }

  TEST_CASE("a task that nobody may stop has a token that says so") {
    stop_token token = stop_source{}.get_token();
    auto body = [&]() -> task<> { token = co_await inherited(); };
    started run{body()};
    REQUIRE(run.ended());
    CHECK_FALSE(token.stop_possible());
  }

  TEST_CASE("a foreign coroutine has no token to give") {
    stop_source source;
    stop_token own = source.get_token(), child = source.get_token();
    ask_from_outside(own, child);
    CHECK_FALSE(own.stop_possible());
    CHECK_FALSE(child.stop_possible());
  }

  TEST_CASE("a stop requested while the task waits is seen when it goes on") {
    stop_source source;
    suspension point;
    bool before = true, after = false;
    auto body = [&]() -> task<> {
      const stop_token token = co_await ambient_stop();
      before = token.stop_requested();
      co_await point;
      after = token.stop_requested();
    };
    started run{body(), source.get_token()};
    source.request_stop();
    point.resume();
    REQUIRE(run.ended());
    CHECK_FALSE(before);
    CHECK(after);
  }

  TEST_CASE("a stream runs under the token of each next(), not of the first") {
    stop_source first, second;
    auto numbers = tokens();
    auto one = [&](stop_token& into) -> task<> {
      auto token = co_await numbers.next();
      into = *token;
    };
    stop_token seen_first, seen_second, seen_none = first.get_token();
    started a{one(seen_first), first.get_token()};
    started b{one(seen_second), second.get_token()};
    started c{one(seen_none)};
    REQUIRE(c.ended());
    CHECK(seen_first == first.get_token());
    CHECK(seen_second == second.get_token());
    CHECK_FALSE(seen_none.stop_possible());
  }
}
