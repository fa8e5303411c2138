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
#include <iowq/op/file.hpp>
#include <iowq/op/metadata.hpp>
#include <iowq/op/time.hpp>
#include <iowq/sync/channel.hpp>
#include <iowq/sync/event.hpp>
#include <iowq/sync/latch.hpp>
#include <iowq/sync/mutex.hpp>
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
  TEST_CASE("a cancelled wait leaves the queue, and the others keep their places") {
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

  TEST_CASE("a wait under a stopped token takes nothing, although a permit is free") {
    tally sum;
    std::vector<int> order;
    auto const body = [](std::vector<int>& all, tally& counts) -> task<> {
      iowq::semaphore permits{1};
      iowq::stop_source stopped;
      stopped.request_stop();
      co_await take(permits, stopped.get_token(), 1, all, counts);
      CHECK(permits.available() == 1);
      co_await take(permits, {}, 2, all, counts);
      CHECK(permits.available() == 0);
    };
    iowq::run(body(order, sum));
    CHECK(order == std::vector{2});
    CHECK(sum.cancelled == 1);
  }

  TEST_CASE("coroutines whose awaits never wait do not starve a timer") {
    iowq::mutex mutex;
    iowq::semaphore permits{1};
    iowq::event set;
    set.set();
    iowq::latch open{0};
    iowq::channel<int> values{1};
    iowq::stop_source stopped;
    stopped.request_stop();
    // Does the same again until a timer has fired; a starved timer never does.
    auto const beside_timer = [](auto step) -> task<> {
      bool fired = false;
      auto const timer = [](bool& done) -> task<> {
        co_await iowq::sleep_for(1ms);
        done = true;
      };
      iowq::executor::current().spawn(timer(fired));
      for (iowq_test::wait_limit limit;; limit.check()) {
        co_await step();
        if (fired) break;
      }
    };
    auto const lock = [&]() -> task<> { auto const held = co_await mutex.lock(); };
    auto const acquire = [&]() -> task<> { co_await permits.acquire(), permits.release(); };
    auto const wait = [&]() -> task<> { co_await set.wait(); };
    auto const pass = [&]() -> task<> { co_await open.wait(); };
    auto const send = [&]() -> task<> { co_await values.send(1), co_await values.recv(); };
    auto const cancelled = [&]() -> task<> {
      co_await iowq_test::under{stopped.get_token()};
      (void)co_await iowq::as_result(iowq::sleep_for(1h));
    };
    auto const inline_call = []() -> task<> { (void)co_await iowq::fstat(2); };
    auto const refused = []() -> task<> { (void)co_await iowq::as_result(iowq::fsync(-1)); };
    iowq::run(beside_timer(lock));
    iowq::run(beside_timer(acquire));
    iowq::run(beside_timer(wait));
    iowq::run(beside_timer(pass));
    iowq::run(beside_timer(send));
    iowq::run(beside_timer(cancelled));
    iowq::run(beside_timer(inline_call));
    iowq::run(beside_timer(refused));
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
    CHECK(text.str().find("event.wait: waiting") != std::string::npos);
    CHECK(text.str().find("waiter_test.cpp") != std::string::npos);
  }

  TEST_CASE(
      "a wait that is awaited twice, or destroyed while it waits, stops the program with its "
      "line") {
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
    CHECK(twice.says("an operation was awaited twice"));
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
    CHECK(dropped.says("a coroutine was destroyed while it waits"));
  }
}
