// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/signal.hpp>  // first and alone

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/runtime.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/flow/when_all.hpp>
#include <iowq/flow/when_any.hpp>
#include <iowq/op/time.hpp>

#include "bounded.hpp"
#include "death.hpp"
#include "leak_check.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::executor;
using iowq::task;
using iowq::until_signal;

void* disposition_of(int number) {
  struct sigaction now{};
  ::sigaction(number, nullptr, &now);
  return reinterpret_cast<void*>(now.sa_handler);
}
void signal_us(int number) { ::kill(::getpid(), number); }
task<> signal_us_soon(int number) {
  co_await iowq::yield();
  signal_us(number);
}
std::atomic<int> foreign_calls{0};
void foreign_handler(int) { ++foreign_calls; }
}  // namespace

TEST_SUITE("op/signal") {
  TEST_CASE("yields the signal that came; the handler is gone when run() has returned") {
    iowq_test::leak_check books;
    void* const before = disposition_of(SIGUSR1);
    auto const body = [](void* old) -> task<int> {
      executor::current().spawn(signal_us_soon(SIGUSR1));
      int const first = co_await until_signal({SIGUSR1, SIGUSR2});
      CHECK(first == SIGUSR1);
      CHECK(disposition_of(SIGUSR1) != old);  // still ours
      executor::current().spawn(signal_us_soon(SIGUSR2));
      co_return co_await until_signal({SIGUSR1, SIGUSR2});
    };
    CHECK(iowq::run(body(before)) == SIGUSR2);
    CHECK(disposition_of(SIGUSR1) == before);
    CHECK(disposition_of(SIGUSR2) == before);
  }

  TEST_CASE("a signal between two awaits kills no process, and the next await yields it once") {
    auto const body = []() -> task<> {
      executor::current().spawn(signal_us_soon(SIGUSR1));
      (void)co_await until_signal({SIGUSR1});
      signal_us(SIGUSR1);
      signal_us(SIGUSR1);  // no queue: it is pending, or noted, once
      auto const next = co_await until_signal({SIGUSR1});
      CHECK(next == SIGUSR1);
      auto none = iowq::timeout(until_signal({SIGUSR1}), 1ms);
      auto const end = co_await iowq::as_result(std::move(none));
      CHECK(end.error() == std::errc::timed_out);
    };
    iowq::run(body());
  }

  TEST_CASE("every coroutine that awaits a signal gets it: in one executor, and in several") {
    iowq_test::leak_check books;
    std::atomic<int> told{0}, waiting{0};
    auto const one = [](std::atomic<int>& in, std::atomic<int>& out, int other) -> task<> {
      ++in;
      auto const number = co_await until_signal({SIGUSR1, other});
      out += number == SIGUSR1;
    };
    {
      iowq::runtime r{{.threads = 3}};
      for (int i = 0; i < 12; ++i) r.spawn(one(waiting, told, i % 2 != 0 ? SIGUSR2 : SIGALRM));
      iowq_test::spin_until([&] { return waiting >= 12; });
      signal_us(SIGUSR1);
    }
    CHECK(told == 12);
    CHECK(disposition_of(SIGUSR1) == nullptr);
  }

  TEST_CASE(
      "a stop and a deadline end the wait; a signal that cannot be caught is invalid_argument") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      auto late = iowq::timeout(until_signal({SIGUSR1}), 1ms);
      auto const end = co_await iowq::as_result(std::move(late));
      CHECK(end.error() == std::errc::timed_out);
      for (int const bad : {SIGKILL, SIGSTOP, SIGSEGV, SIGILL, 0, -1, 65, 1000}) {
        CAPTURE(bad);
        auto wait = until_signal({SIGUSR1, bad});
        auto const refused = co_await iowq::as_result(std::move(wait));
        CHECK(refused.error() == std::errc::invalid_argument);
      }
      auto nothing = until_signal({});
      auto const refused = co_await iowq::as_result(std::move(nothing));
      CHECK(refused.error() == std::errc::invalid_argument);
      executor::current().request_stop();
      (void)co_await until_signal({SIGUSR1});
      FAIL_CHECK("went on after a stop");
    };
    iowq::run(body());
    CHECK(disposition_of(SIGUSR1) == nullptr);
  }

  TEST_CASE("a signal arrives although every thread blocks it, as programs with signalfd do") {
    sigset_t set, before, after;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGUSR1);
    ::pthread_sigmask(SIG_BLOCK, &set, &before);
    signal_us(SIGUSR1);  // pending before the await
    auto const body = []() -> task<int> { co_return co_await until_signal({SIGUSR1}); };
    CHECK(iowq::run(body()) == SIGUSR1);
    ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
    CHECK(::sigismember(&after, SIGUSR1) == 1);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  TEST_CASE("the old disposition is restored, unless the program set another one meanwhile") {
    struct sigaction foreign{}, before{};
    foreign.sa_handler = &foreign_handler;
    ::sigaction(SIGUSR1, &foreign, &before);
    auto const once = []() -> task<> {
      executor::current().spawn(signal_us_soon(SIGUSR1));
      (void)co_await until_signal({SIGUSR1});
    };
    iowq::run(once());
    CHECK(foreign_calls == 0);
    signal_us(SIGUSR1);
    CHECK(foreign_calls == 1);
    ::sigaction(SIGUSR1, &before, nullptr);
    auto const meanwhile = [](struct sigaction theirs) -> task<> {
      executor::current().spawn(signal_us_soon(SIGUSR1));
      (void)co_await until_signal({SIGUSR1});
      ::sigaction(SIGUSR1, &theirs, nullptr);
    };
    iowq::run(meanwhile(foreign));
    signal_us(SIGUSR1);
    CHECK(foreign_calls == 2);
    ::sigaction(SIGUSR1, &before, nullptr);
  }

  TEST_CASE("signals that rain while waits come and go are neither lost nor touch what is gone") {
    // Goal: a handler in a note that was freed, a bell that nobody hears. Method: threads raise
    // while executors wait, give up, and end.
    iowq_test::leak_check books;
    std::atomic<bool> over{false};
    struct sigaction ignore{}, before{};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGUSR1, &ignore, &before);  // between two runs
    std::thread rain{[&] {
      while (!over) {
        signal_us(SIGUSR1);
        std::this_thread::yield();
      }
    }};
    auto const body = []() -> task<> {
      for (int i = 0; i < 20; ++i) {
        auto wait = iowq::timeout(until_signal({SIGUSR1}), 20us);
        (void)co_await iowq::as_result(std::move(wait));
      }
      auto const got = co_await until_signal({SIGUSR1});  // one comes for certain
      CHECK(got == SIGUSR1);
    };
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t)
      threads.emplace_back([&] {
        for (int round = 0; round < 50; ++round) iowq::run(body());
      });
    for (auto& thread : threads) thread.join();
    over = true;
    rain.join();
    ::sigaction(SIGUSR1, &before, nullptr);
  }

  TEST_CASE("SIGTERM ends a runtime in order: all is cancelled, all is drained, and it returns") {
    auto const end = iowq_test::death_output([] {
      std::atomic<int> put_in_order{0}, begun{0};
      auto const work = [](std::atomic<int>& in, std::atomic<int>& out) -> task<> {
        ++in;
        auto const slept = co_await iowq::as_result(iowq::sleep_for(1h));
        signal_us(SIGTERM);  // a second one, while it drains
        out += slept.error() == std::errc::operation_canceled;
      };
      {
        iowq::runtime r{{.threads = 4}};
        auto const stop = [](iowq::runtime& all) -> task<> {
          (void)co_await until_signal({SIGINT, SIGTERM});
          all.request_stop();
        };
        r.spawn(stop(r));
        for (int i = 0; i < 40; ++i) r.spawn(work(begun, put_in_order));
        iowq_test::spin_until([&] { return begun >= 40; });
        signal_us(SIGTERM);
      }
      ::_exit(put_in_order == 40 ? 7 : 1);
    });
    CHECK(end.exit_code == 7);
  }
}
