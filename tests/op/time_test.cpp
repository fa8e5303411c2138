// SPDX-License-Identifier: BSL-1.0
// op/time and op/raw.
#include <iowq/op/time.hpp>  // first and alone

#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/run.hpp>
#include <iowq/op/raw.hpp>

#include "skip.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;
}  // namespace

TEST_SUITE("op/time") {
  TEST_CASE("a sleep ends at its time or later, and those of one time in the order they began") {
    auto const body = []() -> task<> {
      auto const began = iowq::steady_clock::now();
      co_await iowq::sleep_for(2ms);
      CHECK(iowq::steady_clock::now() - began >= 2ms);
      auto const when = iowq::steady_clock::now() + 1ms;
      co_await iowq::sleep_until(when);
      CHECK(iowq::steady_clock::now() >= when);

      std::vector<int> order;
      auto const together = iowq::steady_clock::now() + 2ms;
      auto const one = [](iowq::time_point at, std::vector<int>& all, int i) -> task<> {
        co_await iowq::sleep_until(at);
        all.push_back(i);
      };
      for (int i = 0; i < 100; ++i) iowq::executor::current().spawn(one(together, order, i));
      while (order.size() < 100) co_await iowq::sleep_for(1ms);
      for (int i = 0; i < 100; ++i) CHECK(order[static_cast<std::size_t>(i)] == i);
    };
    iowq::run(body());
  }

  TEST_CASE("hazard-91: nothing, less than nothing and for ever are durations, too") {
    int stopped = 0;
    auto const body = [](int& ended) -> task<> {
      bool other_ran = false;
      auto const other = [](bool& ran) -> task<> {
        ran = true;
        co_return;
      };
      iowq::executor::current().spawn(other(other_ran));
      co_await iowq::sleep_for(0s);
      CHECK(other_ran);  // never inline
      co_await iowq::sleep_for(-1h);
      co_await iowq::sleep_for(std::chrono::nanoseconds::min());
      co_await iowq::sleep_for(std::chrono::duration<double>(-1e300));
      co_await iowq::sleep_until(iowq::time_point::min());
      auto const forever = [](auto d, int& n) -> task<> {
        auto const r = co_await iowq::as_result(iowq::sleep_for(d));
        n += r.error() == std::errc::operation_canceled;
      };
      iowq::executor& here = iowq::executor::current();
      here.spawn(forever(std::chrono::hours::max(), ended));
      here.spawn(forever(std::chrono::nanoseconds::max(), ended));
      here.spawn(forever(std::chrono::duration<double>(1e300), ended));
      co_await iowq::sleep_for(1ms);
      CHECK(ended == 0);
      here.request_stop();
    };
    iowq::run(body(stopped));
    CHECK(stopped == 3);
  }

  TEST_CASE("of the ring: raw awaits any SQE and yields what its CQE said") {
    if (!iowq_test::rings_allowed()) SKIP_CASE("there is none");
    auto const body = []() -> task<> {
      auto const nop = co_await iowq::raw([](io_uring_sqe& s) { io_uring_prep_nop(&s); });
      CHECK(nop.res == 0);
      CHECK(nop.flags == 0);
      auto const unknown = co_await iowq::raw([](io_uring_sqe& s) { s.opcode = 250; });
      CHECK(unknown.res == -EINVAL);
      __kernel_timespec soon{0, 1000};
      auto const timeout =
          co_await iowq::raw([&](io_uring_sqe& s) { io_uring_prep_timeout(&s, &soon, 0, 0); });
      CHECK(timeout.res == -ETIME);
    };
    iowq::run(body());
  }
}
