// SPDX-License-Identifier: BSL-1.0
#include <iowq/sync/mutex.hpp>  // first and alone

#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>

#include "death.hpp"
#include "manual.hpp"

namespace {
using iowq::task;

struct shared {
  iowq::mutex m;
  int inside = 0, peak = 0;
  std::vector<int> order;
};

task<> enter(shared& s, int number) {
  auto lock = co_await s.m.lock();
  s.peak = std::max(s.peak, ++s.inside);
  co_await iowq::yield();
  co_await iowq::yield();
  --s.inside;
  s.order.push_back(number);
}
}  // namespace

TEST_SUITE("sync/mutex") {
  TEST_CASE("one at a time, first come, first served, across awaits") {
    shared s;
    auto const body = [](shared& all) -> task<> {
      for (int n = 0; n < 10; ++n) iowq::executor::current().spawn(enter(all, n));
      co_return;
    };
    iowq::run(body(s));
    CHECK(s.peak == 1);
    CHECK(s.order == std::vector{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    CHECK_FALSE(s.m.is_locked());
  }

  TEST_CASE("it is handed on without being free in between: nobody overtakes") {
    shared s;
    auto const body = [](shared& all) -> task<> {
      auto lock = co_await all.m.lock();
      iowq::executor::current().spawn(enter(all, 1));
      co_await iowq::yield();
      lock.unlock();
      CHECK(all.m.is_locked());
      CHECK_FALSE(all.m.try_lock());
      co_await enter(all, 2);
    };
    iowq::run(body(s));
    CHECK(s.order == std::vector{1, 2});
  }

  TEST_CASE("a guard moves, unlocks early, and holds the mutex as long as it lives") {
    iowq::mutex m;
    {
      auto first = m.try_lock();
      CHECK(first);
      CHECK_FALSE(m.try_lock());
      auto second = std::move(first);
      CHECK_FALSE(first);
      CHECK(m.is_locked());
      second.unlock();
      CHECK_FALSE(m.is_locked());
      second = m.try_lock();
      iowq::mutex::guard empty;
      second = std::move(empty);
      CHECK_FALSE(m.is_locked());
      second = m.try_lock();
    }
    CHECK_FALSE(m.is_locked());
  }

  TEST_CASE("who is cancelled in line does not get it, nor stands in the way of the next") {
    shared s;
    auto const body = [](shared& all) -> task<> {
      iowq::stop_source stop;
      auto const try_it = [](shared& mine, iowq::stop_token token, bool& cancelled) -> task<> {
        co_await iowq_test::under{token};
        auto const lock = co_await iowq::as_result(mine.m.lock());
        cancelled = lock.error() == std::errc::operation_canceled;
      };
      bool cancelled = false;
      {
        auto lock = co_await all.m.lock();
        iowq::executor::current().spawn(try_it(all, stop.get_token(), cancelled));
        iowq::executor::current().spawn(enter(all, 1));
        co_await iowq::yield();
        stop.request_stop();
        co_await iowq::yield();
        CHECK(cancelled);
      }
      co_await enter(all, 2);
    };
    iowq::run(body(s));
    CHECK(s.order == std::vector{1, 2});
  }

  TEST_CASE("a mutex that dies locked, and a guard that unlocks twice, are named") {
    auto const locked = iowq_test::death_output([] {
      alignas(iowq::mutex) std::byte memory[sizeof(iowq::mutex)];
      auto* const m = new (memory) iowq::mutex;
      auto const lock = m->try_lock();
      m->~mutex();
    });
    CHECK(locked.says("a mutex was destroyed while it is locked"));
    auto const twice = iowq_test::death_output([] {
      iowq::mutex m;
      auto lock = m.try_lock();
      lock.unlock();
      lock.unlock();
    });
    CHECK(twice.says("a mutex was unlocked by a guard that does not hold it"));
  }
}
