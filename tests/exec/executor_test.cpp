// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/executor.hpp>  // first and alone

#include <signal.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/punt.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/time.hpp>

#include "death.hpp"
#include "leak_check.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::executor;
using iowq::task;

task<int> seven() { co_return 7; }
task<std::unique_ptr<int>> owned() { co_return std::make_unique<int>(7); }
task<int&> reference(int& n) { co_return n; }
task<> thrown() {
  throw std::runtime_error("on purpose");
  co_return;
}
task<> add(int& n) {
  co_await iowq::yield();
  ++n;
}
task<> nothing() { co_return; }
task<> wait_on_pipe(iowq_test::way go) {
  iowq_test::pipe_pair pipe;
  char byte;
  co_await as(go, iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}));
}
task<> sleep_long() { co_await iowq::sleep_for(1h); }
task<> yield_for_ever() {
  for (;;) co_await iowq::yield();
}
/// A callable that ends when it is told to, and only then.
task<> punt_until_stopped() {
  co_await iowq::punt([](const iowq::stop_token& stop) {
    pollfd wake{iowq::this_worker::wake_descriptor(), POLLIN, 0};
    while (!stop.stop_requested()) ::poll(&wake, 1, -1);
  });
}
task<> everything_waits(int copies) {
  executor& here = executor::current();
  for (int i = 0; i < copies; ++i) {
    here.spawn(wait_on_pipe(iowq_test::way::ring));
    here.spawn(wait_on_pipe(iowq_test::way::pool));
    here.spawn(sleep_long());
    here.spawn(yield_for_ever());
    here.spawn(punt_until_stopped());
  }
  co_await sleep_long();
}
executor* signalled = nullptr;
}  // namespace

TEST_SUITE("exec/executor") {
  TEST_CASE("run returns what its task returns, and rethrows what left it") {
    iowq_test::leak_check books;
    int n = 3;
    CHECK(iowq::run(seven()) == 7);
    CHECK(*iowq::run(owned()) == 7);
    CHECK(&iowq::run(reference(n)) == &n);
    CHECK_THROWS_WITH(iowq::run(thrown()), "on purpose");
    executor again;
    CHECK(again.run(seven()) == 7);
    CHECK(again.run(seven()) == 7);
  }

  TEST_CASE("run returns when all that was spawned has ended, too") {
    int n = 0;
    executor here;
    for (int i = 0; i < 10; ++i) here.spawn(add(n));  // before it runs
    auto const body = [](int& count) -> task<> {
      for (int i = 0; i < 10; ++i) executor::current().spawn(add(count));
      co_return;
    };
    here.run(body(n));
    CHECK(n == 20);
  }

  TEST_CASE("every post from another thread runs once, on the owner") {
    iowq_test::leak_check books;
    executor here;
    int n = 0;  // no atomic: TSan would tell
    std::vector<std::thread> posters;
    for (int t = 0; t < 4; ++t)
      posters.emplace_back([&] {
        for (int i = 0; i < 2000; ++i) here.post(add(n));
      });
    auto const body = [](int& count) -> task<> {
      while (count < 8000) co_await iowq::sleep_for(100us);
    };
    here.run(body(n));
    for (auto& poster : posters) poster.join();
    CHECK(n == 8000);
  }

  TEST_CASE("a task that was posted or spawned and never started goes with the executor") {
    iowq_test::counted::reset();
    auto const body = [](iowq_test::counted) -> task<> { co_return; };
    {
      executor here;
      here.post(body(iowq_test::counted{1}));
      here.spawn(body(iowq_test::counted{2}));
      CHECK(iowq_test::counted::alive() == 2);
    }
    CHECK(iowq_test::counted::alive() == 0);
  }

  TEST_CASE("what leaves a spawned task reaches on_unhandled; hazard-10: by default it ends us") {
    std::string caught;
    executor here{{.on_unhandled = [&](std::exception_ptr error) {
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& e) {
        caught = e.what();
      }
    }}};
    here.spawn(thrown());
    here.run(nothing());
    CHECK(caught == "on purpose");

    auto const end = iowq_test::death_output([] {
      executor child;
      child.spawn(thrown());
      child.run(nothing());
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("an exception left a spawned task: on purpose"));
  }

  TEST_CASE("a stop from another thread, a handler, or inside cancels all there is, and run ends") {
    iowq_test::leak_check books;
    executor here;
    int round = 0;
    SUBCASE("from another thread") {
      for (; round < 10; ++round) {
        std::thread stopper{[&] { here.request_stop(); }};
        here.run(everything_waits(5));
        stopper.join();
      }
    }
    SUBCASE("from a signal handler") {
      signalled = &here;
      struct sigaction action{}, before{};
      action.sa_handler = [](int) { signalled->request_stop(); };
      ::sigaction(SIGUSR1, &action, &before);
      for (; round < 10; ++round) {
        auto const owner = ::pthread_self();
        std::thread stopper{[=] { ::pthread_kill(owner, SIGUSR1); }};
        here.run(everything_waits(5));
        stopper.join();
      }
      ::sigaction(SIGUSR1, &before, nullptr);
    }
    SUBCASE("from inside") {
      for (; round < 10; ++round) {
        auto const stop = []() -> task<> {
          co_await iowq::sleep_for(1ms);
          executor::current().request_stop();
        };
        here.spawn(stop());
        here.run(everything_waits(5));
      }
    }
    SUBCASE("before it runs") {
      for (; round < 10; ++round) {
        here.request_stop();
        here.run(everything_waits(5));
      }
    }
    CHECK(round == 10);
    CHECK(here.run(seven()) == 7);  // afterwards it starts afresh
    auto const sleeps = []() -> task<int> {
      co_await iowq::sleep_for(1us);
      co_return 1;
    };
    CHECK(here.run(sleeps()) == 1);
  }

  TEST_CASE("a stop that comes in the last turn of a run is no matter of the next") {
    executor here;
    auto const stops = []() -> task<> {
      executor::current().request_stop();
      co_return;
    };
    auto const sleeps = []() -> task<int> {
      co_await iowq::sleep_for(1us);
      co_return 1;
    };
    for (int round = 0; round < 3; ++round) {
      here.run(stops());
      CHECK(here.run(sleeps()) == 1);
    }
  }

  TEST_CASE("hazard-104: a parked owner is woken by each of a million posts at most once") {
    executor here;
    int n = 0;
    auto const body = [](int& count, int until) -> task<> {
      while (count < until) co_await iowq::sleep_for(10us);
    };
    std::thread poster{[&] {
      for (int i = 0; i < 20'000; ++i) here.post(add(n));
    }};
    here.run(body(n, 20'000));
    poster.join();
    auto const stats = here.stats();
    CHECK(stats.pool.kicks <= stats.entered);  // one a sleep, and each sleep is one system call
    CHECK(n == 20'000);
  }

  TEST_CASE("without a descriptor, or with bad options, the constructor says why and what to do") {
    auto const end = iowq_test::death_output([] {
      rlimit none{3, 3};
      ::setrlimit(RLIMIT_NOFILE, &none);
      try {
        executor here;
      } catch (const std::system_error& e) {
        std::fprintf(stderr, "%d %s", e.code().value(), e.what());
        ::_exit(1);
      }
    });
    if (IOWQ_ASAN) {
      MESSAGE("not looked at: UBSan needs a descriptor of its own to look at an exception");
    } else {
      CHECK(end.exit_code == 1);
      CHECK(end.says("raise RLIMIT_NOFILE"));
      CHECK(end.says(std::to_string(EMFILE)));
    }
    CHECK_THROWS_AS(executor{{.entries = 0}}, std::system_error);
  }

  TEST_CASE("wrong use ends the program with a sentence that names it") {
    auto nested = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        iowq::run(nothing());
        co_return;
      };
      iowq::run(body());
    });
    CHECK(nested.says("run() inside a coroutine"));
    auto thread = iowq_test::death_output([] {
      executor here;
      std::thread{[&] { here.spawn(nothing()); }}.join();
    });
    CHECK(thread.says("an executor was used on a thread that did not make it"));
    auto child = iowq_test::death_output([] {
      executor here;
      if (::fork() == 0) here.run(nothing());
      int status = 0;
      ::wait(&status);
      ::_exit(WIFSIGNALED(status) ? 1 : 0);
    });
    CHECK(child.says("an executor was run in a child of fork()"));
    auto none = iowq_test::death_output([] { (void)executor::current(); });
    CHECK(none.says("no executor runs on this thread"));
  }

  TEST_CASE("a hundred executors, one after the other and many at once, leave nothing behind") {
    iowq_test::leak_check books;
    for (int i = 0; i < 100; ++i) CHECK(iowq::run(seven()) == 7);
    std::vector<std::unique_ptr<executor>> all;  // more than the 16 registered-ring slots
    for (int i = 0; i < 40; ++i) all.push_back(std::make_unique<executor>());
    for (auto& one : all) CHECK(one->run(seven()) == 7);
  }
}
