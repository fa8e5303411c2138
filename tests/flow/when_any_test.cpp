// SPDX-License-Identifier: BSL-1.0
#include <iowq/flow/when_any.hpp>  // first and alone

#include <fcntl.h>

#include <memory>
#include <ranges>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <range/v3/view/iota.hpp>
#include <range/v3/view/transform.hpp>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/flow/when_all.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/time.hpp>

#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

task<int> after(int turns, int n) {
  for (int i = 0; i < turns; ++i) co_await iowq::yield();
  co_return n;
}
task<int> fail_after(int turns, const char* why) {
  for (int i = 0; i < turns; ++i) co_await iowq::yield();
  throw std::runtime_error(why);
}
task<std::unique_ptr<int>> owned(int turns, int n) {
  for (int i = 0; i < turns; ++i) co_await iowq::yield();
  co_return std::make_unique<int>(n);
}
task<int&> refer(int& n) {
  co_await iowq::yield();
  co_return n;
}
task<> count_cancelled(int& cancelled) {
  auto const end = co_await iowq::as_result(iowq::sleep_for(1h));
  cancelled += end.error() == std::errc::operation_canceled;
  end.value();
}
}  // namespace

TEST_SUITE("flow/when_any") {
  TEST_CASE("the first to succeed wins, the others are stopped and have ended") {
    iowq_test::leak_check books;
    int cancelled = 0;
    auto const body = [](int& losers) -> task<> {
      auto any = co_await iowq::when_any(count_cancelled(losers), owned(5, 5), owned(2, 2),
                                         iowq::sleep_for(1h), count_cancelled(losers));
      CHECK(any.index() == 2);
      CHECK(*any.get<2>() == 2);
      std::unique_ptr<int> const moved = std::move(any).get<2>();
      CHECK(*moved == 2);
      CHECK(losers == 2);
    };
    iowq::run(body(cancelled));
  }

  TEST_CASE("what yields nothing, or a reference, can win as well") {
    auto const body = []() -> task<> {
      auto const quiet = co_await iowq::when_any(iowq::sleep_for(1h), iowq::sleep_for(1us));
      CHECK(quiet.index() == 1);
      static_assert(std::is_same_v<decltype(quiet.get<1>()), const std::monostate&>);
      int n = 4;
      auto named = co_await iowq::when_any(refer(n), iowq::sleep_for(1h));
      CHECK(&named.get<0>() == &n);
    };
    iowq::run(body());
  }

  TEST_CASE("a failure does not win; if all fail, the last failure is rethrown") {
    auto const body = []() -> task<> {
      auto const any = co_await iowq::when_any(fail_after(0, "early"), after(5, 7));
      CHECK(any.index() == 1);
      std::string said;
      try {
        (void)co_await iowq::when_any(fail_after(3, "last"), fail_after(1, "first"),
                                      fail_after(2, "second"));
      } catch (const std::runtime_error& error) {
        said = error.what();
      }
      CHECK(said == "last");
    };
    iowq::run(body());
  }

  TEST_CASE("a range yields index() and value(); an empty one is refused") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      auto const make = [](int n) { return after(10 - n, n); };
      auto const any =
          co_await iowq::when_any(std::views::iota(0, 8) | std::views::transform(make));
      CHECK(any.index() == 7);
      CHECK(any.value() == 7);
      auto const make_owned = [](int n) { return owned(n + 1, n); };
      auto owner =
          co_await iowq::when_any(ranges::views::iota(0, 8) | ranges::views::transform(make_owned));
      std::unique_ptr<int> const value = std::move(owner).value();
      CHECK(*value == 0);
      std::vector<task<>> silent;
      int cancelled = 0;
      silent.push_back(count_cancelled(cancelled));
      auto const nothing = []() -> task<> { co_return; };
      silent.push_back(nothing());
      auto const first = co_await iowq::when_any(std::move(silent));
      CHECK(first.index() == 1);
      CHECK(cancelled == 1);
    };
    iowq::run(body());
    CHECK_THROWS_AS((void)iowq::when_any(std::vector<task<>>{}), std::system_error);
  }

  TEST_CASE("hazard-6: a loser that succeeded all the same leaves no descriptor behind") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      for (int i = 0; i < 50; ++i) {
        auto any = co_await iowq::when_any(iowq::open("/dev/null", O_RDONLY),
                                           iowq::open("/dev/zero", O_RDONLY));
        CHECK(any.index() < 2);
      }
    };
    iowq::run(body());
  }

  TEST_CASE("a stop from outside ends all of them, and is what is thrown") {
    int cancelled = 0;
    auto const body = [](int& losers) -> task<> {
      iowq::stop_source source;
      co_await iowq_test::under{source.get_token()};
      auto const stop = [](iowq::stop_source& s) -> task<> {
        s.request_stop();
        co_return;
      };
      iowq::executor::current().spawn(stop(source));
      auto const end = co_await iowq::as_result(
          iowq::when_any(count_cancelled(losers), count_cancelled(losers), iowq::sleep_for(1h)));
      CHECK(end.error() == std::errc::operation_canceled);
    };
    iowq::run(body(cancelled));
    CHECK(cancelled == 2);
  }

  TEST_CASE("a loser in the pool is stopped while it is queued and while it runs") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      std::atomic<bool> running{false};
      bool ran = false;
      auto const runs = [&running](const iowq::stop_token& token) {
        running.store(true, std::memory_order_release);
        while (!token.stop_requested()) iowq::detail::linux_policy::relax();
        throw std::runtime_error("stopped");
      };
      auto const queued = [&ran] { ran = true; };
      auto const until = [&running]() -> task<> {
        co_await iowq_test::until([&] { return running.load(std::memory_order_acquire); });
      };
      auto const any = co_await iowq::when_any(iowq::punt(runs, {.key = 1}),
                                               iowq::punt(queued, {.key = 1}), until());
      CHECK(any.index() == 2);
      CHECK_FALSE(ran);
    };
    iowq::run(body());
  }

  TEST_CASE("they nest, in when_all and in each other") {
    auto const body = []() -> task<> {
      auto fast = iowq::when_any(after(1, 1), after(9, 9));
      auto slow = iowq::when_any(after(8, 8), after(2, 2));
      auto both = co_await iowq::when_all(std::move(fast), std::move(slow));
      CHECK(std::get<0>(both).get<0>() == 1);
      CHECK(std::get<1>(both).get<1>() == 2);
    };
    iowq::run(body());
  }

  TEST_CASE("to ask for another's value is named") {
    auto const end = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        auto any = co_await iowq::when_any(after(0, 1), after(5, 2));
        (void)any.get<1>();
      };
      iowq::run(body());
    });
    CHECK(end.says("get<I>() of a when_any that another one has won"));
  }
}
