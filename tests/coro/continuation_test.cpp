// SPDX-License-Identifier: BSL-1.0
#include <iowq/coro/detail/continuation.hpp>

#include <memory>
#include <stdexcept>
#include <utility>

#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/task.hpp>

#include <doctest/doctest.h>

#include "manual.hpp"

namespace {
using iowq::task;

static_assert(iowq::detail::startable<task<int>>);
static_assert(!iowq::detail::startable<iowq_test::foreign>);
static_assert(!iowq::detail::startable<int>);

struct ear : iowq::detail::completion_callback {
  int heard = 0;
  ear()
      : completion_callback{
            [](completion_callback* self) noexcept { ++static_cast<ear*>(self)->heard; }} {}
};
}  // namespace

TEST_SUITE("coro/continuation") {
  TEST_CASE("a continuation is a coroutine, a completion callback, or nothing") {
    ear who;
    CHECK_FALSE(iowq::detail::continuation{});
    CHECK(iowq::detail::continuation{std::noop_coroutine()});
    iowq::detail::continuation const listening{who};
    CHECK(listening);
    listening.run();
    CHECK(who.heard == 1);
  }

  TEST_CASE("a task calls its completion callback at its end, without a coroutine that awaits it") {
    ear who;
    iowq_test::suspension point;
    iowq::stop_source source;
    iowq::stop_token seen;
    auto const body = [&]() -> task<std::unique_ptr<int>> {
      seen = co_await iowq::ambient_stop();
      co_await point;
      co_return std::make_unique<int>(7);
    };
    auto work = body();
    CHECK(work.start(who, source.get_token()));
    CHECK(seen == source.get_token());
    CHECK(who.heard == 0);
    point.resume();
    CHECK(who.heard == 1);
    CHECK(*work.take_result() == 7);
  }

  TEST_CASE("what left a task is rethrown when its result is asked for") {
    ear who;
    auto const body = []() -> task<> {
      throw std::runtime_error("left");
      co_return;
    };
    auto work = body();
    work.start(who, {});
    CHECK(who.heard == 1);
    CHECK_THROWS_WITH(work.take_result(), "left");
  }
}
