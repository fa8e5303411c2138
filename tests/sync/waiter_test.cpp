// SPDX-License-Identifier: BSL-1.0
// What is the same for all who wait in line, shown on an event and a semaphore.
#include <iowq/sync/detail/waiter.hpp>  // first and alone

#include <atomic>
#include <sstream>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/time.hpp>
#include <iowq/sync/event.hpp>
#include <iowq/sync/semaphore.hpp>

#include "allocations.hpp"
#include "bounded.hpp"
#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

struct tally {
  int done = 0, cancelled = 0, other = 0;
  void count(std::error_code error) {
    ++(!error ? done : error == std::errc::operation_canceled ? cancelled : other);
  }
};

task<> take(iowq::semaphore& permits, iowq::stop_token token, int number, std::vector<int>& order,
            tally& sum) {
  co_await iowq_test::under{token};
  auto const end = co_await iowq::as_result(permits.acquire());
  sum.count(end.error());
  if (end) order.push_back(number);
}

/// As many turns as all that was woken needs.
task<> settle() {
  for (int i = 0; i < 3; ++i) co_await iowq::yield();
}
}  // namespace

TEST_SUITE("sync/waiter") {
  TEST_CASE("who is cancelled leaves the line, and the others keep their places") {
    std::vector<int> order;
    tally sum;
    auto const body = [](std::vector<int>& all, tally& counts) -> task<> {
      iowq::semaphore permits{0};
      iowq::stop_source second, fourth;
      auto& here = iowq::executor::current();
      here.spawn(take(permits, {}, 1, all, counts));
      here.spawn(take(permits, second.get_token(), 2, all, counts));
      here.spawn(take(permits, {}, 3, all, counts));
      here.spawn(take(permits, fourth.get_token(), 4, all, counts));
      here.spawn(take(permits, {}, 5, all, counts));
      co_await iowq::yield();
      second.request_stop();
      fourth.request_stop();
      fourth.request_stop();
      permits.release(3);
      co_await settle();
    };
    iowq::run(body(order, sum));
    CHECK(order == std::vector{1, 3, 5});
    CHECK(sum.done == 3);
    CHECK(sum.cancelled == 2);
  }

  TEST_CASE("what was granted stays granted, whatever stop comes after") {
    tally sum;
    std::vector<int> order;
    auto const body = [](std::vector<int>& all, tally& counts) -> task<> {
      iowq::semaphore permits{0};
      iowq::stop_source late;
      iowq::executor::current().spawn(take(permits, late.get_token(), 1, all, counts));
      co_await iowq::yield();
      permits.release();
      late.request_stop();
      co_await settle();
      CHECK(permits.available() == 0);
    };
    iowq::run(body(order, sum));
    CHECK(sum.done == 1);
  }

  TEST_CASE("a wait under a stopped token does not begin, but takes what is free") {
    tally sum;
    std::vector<int> order;
    auto const body = [](std::vector<int>& all, tally& counts) -> task<> {
      iowq::semaphore permits{1};
      iowq::stop_source stopped;
      stopped.request_stop();
      co_await take(permits, stopped.get_token(), 1, all, counts);
      co_await take(permits, stopped.get_token(), 2, all, counts);
      permits.release();
      CHECK(permits.available() == 1);
    };
    iowq::run(body(order, sum));
    CHECK(order == std::vector{1});
    CHECK(sum.cancelled == 1);
  }

  TEST_CASE("hazard-5: a stop on another thread that races with the grant: one outcome") {
    iowq_test::leak_check books;
    constexpr int rounds = 500;
    tally sum;
    std::vector<int> order;
    auto const body = [](std::vector<int>& all, tally& counts) -> task<> {
      iowq::semaphore permits{0};
      for (int i = 0; i < rounds; ++i) {
        iowq::stop_source source;
        std::atomic<bool> go{false};
        std::thread stopper{[&] {
          while (!go.load(std::memory_order_acquire)) {
          }
          source.request_stop();
        }};
        iowq::executor::current().spawn(take(permits, source.get_token(), i, all, counts));
        co_await iowq::yield();
        go.store(true, std::memory_order_release);
        for (int spin = 0; spin < i % 64 * 20; ++spin) iowq::detail::linux_policy::relax();
        permits.release();
        co_await iowq_test::until([&] { return counts.done + counts.cancelled > i; });
        // A permit that was not taken is still there.
        if (permits.available() == 1) CHECK(permits.try_acquire());
        stopper.join();
      }
      CHECK(permits.available() == 0);
    };
    iowq::run(body(order, sum));
    CHECK(sum.done + sum.cancelled == rounds);
    CHECK(sum.other == 0);
  }

  TEST_CASE("the stop of the executor reaches those in line, whatever their token") {
    tally sum;
    std::vector<int> order;
    iowq::semaphore permits{0};
    auto const body = [](iowq::semaphore& s, std::vector<int>& all, tally& counts) -> task<> {
      iowq::stop_source other;
      iowq::executor::current().spawn(take(s, other.get_token(), 1, all, counts));
      iowq::executor::current().spawn(take(s, {}, 2, all, counts));
      co_await iowq::yield();
      iowq::executor::current().request_stop();
      for (iowq_test::wait_limit limit; counts.cancelled != 2; limit.check()) {
        auto turn = iowq::as_result(iowq::yield());
        (void)co_await turn;
      }
    };
    iowq::run(body(permits, order, sum));
    CHECK(sum.cancelled == 2);
  }

  TEST_CASE("waiting takes no memory from the heap") {
    if (!iowq_test::allocations::counted) return;
    auto const body = []() -> task<> {
      iowq::semaphore permits{0};
      auto const round = [](iowq::semaphore& s) -> task<> { co_await s.acquire(); };
      for (int i = 0; i < 2; ++i) {
        // The first round makes the frames that the second one finds.
        auto const before = iowq_test::allocations::now();
        for (int n = 0; n < 100; ++n) iowq::executor::current().spawn(round(permits));
        co_await settle();
        permits.release(100);
        co_await settle();
        if (i == 1) CHECK((iowq_test::allocations::now() - before).made == 0);
      }
    };
    iowq::run(body());
  }

  TEST_CASE("dump() shows who waits, and where in the source") {
    std::ostringstream text;
    auto const body = [](std::ostringstream& out) -> task<> {
      iowq::event never;
      auto const wait = [](iowq::event& e) -> task<> {
        auto end = iowq::as_result(e.wait());
        (void)co_await end;
      };
      iowq::executor::current().spawn(wait(never));
      co_await iowq::yield();
      iowq::executor::current().dump(out);
      never.set();
      co_await settle();
    };
    iowq::run(body(text));
    CHECK(text.str().find("event.wait: in line") != std::string::npos);
    CHECK(text.str().find("waiter_test.cpp") != std::string::npos);
  }

  TEST_CASE("a wait that is awaited twice, or destroyed while it waits, is named") {
    auto const twice = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        iowq::event e;
        e.set();
        auto wait = e.wait();
        co_await wait;
        co_await wait;
      };
      iowq::run(body());
    });
    CHECK(twice.says("a wait was awaited twice"));
    auto const dropped = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        iowq::event e;
        {
          auto wait = e.wait();
          CHECK_FALSE(wait.await_ready());
          CHECK(wait.await_suspend(std::noop_coroutine()));
        }
        co_return;
      };
      iowq::run(body());
    });
    CHECK(dropped.says("a coroutine was destroyed while it waits in line"));
  }
}
