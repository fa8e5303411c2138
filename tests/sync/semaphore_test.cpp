// SPDX-License-Identifier: BSL-1.0
#include <iowq/sync/semaphore.hpp>  // first and alone

#include <algorithm>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>

#include "death.hpp"

namespace {
using iowq::task;

struct shared {
  iowq::semaphore permits{3};
  int inside = 0, peak = 0;
  std::vector<int> order;
};

task<> enter(shared& s, int number) {
  co_await s.permits.acquire();
  s.peak = std::max(s.peak, ++s.inside);
  s.order.push_back(number);
  co_await iowq::yield();
  --s.inside;
  s.permits.release();
}
}  // namespace

TEST_SUITE("sync/semaphore") {
  TEST_CASE("at most so many are inside, and they enter in the order in which they came") {
    shared s;
    auto const body = [](shared& all) -> task<> {
      for (int n = 0; n < 8; ++n) iowq::executor::current().spawn(enter(all, n));
      co_return;
    };
    iowq::run(body(s));
    CHECK(s.peak == 3);
    CHECK(s.order == std::vector{0, 1, 2, 3, 4, 5, 6, 7});
    CHECK(s.permits.available() == 3);
  }

  TEST_CASE("a permit goes to who waits, and try_acquire() does not overtake") {
    std::vector<int> order;
    auto const body = [](std::vector<int>& all) -> task<> {
      iowq::semaphore permits{0};
      auto const wait = [](iowq::semaphore& s, std::vector<int>& mine) -> task<> {
        co_await s.acquire();
        mine.push_back(1);
      };
      iowq::executor::current().spawn(wait(permits, all));
      co_await iowq::yield();
      permits.release();
      CHECK_FALSE(permits.try_acquire());
      permits.release(2);
      CHECK(permits.available() == 2);
      CHECK(permits.try_acquire());
    };
    iowq::run(body(order));
    CHECK(order.size() == 1);
  }

  TEST_CASE("a semaphore that dies while it is waited for is named") {
    auto const end = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        iowq::semaphore permits{0};
        auto const wait = [](iowq::semaphore& s) -> task<> { co_await s.acquire(); };
        iowq::executor::current().spawn(wait(permits));
        co_await iowq::yield();
      };
      iowq::run(body());
    });
    CHECK(end.says("a semaphore was destroyed while coroutines wait for it"));
  }
}
