// SPDX-License-Identifier: BSL-1.0
#include <iowq/sync/event.hpp>  // first and alone

#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>

#include "death.hpp"

namespace {
using iowq::task;

task<> wait_for(iowq::event& e, int number, std::vector<int>& order) {
  co_await e.wait();
  order.push_back(number);
}
}  // namespace

TEST_SUITE("sync/event") {
  TEST_CASE("set() wakes all who wait, in order, at the next turn; who comes later walks through") {
    std::vector<int> order;
    auto const body = [](std::vector<int>& all) -> task<> {
      iowq::event e;
      CHECK_FALSE(e.is_set());
      for (int n = 1; n <= 3; ++n) iowq::executor::current().spawn(wait_for(e, n, all));
      co_await iowq::yield();
      e.set();
      CHECK(all.empty());
      co_await wait_for(e, 0, all);
      CHECK(e.is_set());
      co_await iowq::yield();
    };
    iowq::run(body(order));
    CHECK(order == std::vector{0, 1, 2, 3});
  }

  TEST_CASE("reset() makes later ones wait, and takes nothing from those that were woken") {
    std::vector<int> order;
    auto const body = [](std::vector<int>& all) -> task<> {
      iowq::event e;
      iowq::executor::current().spawn(wait_for(e, 1, all));
      co_await iowq::yield();
      e.set();
      e.reset();
      iowq::executor::current().spawn(wait_for(e, 2, all));
      co_await iowq::yield();
      co_await iowq::yield();
      CHECK(all == std::vector{1});
      e.set();
    };
    iowq::run(body(order));
    CHECK(order == std::vector{1, 2});
  }

  TEST_CASE("an event that dies while it is waited for, or is set by a stranger, is named") {
    auto const dying = iowq_test::death_output([] {
      std::vector<int> order;
      auto const body = [](std::vector<int>& all) -> task<> {
        iowq::event e;
        iowq::executor::current().spawn(wait_for(e, 1, all));
        co_await iowq::yield();
      };
      iowq::run(body(order));
    });
    CHECK(dying.says("an event was destroyed while coroutines wait for it"));
    auto const stranger = iowq_test::death_output([] {
      std::vector<int> order;
      auto const body = [](std::vector<int>& all) -> task<> {
        iowq::event e;
        iowq::executor::current().spawn(wait_for(e, 1, all));
        co_await iowq::yield();
        std::thread other{[&e] { e.set(); }};
        other.join();
      };
      iowq::run(body(order));
    });
    CHECK(stranger.says("between executors there is channel"));
  }
}
