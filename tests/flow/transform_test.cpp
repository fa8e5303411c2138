// SPDX-License-Identifier: BSL-1.0
#include <iowq/flow/transform.hpp>  // first and alone

#include <memory>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <range/v3/view/filter.hpp>
#include <range/v3/view/iota.hpp>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/op/time.hpp>

#include "allocations.hpp"
#include "death.hpp"
#include "leak_check.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

struct meter {
  int active = 0, peak = 0, ended = 0, cancelled = 0;
};
/// Later items end sooner, where there is more than one.
task<int> twice(int n, meter& m) {
  m.peak = std::max(m.peak, ++m.active);
  for (int turns = 8 - n % 8; turns > 0; --turns) co_await iowq::yield();
  --m.active, ++m.ended;
  co_return 2 * n;
}
task<int> endless(meter& m) {
  ++m.active;
  auto const end = co_await iowq::as_result(iowq::sleep_for(1h));
  m.cancelled += end.error() == std::errc::operation_canceled;
  --m.active;
  end.value();
  co_return 0;
}
template <class T>
task<> collect(iowq::stream<T>& from, std::vector<T>& all) {
  while (auto item = co_await from.next()) all.push_back(std::move(*item));
}
}  // namespace

TEST_SUITE("flow/transform") {
  TEST_CASE("results come in the order of the range, at most `limit` in work") {
    iowq_test::leak_check books;
    meter m;
    auto const f = [&m](int n) { return twice(n, m); };
    auto const body = [](auto each, meter& all) -> task<> {
      std::vector<int> got, expected;
      for (int n = 0; n < 100; ++n) expected.push_back(2 * n);
      auto numbers = iowq::transform(std::views::iota(0, 100), 7, each);
      co_await collect(numbers, got);
      CHECK(got == expected);
      CHECK(all.peak == 7);
      auto const again = co_await numbers.next();
      CHECK_FALSE(again);

      got.clear();
      std::vector<int> const lvalue{1, 2, 3};
      auto borrowed = iowq::transform(lvalue, 100, each);
      co_await collect(borrowed, got);
      CHECK(got == std::vector{2, 4, 6});

      got.clear();
      std::istringstream words{"1 2 3 4"};  // single pass
      auto read = iowq::transform(std::views::istream<int>(words), 2, each);
      co_await collect(read, got);
      CHECK(got == std::vector{2, 4, 6, 8});

      got.clear();
      auto const odd = [](int n) { return n % 2 == 1; };
      auto v3 = iowq::transform(ranges::views::iota(0, 6) | ranges::views::filter(odd), 2, each);
      co_await collect(v3, got);
      CHECK(got == std::vector{2, 6, 10});

      got.clear();
      auto none = iowq::transform(std::vector<int>{}, 2, each);
      co_await collect(none, got);
      CHECK(got.empty());
    };
    iowq::run(body(f, m));
    CHECK(m.active == 0);
  }

  TEST_CASE("items that are values live as long as the work that refers to them") {
    auto const length = [](const std::string& s) -> task<std::unique_ptr<std::size_t>> {
      co_await iowq::yield();
      co_return std::make_unique<std::size_t>(s.size());
    };
    auto const make = [](int n) { return std::string(static_cast<std::size_t>(n) * 20, 'x'); };
    auto const body = [](auto f, auto g) -> task<> {
      auto lengths = iowq::transform(std::views::iota(0, 10) | std::views::transform(g), 4, f);
      std::size_t n = 0;
      while (auto item = co_await lengths.next()) CHECK(**item == 20 * n++);
      CHECK(n == 10);
    };
    iowq::run(body(length, make));
  }

  TEST_CASE("the function may return an operation") {
    iowq_test::leak_check books;
    auto const square = [](int n) {
      auto const call = [n] { return n * n; };
      return iowq::punt(call);
    };
    auto const body = [](auto f) -> task<> {
      auto squares = iowq::transform(std::views::iota(1, 5), 3, f);
      std::vector<int> got;
      co_await collect(squares, got);
      CHECK(got == std::vector{1, 4, 9, 16});
    };
    iowq::run(body(square));
  }

  TEST_CASE("the first failure stops the others and is rethrown when they have ended") {
    iowq_test::leak_check books;
    meter m;
    auto const f = [&m](int n) -> task<int> {
      if (n == 3) {
        co_await iowq::yield();
        throw std::runtime_error("the third");
      }
      auto work = endless(m);
      int const result = co_await work;
      co_return result;
    };
    auto const body = [](auto each, meter& all) -> task<> {
      auto numbers = iowq::transform(std::views::iota(0), 8, each);  // without end
      std::string said;
      try {
        (void)co_await numbers.next();
      } catch (const std::runtime_error& error) {
        said = error.what();
        CHECK(all.active == 0);
      }
      CHECK(said == "the third");
      CHECK(all.cancelled == 7);
      auto const after = co_await numbers.next();
      CHECK_FALSE(after);
    };
    iowq::run(body(f, m));
  }

  TEST_CASE("a function or a range that throws is a failure like another") {
    meter m;
    for (int const bad : {0, 5}) {
      m = {};
      auto const f = [&m, bad](int n) {
        if (n == bad) throw std::runtime_error("thrown");
        return endless(m);
      };
      auto const body = [](auto each) -> task<> {
        auto numbers = iowq::transform(std::views::iota(0), 8, each);
        (void)co_await numbers.next();
      };
      CHECK_THROWS_WITH(iowq::run(body(f)), "thrown");
      CHECK(m.cancelled == bad);
    }
  }

  TEST_CASE("finish() ends it early; the stop of whoever awaits next() ends it as well") {
    iowq_test::leak_check books;
    meter m;
    auto const f = [&m](int n) { return n < 3 ? twice(n, m) : endless(m); };
    auto const body = [](auto each, meter& all) -> task<> {
      auto numbers = iowq::transform(std::views::iota(0), 8, each);
      auto const first = co_await numbers.next();
      CHECK(*first == 0);
      co_await iowq::finish(numbers);
      CHECK(all.active == 0);
      CHECK(all.cancelled != 0);
      auto const after = co_await numbers.next();
      CHECK_FALSE(after);

      auto more = iowq::transform(std::views::iota(5), 8, each);
      auto const stop = []() -> task<> {
        co_await iowq::yield();
        iowq::executor::current().request_stop();
      };
      iowq::executor::current().spawn(stop());
      auto const end = co_await iowq::as_result(more.next());
      CHECK(end.error() == std::errc::operation_canceled);
      CHECK(all.active == 0);
    };
    iowq::run(body(f, m));
  }

  TEST_CASE("memory grows with the limit, not with the range") {
    if (!iowq_test::allocations::counted) return;
    auto const f = [](long n) -> task<long> { co_return n; };
    auto const body = [](auto each) -> task<> {
      auto const before = iowq_test::allocations::now();
      auto numbers = iowq::transform(std::views::iota(0L, 10'000'000L), 100, each);
      long sum = 0;
      while (auto n = co_await numbers.next()) sum += *n;
      CHECK(sum == 9'999'999L * 10'000'000 / 2);
      CHECK((iowq_test::allocations::now() - before).made <= 5 * 100);
    };
    iowq::run(body(f));
  }

  TEST_CASE("a limit of 0 is refused, and a stream that is dropped with items in work is named") {
    meter m;
    auto const f = [&m](int n) { return twice(n, m); };
    CHECK_THROWS_AS((void)iowq::transform(std::vector<int>{1}, 0, f), std::system_error);
    auto const end = iowq_test::death_output([] {
      meter mine;
      auto const body = [](meter& all) -> task<> {
        auto const each = [&all](int n) { return n == 0 ? twice(n, all) : endless(all); };
        auto numbers = iowq::transform(std::views::iota(0), 2, each);
        (void)co_await numbers.next();
      };
      iowq::run(body(mine));
    });
    CHECK(end.says("co_await finish(stream)"));
  }
}
