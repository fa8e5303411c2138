// SPDX-License-Identifier: BSL-1.0
#include <iowq/flow/for_each.hpp>  // first and alone

#include <memory>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <vector>

#include <doctest/doctest.h>
#include <range/v3/view/iota.hpp>
#include <range/v3/view/transform.hpp>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/flow/with_stop.hpp>
#include <iowq/op/time.hpp>

#include "allocations.hpp"
#include "leak_check.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

struct meter {
  int active = 0, peak = 0, ended = 0;
  long sum = 0;
};
task<> one(int n, meter& m) {
  struct inside {
    meter& all;
    explicit inside(meter& a) : all{a} { all.peak = std::max(all.peak, ++all.active); }
    ~inside() { --all.active, ++all.ended; }
  } const scope{m};
  co_await iowq::sleep_for(50us);
  m.sum += n;
  if (n < 0) throw std::runtime_error("negative");
}
}  // namespace

TEST_SUITE("flow/for_each") {
  TEST_CASE("every item is awaited, at most `limit` at a time, in any range") {
    meter m;
    auto const each = [&m](int n) { return one(n, m); };
    auto const body = [](auto f, meter& all) -> task<> {
      std::vector<int> numbers(100, 1);
      co_await iowq::for_each(numbers, 7, f);
      CHECK(all.sum == 100);
      CHECK(all.peak == 7);
      co_await iowq::for_each(std::views::iota(0, 10), 1000, f);
      CHECK(all.sum == 145);
      co_await iowq::for_each(
          ranges::views::iota(0, 10) | ranges::views::transform([](int n) { return 2 * n; }), 3, f);
      CHECK(all.sum == 235);
      std::istringstream words{"1 2 3 4"};
      co_await iowq::for_each(std::views::istream<int>(words), 3, f);  // single pass
      CHECK(all.sum == 245);
      co_await iowq::for_each(std::vector<int>{}, 3, f);
      CHECK(all.ended == 100 + 10 + 10 + 4);
      CHECK(all.active == 0);
    };
    iowq::run(body(each, m));
  }

  TEST_CASE("the first failure stops the others, of an infinite range too, and is rethrown") {
    meter m;
    auto const each = [&m](int n) { return one(n == 50 ? -1 : n, m); };
    auto const body = [](auto f) -> task<> { co_await iowq::for_each(std::views::iota(0), 8, f); };
    CHECK_THROWS_WITH(iowq::run(body(each)), "negative");
    CHECK(m.active == 0);
    CHECK(m.ended < 100);
  }

  TEST_CASE("a stop from outside reaches every item, and what was not begun is cancelled") {
    meter m;
    auto const each = [&m](int) -> task<> {
      ++m.active;
      co_await iowq::sleep_for(1h);
    };
    auto const body = [](auto f) -> task<int> {
      auto const stop = []() -> task<> {
        co_await iowq::sleep_for(1ms);
        iowq::executor::current().request_stop();
      };
      iowq::executor::current().spawn(stop());
      auto const end = co_await iowq::as_result(iowq::for_each(std::views::iota(0), 5, f));
      co_return end.error().value();
    };
    CHECK(iowq::run(body(each)) == ECANCELED);
    CHECK(m.active == 5);
  }

  TEST_CASE(
      "what the executor's stop ended early is cancelled, under a shield and caught as well") {
    int begun = 0;
    auto const each = [&begun](int) -> task<> {
      ++begun;
      try {
        co_await iowq::sleep_for(1h);
      } catch (const std::system_error&) {
      }
    };
    auto const body = [](auto f) -> task<int> {
      auto const stop = []() -> task<> {
        co_await iowq::sleep_for(1ms);
        iowq::executor::current().request_stop();
      };
      iowq::executor::current().spawn(stop());
      auto items = iowq::for_each(std::views::iota(0, 3), 1, f);
      auto shielded = iowq::as_result(iowq::with_stop({}, std::move(items)));
      auto const end = co_await shielded;
      co_return end ? 0 : end.error().value();
    };
    CHECK(iowq::run(body(each)) == ECANCELED);
    CHECK(begun == 1);
  }

  TEST_CASE("memory grows with the limit, not with the range") {
    if (!iowq_test::allocations::counted) return;
    long sum = 0;
    auto const each = [&sum](long n) -> task<> {
      if (n % 1000 == 0) co_await iowq::yield();
      sum += n;
    };
    auto const body = [](auto f) -> task<> {
      auto const before = iowq_test::allocations::now();
      co_await iowq::for_each(std::views::iota(0L, 10'000'000L), 100, f);
      CHECK((iowq_test::allocations::now() - before).made <= 5 * 100);
    };
    iowq::run(body(each));
    CHECK(sum == 9'999'999L * 10'000'000 / 2);
  }

  TEST_CASE("a range that breaks on the way is a failure like another") {
    auto const breaks = [](int n) {
      if (n == 20) throw std::runtime_error("broken");
      return n;
    };
    for (int const at_once : {5, 100}) {
      meter m;
      auto const each = [&m](int n) { return one(n, m); };
      auto const body = [](auto range, std::size_t limit, auto f) -> task<> {
        co_await iowq::for_each(range, limit, f);
      };
      auto const range = std::views::iota(0, 50) | std::views::transform(breaks);
      CHECK_THROWS_WITH(iowq::run(body(range, static_cast<std::size_t>(at_once), each)), "broken");
      CHECK(m.active == 0);
    }
  }

  TEST_CASE("nested ones work, and a limit of 0 is refused") {
    int n = 0;
    auto const inner = [&n](int) -> task<> {
      co_await iowq::yield();
      ++n;
    };
    auto const outer = [&](int) { return iowq::for_each(std::views::iota(0, 10), 3, inner); };
    auto const body = [](auto f) -> task<> {
      co_await iowq::for_each(std::views::iota(0, 10), 4, f);
    };
    iowq::run(body(outer));
    CHECK(n == 100);
    CHECK_THROWS_AS((void)iowq::for_each(std::vector<int>{1}, 0, inner), std::system_error);
  }
}
