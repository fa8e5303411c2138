// SPDX-License-Identifier: BSL-1.0
// exec/migration, and the homecoming of flow/.
#include <iowq/exec/detail/migration.hpp>  // first and alone

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/exec/runtime.hpp>
#include <iowq/flow/task_group.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/flow/when_all.hpp>
#include <iowq/flow/with_stop.hpp>
#include <iowq/op/time.hpp>

#include "bounded.hpp"
#include "death.hpp"
#include "leak_check.hpp"
#include "waiting.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::executor;
using iowq::resume_on;
using iowq::runtime;
using iowq::task;

int thread() { return iowq::detail::linux_policy::thread_id(); }

/// Goes there, and says on which thread it then was.
task<int> go(executor& there) {
  co_await resume_on(there);
  co_return thread();
}
task<> fail_there(executor& there) {
  co_await resume_on(there);
  throw std::runtime_error("there");
}
}  // namespace

TEST_SUITE("exec/resume_on") {
  TEST_CASE(
      "resume_on moves the task and its awaiters to the other executor; run() returns at home") {
    iowq_test::leak_check books;
    runtime other{{.threads = 1}};
    executor here;
    auto const body = [](executor& there, int home) -> task<int> {
      int const away = co_await go(there);
      CHECK(away != home);
      CHECK(thread() == away);
      CHECK(&executor::current() == &there);
      co_await iowq::sleep_for(100us);  // an operation of the thread that it is on
      auto const worker = co_await iowq::punt([] { return thread(); });
      CHECK(worker != away);
      CHECK(thread() == away);
      co_return away;
    };
    int const away = here.run(body(other.at(0), thread()));
    CHECK(away != thread());
  }

  TEST_CASE("resume_on the executor that one is on leaves the others their turn") {
    auto const body = []() -> task<> {
      bool other_ran = false;
      auto const other = [](bool& ran) -> task<> {
        ran = true;
        co_return;
      };
      executor::current().spawn(other(other_ran));
      co_await resume_on(executor::current());
      CHECK(other_ran);
    };
    iowq::run(body());
  }

  TEST_CASE("an exception on another executor is rethrown at home, or reaches on_unhandled there") {
    runtime other{{.threads = 1}};
    int const home = thread();
    int heard_on = 0;
    executor here{{.on_unhandled = [&](std::exception_ptr) { heard_on = thread(); }}};
    CHECK_THROWS_WITH(here.run(fail_there(other.at(0))), "there");
    here.spawn(fail_there(other.at(0)));
    auto const nothing = []() -> task<> { co_return; };
    here.run(nothing());
    CHECK(heard_on == home);
  }

  TEST_CASE("an executor does not return from run() while a guest is there") {
    // The guest outlasts all that its host has to do.
    for (int round = 0; round < 50; ++round) {
      std::atomic<executor*> host{nullptr};
      std::atomic<bool> there{false};
      bool over = false;
      std::thread second{[&] {
        executor own;
        auto const body = [](std::atomic<executor*>& known, executor& self,
                             std::atomic<bool>& arrived) -> task<> {
          known = &self;
          co_await iowq_test::until([&] { return arrived.load(); });
        };
        own.run(body(host, own, there));
        CHECK(over);
      }};
      auto const visit = [](std::atomic<executor*>& known, std::atomic<bool>& arrived,
                            bool& done) -> task<> {
        co_await iowq_test::until([&] { return known != nullptr; });
        co_await resume_on(*known);
        arrived = true;
        for (int i = 0; i < 10; ++i) co_await iowq::sleep_for(10us);
        done = true;  // no atomic: TSan would tell
      };
      iowq::run(visit(host, there, over));
      second.join();
    }
  }

  TEST_CASE("children return to their executor before they count: when_all, timeout, task_group") {
    iowq_test::leak_check books;
    runtime others{{.threads = 3}};
    auto const body = [](runtime& all) -> task<> {
      int const home = thread();
      for (int round = 0; round < 200; ++round) {
        auto const places = co_await iowq::when_all(
            go(all.at(0)), go(all.at(1)), iowq::with_stop({}, go(all.at(2))), go(all.at(0)));
        CHECK(thread() == home);
        CHECK(std::get<0>(places) == std::get<3>(places));
        CHECK(std::get<0>(places) != std::get<1>(places));
        std::vector<task<int>> many;
        for (std::size_t i = 0; i < 10; ++i) many.push_back(go(all.at(i % 3)));
        auto const all_places = co_await iowq::when_all(std::move(many));
        CHECK(all_places[0] == all_places[9]);
        CHECK(thread() == home);
        iowq::task_group group;
        auto const visit = [](executor& there) -> task<> { co_await resume_on(there); };
        for (std::size_t i = 0; i < 10; ++i) group.spawn(visit(all.at(i % 3)));
        co_await group.join();
        CHECK(thread() == home);
        auto const away = co_await iowq::timeout(go(all.at(1)), 1h);
        CHECK(away == std::get<1>(places));
        CHECK(thread() == home);
      }
    };
    iowq::run(body(others));
  }

  TEST_CASE("a first failure abroad stops those elsewhere, and is rethrown at home") {
    runtime others{{.threads = 2}};
    auto const sleep_there = [](executor& there, int& stopped) -> task<> {
      co_await resume_on(there);
      auto const end = co_await iowq::as_result(iowq::sleep_for(1h));
      stopped += end.error() == std::errc::operation_canceled;
    };
    auto const body = [&](int& stopped) -> task<> {
      int const home = thread();
      std::string what;
      try {
        co_await iowq::when_all(sleep_there(others.at(0), stopped), fail_there(others.at(1)));
      } catch (const std::exception& e) {
        what = e.what();
      }
      CHECK(what == "there");
      CHECK(thread() == home);
    };
    for (int round = 0; round < 50; ++round) {
      int stopped = 0;
      iowq::run(body(stopped));
      // It may be stopped on its way there, and then does not sleep.
      CHECK(stopped <= 1);
    }
  }

  TEST_CASE(
      "a stop is found on arrival, at the thread that it arrived at, and the token goes along") {
    runtime other{{.threads = 1}};
    auto const body = [](executor& there) -> task<> {
      int const home = thread();
      iowq::stop_source stop;
      auto const leg = [](executor& host, iowq::stop_source& source, int from) -> task<> {
        source.request_stop();
        auto const end = co_await iowq::as_result(resume_on(host));
        CHECK(end.error() == std::errc::operation_canceled);
        CHECK(thread() != from);
        auto const sleep = co_await iowq::as_result(iowq::sleep_for(1h));
        CHECK(sleep.error() == std::errc::operation_canceled);
      };
      co_await iowq::with_stop(stop.get_token(), leg(there, stop, home));
      CHECK(thread() != home);
    };
    iowq::run(body(other.at(0)));
  }

  TEST_CASE("wrong use is named: a group on two executors, and an executor that ends unvisited") {
    auto const joined = iowq_test::death_output([] {
      runtime other{{.threads = 1}};
      auto const sleeps = []() -> task<> { co_await iowq::sleep_for(1h); };
      auto const body = [&](executor& there) -> task<> {
        iowq::task_group group;
        group.spawn(sleeps());
        co_await resume_on(there);
        co_await group.join();
      };
      iowq::run(body(other.at(0)));
    });
    CHECK(joined.says("a task_group was joined on another thread than its tasks"));
    auto const unvisited = iowq_test::death_output([] {
      auto there = std::make_unique<executor>();
      std::atomic<bool> left{false};
      std::thread coroutine{[&] {
        auto const body = [](executor& host, std::atomic<bool>& gone) -> task<> {
          auto const tell = [](std::atomic<bool>& flag) -> task<> {
            flag = true;
            co_return;
          };
          executor::current().spawn(tell(gone));  // after us
          co_await resume_on(host);
        };
        iowq::run(body(*there, left));
      }};
      iowq_test::spin_until([&] { return left.load(); });
      there.reset();
      coroutine.join();
    });
    CHECK(unvisited.says("while a coroutine was on its way to it (resume_on)"));
  }
}
