// SPDX-License-Identifier: BSL-1.0
#include <iowq/flow/timeout.hpp>  // first and alone

#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/flow/when_all.hpp>
#include <iowq/op/file.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

task<> endless(int& cancelled) {
  auto const end = co_await iowq::as_result(iowq::sleep_for(1h));
  cancelled += end.error() == std::errc::operation_canceled;
  end.value();
}
task<std::unique_ptr<int>> seven() {
  co_await iowq::yield();
  co_return std::make_unique<int>(7);
}
}  // namespace

TEST_SUITE("flow/timeout") {
  TEST_CASE("what ends in time yields its value, and no timer is left") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      auto const value = co_await iowq::timeout(seven(), 1h);
      CHECK(*value == 7);
      co_await iowq::timeout(iowq::sleep_for(1us), 1h);
      iowq_test::pipe_pair pipe;
      std::array<char, 2> const out{'o', 'k'};
      auto const sent = co_await iowq::timeout(iowq::write(pipe.out, out), 1h);
      CHECK(sent == 2);
    };
    iowq::run(body());
  }

  TEST_CASE("what does not is stopped, awaited, and fails with timed_out") {
    iowq_test::leak_check books;
    int cancelled = 0;
    auto const body = [](int& count) -> task<> {
      auto const end = co_await iowq::as_result(iowq::timeout(endless(count), 1ms));
      CHECK(end.error() == std::errc::timed_out);
      CHECK(count == 1);
      iowq_test::pipe_pair pipe;
      char byte;
      auto const read = co_await iowq::as_result(
          iowq::timeout(iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}), 1ms));
      CHECK(read.error() == std::errc::timed_out);
      auto const sleep = co_await iowq::as_result(iowq::timeout(iowq::sleep_for(1h), 0s));
      CHECK(sleep.error() == std::errc::timed_out);
      std::string said;
      try {
        co_await iowq::timeout(iowq::sleep_for(1h), 1us);
      } catch (const std::system_error& error) {
        said = error.what();
      }
      CHECK(said.find("timeout: ") == 0);
    };
    iowq::run(body(cancelled));
  }

  TEST_CASE("what succeeds although its time is up has succeeded") {
    auto const body = []() -> task<> {
      auto const stubborn = []() -> task<int> {
        auto sleep = iowq::as_result(iowq::sleep_for(1h));
        auto const end = co_await sleep;
        CHECK(end.error() == std::errc::operation_canceled);
        co_return 5;
      };
      auto const n = co_await iowq::timeout(stubborn(), 1us);
      CHECK(n == 5);
    };
    iowq::run(body());
  }

  TEST_CASE("another failure than the stop is rethrown as it is, late or in time") {
    auto const body = []() -> task<> {
      auto const fail = [](bool late) -> task<> {
        if (late) {
          auto sleep = iowq::as_result(iowq::sleep_for(1h));
          (void)co_await sleep;
        }
        throw std::runtime_error("its own");
      };
      for (bool const late : {false, true}) {
        std::string said;
        try {
          co_await iowq::timeout(fail(late), late ? 1us : 1s);
        } catch (const std::runtime_error& error) {
          said = error.what();
        }
        CHECK(said == "its own");
      }
    };
    iowq::run(body());
  }

  TEST_CASE("a stop from outside is operation_canceled, not timed_out") {
    auto const body = []() -> task<> {
      iowq::stop_source source;
      co_await iowq_test::under{source.get_token()};
      auto const stop = [](iowq::stop_source& s) -> task<> {
        s.request_stop();
        co_return;
      };
      iowq::executor::current().spawn(stop(source));
      auto const end = co_await iowq::as_result(iowq::timeout(iowq::sleep_for(1h), 2h));
      CHECK(end.error() == std::errc::operation_canceled);
    };
    iowq::run(body());
  }

  TEST_CASE("a call in the pool sees the stop if it runs when its time is up, else never runs") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      for (auto const limit : {0ms, 1ms, 20ms}) {
        bool ran = false;
        auto const runs = [&ran](const iowq::stop_token& token) {
          ran = true;
          while (!token.stop_requested()) iowq::detail::linux_policy::relax();
          return 3;
        };
        auto const end = co_await iowq::as_result(iowq::timeout(iowq::punt(runs), limit));
        CHECK(end.has_value() == ran);
        CHECK((ran || end.error() == std::errc::timed_out));
      }
    };
    iowq::run(body());
  }

  TEST_CASE("it nests: the inner limit and the outer one are told apart") {
    auto const body = []() -> task<> {
      auto const inner =
          co_await iowq::as_result(iowq::timeout(iowq::timeout(iowq::sleep_for(1h), 1us), 1h));
      CHECK(inner.error() == std::errc::timed_out);
      auto both = co_await iowq::when_all(iowq::timeout(seven(), 1h), iowq::timeout(seven(), 1h));
      CHECK(*std::get<0>(both) == 7);
    };
    iowq::run(body());
  }
}
