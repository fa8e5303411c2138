// SPDX-License-Identifier: BSL-1.0
#include <iowq/coro/task.hpp>

#include <csignal>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include <doctest/doctest.h>

#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "small_stack.hpp"

namespace {
using iowq::task;
using iowq_test::counted;
using iowq_test::detached;
using iowq_test::started;
using iowq_test::suspension;

static_assert(!std::is_copy_constructible_v<task<int>>);
static_assert(!std::is_copy_assignable_v<task<int>>);
static_assert(std::is_nothrow_move_constructible_v<task<int>>);
static_assert(std::is_nothrow_move_assignable_v<task<int>>);
static_assert(!std::is_default_constructible_v<task<int>>);
static_assert(sizeof(task<std::string>) == sizeof(void*));

template <class T, class U>
concept returns = requires(iowq::detail::task_promise<T>& promise, U&& value) {
  promise.return_value(std::forward<U>(value));
};
static_assert(returns<std::string, const char*>);
static_assert(returns<const std::string&, std::string&>);
static_assert(!returns<const std::string&, const char*>);  // the temporary would be gone
static_assert(!returns<std::string&, const std::string&>);

template <class T>
task<T> give(T value) {
  co_return std::forward<T>(value);
}
task<> nothing() { co_return; }
task<> fail() {
  throw std::runtime_error("on purpose");
  co_return;
}
task<> wait_at(suspension& point) { co_await point; }
task<int> hold(counted argument) { co_return argument.value; }
detached await_it(task<> waiting) { co_await waiting; }
detached await_there(task<>& waiting) { co_await waiting; }
}  // namespace

TEST_SUITE("coro/task") {
  TEST_CASE("a task does nothing until it is awaited, then runs before the awaiter goes on") {
    int steps = 0;
    auto child = [&]() -> task<> {
      ++steps;
      co_return;
    };
    auto body = [&]() -> task<> {
      auto later = child();
      CHECK(steps == 0);
      co_await later;
      CHECK(steps == 1);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("a task gives its value, be it void, a reference or move-only") {
    int object = 1;
    auto body = [&]() -> task<> {
      co_await nothing();
      const std::string text = co_await give(std::string("text"));
      CHECK(text == "text");
      int& same = co_await give<int&>(object);
      CHECK(&same == &object);
      const int& same_const = co_await give<const int&>(object);
      CHECK(&same_const == &object);
      int&& same_moving = co_await give<int&&>(std::move(object));
      CHECK(&same_moving == &object);
      const auto owner = co_await give(std::make_unique<int>(7));
      CHECK(*owner == 7);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("a result converts as in a return statement") {
    auto text = []() -> task<std::string> { co_return "literal"; };
    auto maybe = []() -> task<std::optional<int>> { co_return {}; };
    auto body = [&]() -> task<> {
      const std::string got = co_await text();
      CHECK(got == "literal");
      const auto empty = co_await maybe();
      CHECK_FALSE(empty);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("a task waits for what it awaits, and its awaiter with it") {
    suspension point;
    auto body = [&]() -> task<> { co_await wait_at(point); };
    started run{body()};
    CHECK_FALSE(run.ended());
    REQUIRE(point.waiting());
    point.resume();
    CHECK(run.ended());
  }

  TEST_CASE("an exception passes through every awaiter until one catches it") {
    suspension point;
    auto late = [&]() -> task<int> {
      co_await point;
      throw std::runtime_error("late");
    };
    auto middle = [&]() -> task<int> {
      const int n = co_await late();
      co_return n;
    };
    auto body = [&]() -> task<> {
      bool caught = false;
      try {
        co_await fail();
      } catch (const std::runtime_error& error) {
        caught = std::string(error.what()) == "on purpose";
      }
      CHECK(caught);
      (void)co_await middle();
    };
    started run{body()};
    point.resume();
    CHECK_THROWS_WITH_AS(run.ended(), "late", std::runtime_error);
    CHECK(run.ended());
  }

  TEST_CASE("a task may be moved before it is awaited") {
    auto body = []() -> task<> {
      task<int> first = give(1);
      task<int> second = std::move(first);
      CHECK_FALSE(first);
      CHECK(second);
      first = give(2);
      first = std::move(second);  // drops the 2, which never started
      const int n = co_await std::move(first);
      CHECK(n == 1);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("hazard-95: a million tasks wait, go on and end in 256 KiB of stack") {
    constexpr int count = 1'000'000;
    int waiting = 0, ended = 0;
    iowq_test::on_small_stack([&] {
      const auto points = std::make_unique<suspension[]>(count);
      auto watch = [](task<> waits, int& done) -> detached {
        co_await waits;
        ++done;
      };
      for (std::size_t i = 0; i < count; ++i) watch(wait_at(points[i]), ended);
      waiting = count - ended;
      for (std::size_t i = 0; i < count; ++i) points[i].resume();
    });
    CHECK(waiting == count);
    CHECK(ended == count);
  }

  TEST_CASE("hazard-12: a task dropped before it starts destroys its arguments, once") {
    counted::reset();
    {
      auto dropped = hold(counted{1});
    }
    CHECK(counted::created() > 1);
    CHECK(counted::alive() == 0);
  }

  TEST_CASE("arguments, locals and results are destroyed as often as they were made") {
    counted::reset();
    suspension point;
    auto make = [&](counted argument) -> task<counted> {
      counted local{argument.value + 1};
      co_await point;
      co_return local;
    };
    auto body = [&]() -> task<> {
      {
        auto child = make(counted{1});
        const counted result = co_await child;
        CHECK(result.value == 2);
      }
      CHECK(counted::alive() == 0);
      auto unread = make(counted{1});
      co_await unread;  // the result is thrown away
      throw std::runtime_error("away");
    };
    {
      started run{body()};
      point.resume();
      point.resume();
      CHECK_THROWS(run.ended());
    }
    CHECK(counted::copied() == 0);
    CHECK(counted::alive() == 0);
  }

  TEST_CASE("a result whose copy throws becomes the task's exception") {
    struct refuses {
      refuses() = default;
      refuses(const refuses&) { throw std::runtime_error("copy"); }
    };
    const refuses original;
    auto child = [&]() -> task<refuses> { co_return original; };
    auto body = [&]() -> task<> { (void)co_await child(); };
    started run{body()};
    CHECK_THROWS_WITH(run.ended(), "copy");
  }

  TEST_CASE("a task destroyed while it waits stops the program and says what to do") {
    const auto end = iowq_test::death_output([] {
      suspension point;
      auto waiting = wait_at(point);
      await_there(waiting);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a task was destroyed while it waits"));
  }

  TEST_CASE("assigning over a task that waits stops the program") {
    const auto end = iowq_test::death_output([] {
      suspension point;
      auto waiting = wait_at(point);
      await_there(waiting);
      waiting = nothing();
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a task was destroyed while it waits"));
  }

  TEST_CASE("hazard-12: awaiting a task twice stops the program, ended or not") {
    for (bool ended : {false, true}) {
      const auto end = iowq_test::death_output([ended] {
        suspension point;
        auto once = ended ? nothing() : wait_at(point);
        await_there(once);
        await_there(once);
      });
      CHECK(end.signal == SIGABRT);
      CHECK(end.says("a task was awaited twice"));
    }
  }

  TEST_CASE("hazard-12: awaiting a task that was moved away stops the program") {
    const auto end = iowq_test::death_output([] {
      auto task = nothing();
      await_it(std::move(task));
      await_there(task);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a task was awaited twice, or after it had been moved away"));
  }
}
