// SPDX-License-Identifier: BSL-1.0
#include <iowq/flow/with_stop.hpp>  // first and alone

#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/flow/task_group.hpp>
#include <iowq/flow/when_all.hpp>
#include <iowq/op/time.hpp>

#include "manual.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

task<iowq::stop_token> token_of_it() {
  auto const token = co_await iowq::ambient_stop();
  co_return token;
}
}  // namespace

TEST_SUITE("flow/with_stop") {
  TEST_CASE("a task sees that token and no other, all the way down") {
    auto const body = []() -> task<> {
      iowq::stop_source outer, inner;
      co_await iowq_test::under{outer.get_token()};
      auto const seen = co_await iowq::with_stop(inner.get_token(), token_of_it());
      CHECK(seen == inner.get_token());
      auto const none = co_await iowq::with_stop({}, token_of_it());
      CHECK_FALSE(none.stop_possible());
      auto const innermost = co_await iowq::with_stop(
          outer.get_token(), iowq::with_stop(inner.get_token(), token_of_it()));
      CHECK(innermost == inner.get_token());
      auto const own = co_await token_of_it();
      CHECK(own == outer.get_token());
    };
    iowq::run(body());
  }

  TEST_CASE("its stop ends an operation, and the stop outside does not") {
    auto const body = []() -> task<> {
      iowq::stop_source outer, inner;
      co_await iowq_test::under{outer.get_token()};
      outer.request_stop();
      co_await iowq::with_stop({}, iowq::sleep_for(1us));
      inner.request_stop();
      auto const end =
          co_await iowq::as_result(iowq::with_stop(inner.get_token(), iowq::sleep_for(1h)));
      CHECK(end.error() == std::errc::operation_canceled);
    };
    iowq::run(body());
  }

  TEST_CASE("what it yields and what it throws passes through") {
    auto const body = []() -> task<> {
      auto const give = []() -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(3); };
      auto const fail = []() -> task<int&> {
        co_await iowq::yield();
        throw std::runtime_error("through");
      };
      auto const three = co_await iowq::with_stop({}, give());
      CHECK(*three == 3);
      std::string said;
      try {
        co_await iowq::with_stop({}, fail());
      } catch (const std::runtime_error& error) {
        said = error.what();
      }
      CHECK(said == "through");
    };
    iowq::run(body());
  }

  TEST_CASE("after the executor's stop what is shielded goes on, until a second request") {
    iowq::executor here;
    std::vector<int> log;
    auto const body = [&]() -> task<> {
      auto const stop = []() -> task<> {
        co_await iowq::yield();
        iowq::executor::current().request_stop();
      };
      iowq::task_group group;
      group.spawn(stop());
      auto const first = co_await iowq::as_result(iowq::sleep_for(1h));
      if (first.error() == std::errc::operation_canceled) log.push_back(1);
      co_await group.join();
      co_await iowq::with_stop({}, iowq::sleep_for(1us));
      log.push_back(2);
      auto forever = iowq::with_stop({}, iowq::when_all(iowq::sleep_for(1h), stop()));
      co_await std::move(forever);
      log.push_back(3);
    };
    here.run(body());  // it was stopped: so its end by a cancellation is no failure
    CHECK(log == std::vector{1, 2});
  }

  TEST_CASE("the stop of the executor reaches what is under an empty token") {
    bool cancelled = false;
    auto const body = [](bool& flag) -> task<> {
      auto const stop = []() -> task<> {
        iowq::executor::current().request_stop();
        co_return;
      };
      iowq::executor::current().spawn(stop());
      auto const end = co_await iowq::as_result(iowq::with_stop({}, iowq::sleep_for(1h)));
      flag = end.error() == std::errc::operation_canceled;
    };
    iowq::run(body(cancelled));
    CHECK(cancelled);
  }
}
