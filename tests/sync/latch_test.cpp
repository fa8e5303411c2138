// SPDX-License-Identifier: BSL-1.0
#include <iowq/sync/latch.hpp>  // first and alone

#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>

#include "death.hpp"

namespace {
using iowq::task;
}

TEST_SUITE("sync/latch") {
  TEST_CASE("all go on when the last one has arrived, in the order of their waits") {
    std::vector<int> order;
    auto const body = [](std::vector<int>& all) -> task<> {
      iowq::latch everyone{4};
      auto const arrive = [](iowq::latch& l, int n, std::vector<int>& mine) -> task<> {
        co_await l.arrive_and_wait();
        mine.push_back(n);
      };
      for (int n = 0; n < 3; ++n) iowq::executor::current().spawn(arrive(everyone, n, all));
      co_await iowq::yield();
      co_await iowq::yield();
      CHECK(all.empty());
      CHECK_FALSE(everyone.try_wait());
      everyone.count_down();
      CHECK(everyone.try_wait());
      co_await everyone.wait();  // does not wait
      co_await iowq::yield();
    };
    iowq::run(body(order));
    CHECK(order == std::vector{0, 1, 2});
  }

  TEST_CASE("wait() of a latch of 0 does not suspend") {
    auto const body = []() -> task<> {
      iowq::latch none{0};
      CHECK(none.try_wait());
      std::vector<int> order;
      auto const waiter = [](iowq::latch& l, std::vector<int>& all) -> task<> {
        co_await l.wait();
        all.push_back(1);
      };
      auto const other = [](std::vector<int>& all) -> task<> {
        all.push_back(2);
        co_return;
      };
      iowq::executor::current().spawn(waiter(none, order));
      iowq::executor::current().spawn(other(order));
      co_await iowq::yield();
      CHECK(order == std::vector{1, 2});
    };
    iowq::run(body());
  }

  TEST_CASE("a latch that is counted below 0, or dies while it is waited for, is named") {
    auto const below = iowq_test::death_output([] {
      iowq::latch one{1};
      one.count_down(2);
    });
    CHECK(below.says("a latch was counted down below 0"));
    auto const dying = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        iowq::latch one{1};
        auto const wait = [](iowq::latch& l) -> task<> { co_await l.wait(); };
        iowq::executor::current().spawn(wait(one));
        co_await iowq::yield();
      };
      iowq::run(body());
    });
    CHECK(dying.says("a latch was destroyed while coroutines wait for it"));
  }
}
