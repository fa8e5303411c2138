// SPDX-License-Identifier: BSL-1.0
#include <iowq/flow/when_all.hpp>  // first and alone

#include <fcntl.h>

#include <coroutine>
#include <memory>
#include <ranges>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <variant>
#include <vector>

#include <doctest/doctest.h>
#include <range/v3/view/iota.hpp>
#include <range/v3/view/transform.hpp>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/time.hpp>

#include "allocations.hpp"
#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

// What needs no coroutine to be awaited by.
template <class A>
inline constexpr bool bare = std::is_same_v<iowq::detail::startable_of<A>, A>;
static_assert(bare<task<int>>);
static_assert(bare<decltype(iowq::sleep_for(1s))>);
static_assert(bare<decltype(iowq::read(0, std::declval<std::array<char, 4>&>()))>);
static_assert(bare<decltype(iowq::when_all(iowq::sleep_for(1s)))>);
static_assert(!bare<decltype(iowq::yield())>);

task<int> soon(int n) {
  co_await iowq::yield();
  co_return n;
}
task<int> at_once(int n) { co_return n; }
task<> nothing() { co_return; }
task<std::unique_ptr<int>> owned(int n) {
  co_await iowq::yield();
  co_return std::make_unique<int>(n);
}
task<int&> refer(int& n) {
  co_await iowq::yield();
  co_return n;
}
task<> fail(const char* why, int turns = 1) {
  for (int i = 0; i < turns; ++i) co_await iowq::yield();
  throw std::runtime_error(why);
}
/// Waits forever; counts the ways in which it can end.
struct ends {
  int begun = 0, cancelled = 0;
};
task<> endless(ends& all) {
  ++all.begun;
  try {
    co_await iowq::sleep_for(1h);
  } catch (const std::system_error& error) {
    all.cancelled += error.code() == std::errc::operation_canceled;
    throw;
  }
}
}  // namespace

TEST_SUITE("flow/when_all") {
  TEST_CASE("yields a tuple in the order of the arguments, whatever ended first") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      int n = 5;
      auto all = co_await iowq::when_all(soon(1), at_once(2), owned(3), refer(n), nothing());
      static_assert(
          std::is_same_v<decltype(all),
                         std::tuple<int, int, std::unique_ptr<int>, int&, std::monostate>>);
      CHECK(std::get<0>(all) == 1);
      CHECK(std::get<1>(all) == 2);
      CHECK(*std::get<2>(all) == 3);
      CHECK(&std::get<3>(all) == &n);
    };
    iowq::run(body());
  }

  TEST_CASE("tasks, operations, punts, foreign awaitables and others of its kind, mixed") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      iowq_test::pipe_pair pipe;
      std::array<char, 4> in{};
      std::array<char, 2> const out{'o', 'k'};
      auto const alien = []() -> iowq_test::foreign { co_return 9; };
      auto const compute = [] { return 6; };
      auto inner = iowq::when_all(at_once(1), iowq::sleep_for(1us));
      auto all =
          co_await iowq::when_all(iowq::read(pipe.in, in), soon(4), iowq::write(pipe.out, out),
                                  iowq::punt(compute), alien(), std::move(inner), iowq::yield());
      CHECK(std::get<0>(all) == 2);
      CHECK(in[1] == 'k');
      CHECK(std::get<1>(all) == 4);
      CHECK(std::get<2>(all) == 2);
      CHECK(std::get<3>(all) == 6);
      CHECK(std::get<4>(all) == 9);
      CHECK(std::get<0>(std::get<5>(all)) == 1);
    };
    iowq::run(body());
  }

  TEST_CASE(
      "a range yields a vector in its order, or nothing for void; an empty one ends at once") {
    auto const body = []() -> task<> {
      std::vector<task<int>> tasks;
      for (int n = 0; n < 50; ++n) tasks.push_back(n % 3 == 0 ? soon(n) : at_once(n));
      auto const numbers = co_await iowq::when_all(std::move(tasks));
      static_assert(std::is_same_v<decltype(numbers), const std::vector<int>>);
      REQUIRE(numbers.size() == 50);
      for (int n = 0; n < 50; ++n) CHECK(numbers[static_cast<std::size_t>(n)] == n);

      auto const std_view =
          co_await iowq::when_all(std::views::iota(0, 4) | std::views::transform(soon));
      CHECK(std_view == std::vector{0, 1, 2, 3});
      auto const v3_view =
          co_await iowq::when_all(ranges::views::iota(0, 4) | ranges::views::transform(owned));
      CHECK(*v3_view.at(3) == 3);

      std::vector<task<>> silent;
      silent.push_back(nothing());
      static_assert(std::is_void_v<iowq::await_result_t<decltype(iowq::when_all(silent))>>);
      co_await iowq::when_all(silent);  // an lvalue's elements are moved out, too
      co_await iowq::when_all(std::vector<task<>>{});
      auto const none = co_await iowq::when_all(std::vector<task<int>>{});
      CHECK(none.empty());
    };
    iowq::run(body());
  }

  TEST_CASE("the first failure stops the rest and is rethrown when they have ended") {
    iowq_test::leak_check books;
    ends seen;
    auto const body = [](ends& all) -> task<> {
      bool threw = false;
      try {
        co_await iowq::when_all(endless(all), fail("first"), endless(all), fail("second", 9),
                                iowq::sleep_for(1h));
      } catch (const std::runtime_error& error) {
        threw = true;
        CHECK(error.what() == std::string{"first"});
        CHECK(all.begun == 2);
        CHECK(all.cancelled == 2);
      }
      CHECK(threw);
      std::vector<task<>> tasks;
      for (int n = 0; n < 20; ++n) tasks.push_back(n == 13 ? fail("of a range") : endless(all));
      auto const end = [](std::vector<task<>> t) -> task<> {
        co_await iowq::when_all(std::move(t));
      };
      auto work = end(std::move(tasks));
      bool again = false;
      try {
        co_await work;
      } catch (const std::runtime_error&) {
        again = true;
      }
      CHECK(again);
      CHECK(all.cancelled == 2 + 19);
    };
    iowq::run(body(seen));
  }

  TEST_CASE("an argument that is refused before anything happens stops the rest as well") {
    auto const body = []() -> task<> {
      auto const end = co_await iowq::as_result(
          iowq::when_all(iowq::sleep_for(1h), iowq::open(std::string_view{"a\0b", 3}, O_RDONLY)));
      CHECK(end.error() == std::errc::invalid_argument);
    };
    iowq::run(body());
  }

  TEST_CASE("a stop from outside reaches each: timer, ring, queued and running in the pool") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      iowq_test::pipe_pair pipe;
      iowq::stop_source source;
      bool ran = false;
      std::atomic<bool> running{false};
      auto const runs = [&running](const iowq::stop_token& token) {
        running.store(true, std::memory_order_release);
        while (!token.stop_requested()) iowq::detail::linux_policy::relax();
      };
      auto const queued = [&ran] { ran = true; };
      auto const all = [](iowq_test::pipe_pair& p, auto first, auto second) -> task<> {
        char byte;
        co_await iowq::when_all(iowq::sleep_for(1h),
                                iowq::read(p.in, iowq::mutable_bytes{&byte, 1}),
                                iowq::punt(first, {.key = 1}), iowq::punt(second, {.key = 1}));
      };
      std::error_code end;
      auto const watch = [](task<> work, iowq::stop_token token, std::error_code& into) -> task<> {
        co_await iowq_test::under{token};
        auto const result = co_await iowq::as_result(std::move(work));
        into = result.error();
      };
      iowq::executor::current().spawn(watch(all(pipe, runs, queued), source.get_token(), end));
      co_await iowq_test::until([&] { return running.load(std::memory_order_acquire); });
      source.request_stop();
      co_await iowq_test::until([&] { return end.value() != 0; });
      CHECK(end == std::errc::operation_canceled);
      CHECK_FALSE(ran);
    };
    iowq::run(body());
  }

  TEST_CASE("the stop of the executor, before, while and after it waits") {
    ends seen;
    auto const body = [](ends& all) -> task<> {
      iowq::executor::current().request_stop();
      co_await iowq::when_all(endless(all), endless(all));
    };
    iowq::run(body(seen));
    CHECK(seen.cancelled == 2);
    iowq::stop_source source;
    source.request_stop();
    auto const stopped = [](iowq::stop_token token, ends& all) -> task<int> {
      co_await iowq_test::under{token};
      auto const end = co_await iowq::as_result(iowq::when_all(endless(all), at_once(1)));
      co_return end.error().value();
    };
    CHECK(iowq::run(stopped(source.get_token(), seen)) == ECANCELED);
    CHECK(seen.cancelled == 3);
  }

  TEST_CASE("g++ 12 destroys each argument once") {
    iowq_test::counted::reset();
    auto const keep = [](iowq_test::counted c) -> task<int> {
      co_await iowq::yield();
      co_return c.value;
    };
    auto const body = [](auto f) -> task<> {
      auto const all = co_await iowq::when_all(f(iowq_test::counted{1}), f(iowq_test::counted{2}));
      CHECK(std::get<1>(all) == 2);
    };
    iowq::run(body(keep));
    CHECK(iowq_test::counted::alive() == 0);
  }

  TEST_CASE("a tuple takes no memory, a sized range takes it once") {
    if (!iowq_test::allocations::counted) return;
    auto const body = []() -> task<> {
      for (int round = 0; round < 2; ++round) {  // the first makes the frames the second finds
        std::vector<task<>> tasks;
        tasks.reserve(1000);
        for (int n = 0; n < 1000; ++n) tasks.push_back(nothing());
        auto const before = iowq_test::allocations::now();
        co_await iowq::when_all(nothing(), iowq::sleep_for(0s), soon(1), nothing());
        if (round == 1) CHECK((iowq_test::allocations::now() - before).made == 0);
        auto const between = iowq_test::allocations::now();
        co_await iowq::when_all(std::move(tasks));
        if (round == 1) CHECK((iowq_test::allocations::now() - between).made == 1);
      }
    };
    iowq::run(body());
  }

  TEST_CASE("operations need no coroutine: a thousand take memory once, and to be stopped by") {
    if (!iowq_test::allocations::counted) return;
    auto const body = []() -> task<> {
      for (int round = 0; round < 2; ++round) {
        std::vector<iowq::detail::sleep_operation> sleeps;
        sleeps.reserve(1000);
        for (int n = 0; n < 1000; ++n) sleeps.push_back(iowq::sleep_for(0s));
        auto const before = iowq_test::allocations::now();
        co_await iowq::when_all(std::move(sleeps));
        long const made = (iowq_test::allocations::now() - before).made;
        // What waits for the stop is kept for the next; a coroutine each would be 1000 more.
        CHECK(made <= (round == 0 ? 1 + 1000 : 1));
      }
    };
    iowq::run(body());
  }

  TEST_CASE("a hundred thousand in each other need no more stack than one") {
    auto const body = []() -> task<> {
      struct nest {
        static task<> deeper(int levels) {
          if (levels > 0) co_await iowq::when_all(deeper(levels - 1), nothing());
        }
      };
      co_await nest::deeper(100'000);
    };
    iowq::run(body());
  }

  TEST_CASE("a second await, or a destruction during the wait, stops the program with its line") {
    auto const twice = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        auto all = iowq::when_all(nothing(), nothing());
        co_await all;
        co_await all;
      };
      iowq::run(body());
    });
    CHECK(twice.says("were awaited twice"));
    auto const dropped = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        {
          auto all = iowq::when_all(iowq::sleep_for(1h), nothing());
          CHECK(all.await_suspend(std::noop_coroutine()));
        }
        co_return;
      };
      iowq::run(body());
    });
    CHECK(dropped.says("destroyed"));
    CHECK(dropped.signal == SIGABRT);
  }
}
