// SPDX-License-Identifier: BSL-1.0
// op/time and op/raw.
#include <iowq/op/time.hpp>  // first and alone

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/op/raw.hpp>

#include "death.hpp"
#include "skip.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;
}  // namespace

TEST_SUITE("op/time") {
  TEST_CASE("a sleep ends at its time or later, and those of one time in the order they began") {
    auto const body = []() -> task<> {
      auto const began = iowq::detail::steady_clock::now();
      co_await iowq::sleep_for(2ms);
      CHECK(iowq::detail::steady_clock::now() - began >= 2ms);
      auto const when = iowq::detail::steady_clock::now() + 1ms;
      co_await iowq::sleep_until(when);
      CHECK(iowq::detail::steady_clock::now() >= when);

      std::vector<int> order;
      auto const together = iowq::detail::steady_clock::now() + 2ms;
      auto const one = [](iowq::detail::time_point at, std::vector<int>& all, int i) -> task<> {
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
      co_await iowq::sleep_until(iowq::detail::time_point::min());
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

  TEST_CASE("hazard-92: a time of day is waited for by the clock of the day, as it may be set") {
    // The clock is not set here: what follows it is the kernel, if it is given that clock and an
    // absolute time, as it is looked up by /proc where there is a timerfd, and in the SQE.
    using std::chrono::system_clock;
    auto const in_an_hour = system_clock::now() + 1h;
    io_uring_sqe sqe{};
    iowq::detail::day_sleep_call timeout{iowq::detail::time_of_day(in_an_hour)};
    timeout.prepare(sqe);
    CHECK(sqe.timeout_flags == (IORING_TIMEOUT_ABS | IORING_TIMEOUT_REALTIME));
    CHECK(timeout.try_nonblocking() == -EAGAIN);
    std::ifstream info{"/proc/self/fdinfo/" + std::to_string(timeout.clock.get())};
    std::string const text{std::istreambuf_iterator<char>{info}, {}};
    CHECK(text.find("clockid: 0\n") != text.npos);         // CLOCK_REALTIME
    CHECK(text.find("settime flags: 01\n") != text.npos);  // TFD_TIMER_ABSTIME
    CHECK(text.find("it_value: (35") != text.npos);

    for (auto const go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](iowq_test::way how) -> task<> {
        auto const soon = system_clock::now() + 2ms;
        co_await as(how, iowq::sleep_until(soon));
        CHECK(system_clock::now() >= soon);
        bool other_ran = false;
        auto const other = [](bool& ran) -> task<> {
          ran = true;
          co_return;
        };
        iowq::executor::current().spawn(other(other_ran));
        co_await as(how, iowq::sleep_until(system_clock::now() - 1h));
        CHECK(other_ran);  // never inline
        co_await as(how, iowq::sleep_until(system_clock::time_point::min()));
        co_await as(how, iowq::sleep_until(system_clock::time_point{}));
        for (auto const never : {system_clock::time_point::max(), system_clock::now() + 1h}) {
          auto wait = iowq::timeout(as(how, iowq::sleep_until(never)), 1ms);
          auto const end = co_await iowq::as_result(std::move(wait));
          CHECK(end.error() == std::errc::timed_out);
        }
        using hours = std::chrono::time_point<system_clock, std::chrono::hours>;
        auto wait = iowq::timeout(as(how, iowq::sleep_until(hours::max())), 1ms);
        auto const end = co_await iowq::as_result(std::move(wait));
        CHECK(end.error() == std::errc::timed_out);
        iowq::executor::current().request_stop();
        co_await as(how, iowq::sleep_until(system_clock::now() + 1h));
        FAIL_CHECK("slept through a stop");
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-92: in another time namespace deadlines are that one's") {
    if (::geteuid() != 0) SKIP_CASE("only root may make a time namespace");
    auto const end = iowq_test::death_output([] {
      if (::unshare(CLONE_NEWTIME) != 0) ::_exit(77);
      int const offsets = ::open("/proc/self/timens_offsets", O_WRONLY);
      std::string_view const days = "monotonic 864000 0";
      if (::write(offsets, days.data(), days.size()) < 0) ::_exit(77);
      auto const before = iowq::detail::steady_clock::now();
      int const child = ::fork();  // children are in it
      if (child == 0) {
        auto const body = [](iowq::detail::time_point outside) -> task<int> {
          auto const now = iowq::detail::steady_clock::now();
          if (now - outside < 200h) co_return 1;
          co_await iowq::sleep_for(2ms);
          auto const then = now + 4ms;
          co_await iowq::sleep_until(then);
          if (iowq::detail::steady_clock::now() < then) co_return 2;
          auto late = iowq::timeout(iowq::sleep_for(1h), 2ms);
          auto const over = co_await iowq::as_result(std::move(late));
          co_return over.error() == std::errc::timed_out ? 0 : 3;
        };
        ::_exit(iowq::run(body(before)));
      }
      int status = 0;
      ::waitpid(child, &status, 0);
      ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 4);
    });
    if (end.exit_code == 77) SKIP_CASE("no time namespaces here");
    CHECK(end.exit_code == 0);
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
