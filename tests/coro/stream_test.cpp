// SPDX-License-Identifier: BSL-1.0
#include <iowq/coro/stream.hpp>

#include <csignal>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <iowq/coro/task.hpp>

#include <doctest/doctest.h>

#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "small_stack.hpp"

namespace {
using iowq::stream;
using iowq::task;
using iowq_test::counted;
using iowq_test::started;
using iowq_test::suspension;

static_assert(!std::is_copy_constructible_v<stream<int>>);
static_assert(std::is_nothrow_move_constructible_v<stream<int>>);
static_assert(sizeof(stream<std::string>) == sizeof(void*));
static_assert(!std::is_convertible_v<stream<int>::item, bool>);
static_assert(std::is_same_v<decltype(*std::declval<stream<int>::item>()), int&>);

stream<int> count_to(int last) {
  for (int i = 1; i <= last; ++i) co_yield i;
}
task<int> twice(int n) { co_return 2 * n; }
stream<int> doubled(stream<int> numbers) {
  while (auto number = co_await numbers.next()) {
    const int n = co_await twice(*number);
    co_yield n;
  }
}
stream<int> after(suspension& point) {
  co_await point;
  co_yield 1;
}
iowq_test::detached take_one(stream<int>& numbers) { (void)co_await numbers.next(); }
}  // namespace

TEST_SUITE("coro/stream") {
  TEST_CASE("items come in order, then the end, and ever after the end") {
    auto body = []() -> task<> {
      auto numbers = count_to(3);
      std::vector<int> got;
      while (auto number = co_await numbers.next()) got.push_back(*number);
      CHECK(got == std::vector{1, 2, 3});
      auto more = co_await numbers.next();
      CHECK_FALSE(more);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("the producer runs only while next() is awaited") {
    int produced = 0;
    auto produce = [&]() -> stream<int> {
      for (;;) co_yield ++produced;
    };
    auto body = [&]() -> task<> {
      auto numbers = produce();
      CHECK(produced == 0);
      (void)co_await numbers.next();
      CHECK(produced == 1);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("a producer may await between items, and the consumer waits with it") {
    suspension point;
    std::vector<int> got;
    auto produce = [&]() -> stream<int> {
      for (int i = 0; i < 3; ++i) {
        co_await point;
        co_yield i;
      }
    };
    auto body = [&]() -> task<> {
      auto numbers = produce();
      while (auto number = co_await numbers.next()) got.push_back(*number);
    };
    started run{body()};
    CHECK(got.empty());
    while (point.waiting()) point.resume();
    REQUIRE(run.ended());
    CHECK(got == std::vector{0, 1, 2});
  }

  TEST_CASE("a stream may consume another one") {
    int sum = 0;
    auto body = [&]() -> task<> {
      auto numbers = doubled(doubled(count_to(10)));
      while (auto number = co_await numbers.next()) sum += *number;
    };
    started run{body()};
    REQUIRE(run.ended());
    CHECK(sum == 4 * 55);
  }

  TEST_CASE("hazard-15: a stream of a million items in 256 KiB of stack") {
    long plain = 0, piped = 0;
    iowq_test::on_small_stack([&] {
      auto body = [&]() -> task<> {
        auto numbers = count_to(1'000'000);
        while (auto number = co_await numbers.next()) plain += *number;
        auto through = doubled(count_to(100'000));
        while (auto number = co_await through.next()) piped += *number;
      };
      started run{body()};
      CHECK(run.ended());
    });
    CHECK(plain == 500'000'500'000);
    CHECK(piped == 10'000'100'000);
  }

  TEST_CASE("an exception that leaves the producer leaves that next(), and is the end") {
    auto produce = []() -> stream<int> {
      co_yield 1;
      throw std::runtime_error("dry");
    };
    auto body = [&]() -> task<> {
      auto numbers = produce();
      auto first = co_await numbers.next();
      CHECK(*first == 1);
      bool caught = false;
      try {
        (void)co_await numbers.next();
      } catch (const std::runtime_error&) {
        caught = true;
      }
      CHECK(caught);
      auto more = co_await numbers.next();
      CHECK_FALSE(more);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("an item may be moved out of, and lives until the next one is asked for") {
    counted::reset();
    auto produce = []() -> stream<std::unique_ptr<counted>> {
      for (int i = 1; i <= 3; ++i) co_yield std::make_unique<counted>(i);
    };
    auto body = [&]() -> task<> {
      auto items = produce();
      auto first = co_await items.next();
      CHECK((*first)->value == 1);
      CHECK(counted::alive() == 1);
      auto second = co_await items.next();
      CHECK(counted::alive() == 1);  // the first is gone
      const std::unique_ptr<counted> kept = std::move(*second);
      (void)co_await items.next();
      CHECK(kept->value == 2);
      CHECK(counted::alive() == 2);
    };
    started run{body()};
    REQUIRE(run.ended());
    CHECK(counted::alive() == 0);
  }

  TEST_CASE("a stream moved between two items goes on where it was") {
    auto body = []() -> task<> {
      auto numbers = count_to(2);
      (void)co_await numbers.next();
      auto moved = std::move(numbers);
      auto second = co_await moved.next();
      CHECK(second);
      CHECK(*second == 2);
      moved = count_to(1);
      auto other = co_await moved.next();
      CHECK(*other == 1);
    };
    started run{body()};
    REQUIRE(run.ended());
  }

  TEST_CASE("a stream dropped before, between or after its items destroys its frame, once") {
    auto produce = [](counted argument) -> stream<counted> {
      counted local{argument.value};
      co_yield std::move(local);
      co_yield counted{2};
    };
    for (int items = 0; items <= 3; ++items) {
      counted::reset();
      auto body = [&]() -> task<> {
        auto numbers = produce(counted{1});
        for (int i = 0; i < items; ++i) (void)co_await numbers.next();
        CHECK(counted::alive() > 0);
      };
      started run{body()};
      REQUIRE(run.ended());
      CHECK(counted::copied() == 0);
      CHECK(counted::alive() == 0);
    }
  }

  TEST_CASE("a stream destroyed while its next() waits stops the program") {
    const auto end = iowq_test::death_output([] {
      suspension point;
      auto numbers = after(point);
      take_one(numbers);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a stream was destroyed while its next() waits"));
  }

  TEST_CASE("two next() of one stream at once stop the program") {
    const auto end = iowq_test::death_output([] {
      suspension point;
      auto numbers = after(point);
      take_one(numbers);
      take_one(numbers);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("two next() of one stream at once"));
  }

  TEST_CASE("next() of a stream that was moved away stops the program") {
    const auto end = iowq_test::death_output([] {
      auto numbers = count_to(1);
      auto moved = std::move(numbers);
      take_one(numbers);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("next() of a stream that had been moved away"));
  }

  TEST_CASE("reading an item past the end stops the program") {
    const auto end = iowq_test::death_output([] {
      auto body = []() -> task<> {
        auto numbers = count_to(0);
        auto item = co_await numbers.next();
        (void)*item;
      };
      started run{body()};
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("an item was read after the end of its stream"));
  }
}
