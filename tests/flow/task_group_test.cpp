// SPDX-License-Identifier: BSL-1.0
#include <iowq/flow/task_group.hpp>  // first and alone

#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/flow/with_stop.hpp>
#include <iowq/op/time.hpp>

#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;
using iowq::task_group;

struct record {
  std::vector<int> order;
  int cancelled = 0;
};
task<> note(int n, int turns, record& all) {
  for (int i = 0; i < turns; ++i) co_await iowq::yield();
  all.order.push_back(n);
}
task<> endless(record& all) {
  auto const end = co_await iowq::as_result(iowq::sleep_for(1h));
  all.cancelled += end.error() == std::errc::operation_canceled;
  end.value();
}
task<> fail(const char* why, int turns) {
  for (int i = 0; i < turns; ++i) co_await iowq::yield();
  throw std::runtime_error(why);
}
task<std::string> message_of(task<> work) {
  std::string said;
  try {
    co_await work;
  } catch (const std::exception& error) {
    said = error.what();
  }
  co_return said;
}
task<> joined(task_group& group) { co_await group.join(); }
}  // namespace

TEST_SUITE("flow/task_group") {
  TEST_CASE("tasks start in order at the next turn, run beside their parent, and are joined") {
    iowq_test::leak_check books;
    record all;
    auto const body = [](record& r) -> task<> {
      task_group group;
      co_await group.join();  // of none: does not wait
      for (int n = 0; n < 5; ++n) group.spawn(note(n, 0, r));
      group.spawn(note(9, 9, r));
      CHECK(r.order.empty());
      CHECK(group.size() == 6);
      co_await iowq::yield();
      CHECK(r.order == std::vector{0, 1, 2, 3, 4});
      co_await group.join();
      CHECK(r.order.size() == 6);
      CHECK(group.size() == 0);
      group.spawn(note(10, 1, r));  // it may be used again
      co_await group.join();
      CHECK(r.order.size() == 7);
    };
    iowq::run(body(all));
  }

  TEST_CASE("a task of the group may spawn into it, also while it is joined") {
    record all;
    struct chain {
      static task<> link(task_group& group, int left, record& r) {
        co_await iowq::yield();
        r.order.push_back(left);
        if (left > 0) group.spawn(link(group, left - 1, r));
      }
    };
    auto const body = [](record& r) -> task<> {
      task_group group;
      group.spawn(chain::link(group, 100, r));
      co_await group.join();
      CHECK(r.order.size() == 101);
    };
    iowq::run(body(all));
  }

  TEST_CASE("the first failure stops the others and is rethrown when they have ended") {
    iowq_test::leak_check books;
    record all;
    auto const body = [](record& r) -> task<> {
      task_group group;
      for (int n = 0; n < 10; ++n) group.spawn(endless(r));
      group.spawn(fail("second", 5));
      group.spawn(fail("first", 2));
      auto const said = co_await message_of(joined(group));
      CHECK(said == "first");
      CHECK(r.cancelled == 10);
      CHECK(group.stop_requested());
    };
    iowq::run(body(all));
  }

  TEST_CASE("tasks that were stopped by request_stop() are no failure, on whatever thread") {
    record all;
    auto const body = [](record& r) -> task<> {
      task_group group;
      for (int n = 0; n < 10; ++n) group.spawn(endless(r));
      co_await iowq::yield();
      std::thread other{[&group] { group.request_stop(); }};
      co_await group.join();
      other.join();
      CHECK(r.cancelled == 10);
      group.spawn(endless(r));  // starts under the stop
      co_await group.join();
      CHECK(r.cancelled == 11);
      group.spawn(fail("still one", 0));
      auto const said = co_await message_of(joined(group));
      CHECK(said == "still one");
    };
    iowq::run(body(all));
  }

  TEST_CASE("it stops with whoever joins it, with the token it was given, and with the executor") {
    record all;
    auto const body = [](record& r) -> task<> {
      {
        task_group group;
        group.spawn(endless(r));
        iowq::stop_source stopped;
        stopped.request_stop();
        auto const end =
            co_await iowq::as_result(iowq::with_stop(stopped.get_token(), joined(group)));
        CHECK(end.error() == std::errc::operation_canceled);
        CHECK(r.cancelled == 1);
      }
      {
        iowq::stop_source outer;
        task_group group{outer.get_token()};
        group.spawn(endless(r));
        co_await iowq::yield();
        outer.request_stop();
        co_await iowq_test::until([&] { return group.size() == 0; });
        CHECK(r.cancelled == 2);
        auto const end = co_await iowq::as_result(joined(group));
        CHECK(end.error() == std::errc::operation_canceled);
      }
      {
        task_group group;
        group.spawn(endless(r));
        auto const end = co_await iowq::as_result(iowq::timeout(group.join(), 1ms));
        CHECK(end.error() == std::errc::timed_out);
        CHECK(r.cancelled == 3);
      }
      task_group group;
      group.spawn(endless(r));
      iowq::executor::current().request_stop();
      co_await group.join();
    };
    iowq::run(body(all));
    CHECK(all.cancelled == 4);
  }

  TEST_CASE("a task is destroyed at its end, with what it owns, before join() returns") {
    iowq_test::counted::reset();
    auto const keep = [](iowq_test::counted) -> task<> { co_await iowq::yield(); };
    auto const body = [](auto f) -> task<> {
      task_group group;
      for (int n = 0; n < 5; ++n) {
        iowq_test::counted one{n};
        group.spawn(f(std::move(one)));
      }
      CHECK(iowq_test::counted::alive() == 5);
      co_await group.join();
      CHECK(iowq_test::counted::alive() == 0);
    };
    iowq::run(body(keep));
  }

  TEST_CASE("a hundred thousand at once") {
    record all;
    auto const body = [](record& r) -> task<> {
      task_group group;
      for (int n = 0; n < 100'000; ++n) group.spawn(note(n, 1, r));
      co_await group.join();
    };
    iowq::run(body(all));
    CHECK(all.order.size() == 100'000);
    CHECK(all.order.back() == 99'999);
  }

  TEST_CASE("a group that is not joined, joined twice at once, or given nothing, is named") {
    auto const unjoined = iowq_test::death_output([] {
      record all;
      auto const body = [](record& r) -> task<> {
        task_group group;
        group.spawn(endless(r));
        co_await iowq::yield();
      };
      iowq::run(body(all));
    });
    CHECK(unjoined.says("a task_group was destroyed while tasks of it run"));
    auto const twice = iowq_test::death_output([] {
      record all;
      auto const body = [](record& r) -> task<> {
        task_group group;
        group.spawn(endless(r));
        iowq::executor::current().spawn(joined(group));
        co_await group.join();
      };
      iowq::run(body(all));
    });
    CHECK(twice.says("a task_group was joined twice at once"));
    auto const moved = iowq_test::death_output([] {
      record all;
      auto const body = [](record& r) -> task<> {
        task_group group;
        auto work = endless(r);
        group.spawn(std::move(work));
        group.spawn(std::move(work));  // NOLINT(bugprone-use-after-move)
        co_await group.join();
      };
      iowq::run(body(all));
    });
    CHECK(moved.says("a task was spawned after it had been moved away"));
  }
}
