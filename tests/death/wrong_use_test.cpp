// SPDX-License-Identifier: BSL-1.0
// hazard-12: every wrong use that would else be a coroutine resumed twice, or a kernel that writes
// into freed memory, ends the program with a sentence that names it, and with the line where the
// await, or the group, stands in the source. The tests of the headers look at theirs as well.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <coroutine>
#include <csignal>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/iowq.hpp>

#include "death.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

/// A coroutine of somebody else's: it starts at once, and nobody awaits it.
struct foreign {
  struct promise_type {
    foreign get_return_object() noexcept {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    static std::suspend_never initial_suspend() noexcept { return {}; }
    static std::suspend_always final_suspend() noexcept { return {}; }
    static void return_void() noexcept {}
    static void unhandled_exception() noexcept { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
};

task<> nothing() { co_return; }
task<int> seven() { co_return 7; }
task<> endless() { co_await iowq::sleep_for(1h); }
task<> wait_for(iowq::event& e) { co_await e.wait(); }
task<> hold(iowq::mutex& m) {
  auto const held = co_await m.lock();
  co_await iowq::sleep_for(1h);
}
task<> take_from(iowq::channel<int>& c) { static_cast<void>(co_await c.recv()); }
iowq::stream<int> slow() {
  co_await iowq::sleep_for(1h);
  co_yield 1;
}
task<> wait_for_next(iowq::stream<int>& items) { static_cast<void>(co_await items.next()); }
foreign read_alone(int from, char& byte) {
  co_await iowq::read(from, iowq::mutable_bytes{&byte, 1});
}

/// Runs `body()` in a child; the sentence, and where: in this file, at `line` if that is not 0.
template <class Body>
void dies(Body body, std::string_view sentence, int line = 0) {
  auto const end = iowq_test::death_output([&] { iowq::run(body()); });
  CAPTURE(end.text);
  CHECK(end.signal == SIGABRT);
  CHECK(end.says(sentence));
  if (line != 0) CHECK(end.says("wrong_use_test.cpp:" + std::to_string(line) + ", in "));
}
}  // namespace

TEST_SUITE("death/wrong_use") {
  TEST_CASE("an operation is awaited twice") {
    constexpr int line = __LINE__ + 2;
    auto const body = []() -> task<> {
      auto open = iowq::open("/", O_RDONLY | O_DIRECTORY);
      iowq::fd const once = co_await open;
      iowq::fd const again = co_await open;
    };
    dies(body, "an operation was awaited twice", line);
  }

  TEST_CASE("a sleep, a wait, a send is awaited twice, by itself and among others") {
    constexpr int sleep = __LINE__ + 2;
    auto const asleep = []() -> task<> {
      auto again = iowq::sleep_for(0s);
      co_await again;
      co_await again;
    };
    dies(asleep, "an operation was awaited twice", sleep);
    constexpr int wait = __LINE__ + 4;
    auto const waiting = []() -> task<> {
      iowq::event e;
      e.set();
      auto again = e.wait();
      co_await again;
      co_await again;
    };
    dies(waiting, "an operation was awaited twice", wait);
    constexpr int send = __LINE__ + 3;
    auto const sending = []() -> task<> {
      iowq::channel<int> c{2};
      auto again = c.send(1);
      co_await again;
      co_await again;
    };
    dies(sending, "an operation was awaited twice", send);
    auto const several = []() -> task<> {
      auto all = iowq::when_all(seven(), seven());
      static_cast<void>(co_await all);
      static_cast<void>(co_await all);
    };
    dies(several, "several awaits (when_all, when_any, timeout) were awaited twice");
  }

  TEST_CASE("an operation is moved after it was awaited") {
    constexpr int line = __LINE__ + 2;
    auto const body = []() -> task<> {
      auto open = iowq::open("/", O_RDONLY | O_DIRECTORY);
      iowq::fd const once = co_await open;
      auto const moved = std::move(open);
    };
    dies(body, "an operation was moved after it was awaited", line);
  }

  TEST_CASE("a task is awaited twice, after it was moved away, or by two at once") {
    auto const twice = []() -> task<> {
      auto child = seven();
      static_cast<void>(co_await child);
      static_cast<void>(co_await child);
    };
    dies(twice, "a task was awaited twice, or after it had been moved away");
    auto const moved = []() -> task<> {
      auto child = nothing();
      auto other = std::move(child);
      co_await child;  // NOLINT(bugprone-use-after-move)
    };
    dies(moved, "a task was awaited twice, or after it had been moved away");
    auto const by_two = []() -> task<> {
      auto child = endless();
      auto const await_it = [](task<>& it) -> task<> { co_await it; };
      iowq::executor::current().spawn(await_it(child));
      co_await iowq::yield();
      co_await child;
    };
    dies(by_two, "a task was awaited twice");
  }

  TEST_CASE("an operation is awaited where no executor runs") {
    char byte = 0;
    auto const end = iowq_test::death_output([&byte] { read_alone(0, byte); });
    CHECK(end.says("an operation was awaited on a thread that runs no executor"));
  }

  TEST_CASE("another thread's executor is used as if it were one's own") {
    auto const spawned = []() -> task<> {
      auto& here = iowq::executor::current();
      std::thread other{[&here] { here.spawn(nothing()); }};
      other.join();
      co_return;
    };
    dies(spawned, "an executor was used on a thread that did not make it");
    auto const run = []() -> task<> {
      auto& here = iowq::executor::current();
      std::thread other{[&here] { here.run(nothing()); }};
      other.join();
      co_return;
    };
    dies(run, "an executor was used on a thread that did not make it");
    auto const woken = []() -> task<> {
      iowq::event e;
      iowq::executor::current().spawn(wait_for(e));
      co_await iowq::yield();
      std::thread other{[&e] { e.set(); }};
      other.join();
    };
    dies(woken, "a coroutine was woken from another thread than its executor's");
  }

  TEST_CASE("a task is spawned into a group whose tasks run on another thread") {
    constexpr int line = __LINE__ + 2;
    auto const body = []() -> task<> {
      iowq::task_group group;
      group.spawn(endless());
      auto const elsewhere = [](iowq::task_group& all) -> task<> {
        all.spawn(nothing());
        co_return;
      };
      std::thread other{[&] { iowq::run(elsewhere(group)); }};
      other.join();
      group.request_stop();
      co_await group.join();
    };
    dies(body, "a task was spawned into a task_group of another executor", line);
  }

  TEST_CASE("run() stands in a coroutine, on another executor and on its own") {
    auto const nested = []() -> task<> {
      iowq::run(nothing());
      co_return;
    };
    dies(nested, "run() inside a coroutine: co_await the task, or spawn() it");
    auto const same = []() -> task<> {
      iowq::executor::current().run(nothing());
      co_return;
    };
    dies(same, "run() inside a coroutine: co_await the task, or spawn() it");
  }

  TEST_CASE("an executor is destroyed by one of its coroutines") {
    auto const end = iowq_test::death_output([] {
      auto here = std::make_unique<iowq::executor>();
      auto const body = [](std::unique_ptr<iowq::executor>& all) -> task<> {
        all.reset();
        co_return;
      };
      here->run(body(here));
    });
    CHECK(end.says("an executor was destroyed while it runs"));
  }

  TEST_CASE("an executor is destroyed while an operation of a coroutine not its own is in flight") {
    auto const end = iowq_test::death_output([] {
      iowq_test::pipe_pair pipe;
      char byte = 0;
      iowq::executor here;
      auto const body = [](int from, char& into) -> task<> {
        read_alone(from, into);
        co_await iowq::yield();
      };
      here.run(body(pipe.in.get(), byte));
    });
    CHECK(end.says("an executor was destroyed with operations in flight"));
    CHECK(end.says("wrong_use_test.cpp:"));  // which
    CHECK(end.says("read_alone"));
  }

  TEST_CASE("the child of a fork() runs its parent's executor") {
    auto const end = iowq_test::death_output([] {
      iowq::executor here;
      if (::fork() == 0) {
        here.run(nothing());
        ::_exit(0);
      }
      int status = 0;
      ::wait(&status);
      std::raise(WIFSIGNALED(status) ? WTERMSIG(status) : SIGTERM);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("an executor was run in a child of fork(): its ring belongs to the parent"));
  }

  TEST_CASE("a coroutine is destroyed while it waits for the kernel") {
    auto const body = []() -> task<> {
      iowq_test::pipe_pair pipe;
      char byte = 0;
      auto const reader = read_alone(pipe.in.get(), byte);
      co_await iowq::yield();
      reader.handle.destroy();
    };
    dies(body, "a coroutine was destroyed while an operation of it is in flight");
    auto const text = iowq_test::death_output([&] { iowq::run(body()); }).text;
    CHECK(text.find("wrong_use_test.cpp:") < text.find("a coroutine was destroyed"));
  }

  TEST_CASE("a task is destroyed while it waits") {
    auto const body = []() -> task<> {
      std::optional<task<>> child{endless()};
      auto const await_it = [](task<>& it) -> task<> { co_await it; };
      iowq::executor::current().spawn(await_it(*child));
      co_await iowq::yield();
      child.reset();
    };
    dies(body, "a task was destroyed while it waits: await it to its end, or request a stop");
  }

  TEST_CASE("a stream is destroyed while its next() waits, or asked twice at once") {
    auto const destroyed = []() -> task<> {
      std::optional<iowq::stream<int>> items{slow()};
      iowq::executor::current().spawn(wait_for_next(*items));
      co_await iowq::yield();
      items.reset();
    };
    dies(destroyed, "a stream was destroyed while its next() waits");
    auto const twice = []() -> task<> {
      auto items = slow();
      iowq::executor::current().spawn(wait_for_next(items));
      co_await iowq::yield();
      static_cast<void>(co_await items.next());
    };
    dies(twice, "two next() of one stream at once");
  }

  TEST_CASE("an item is read after the end of its stream") {
    auto const body = []() -> task<> {
      auto const none = []() -> iowq::stream<int> { co_return; };
      auto items = none();
      auto const item = co_await items.next();
      static_cast<void>(*item);
    };
    dies(body, "an item was read after the end of its stream");
  }

  TEST_CASE("a task_group is not joined, or joined twice at once") {
    constexpr int first = __LINE__ + 2;
    auto const unjoined = []() -> task<> {
      iowq::task_group group;
      group.spawn(endless());
      co_await iowq::yield();
    };
    dies(unjoined, "a task_group was destroyed while tasks of it run: co_await its join()", first);
    constexpr int second = __LINE__ + 2;
    auto const twice = []() -> task<> {
      iowq::task_group group;
      group.spawn(endless());
      auto const join = [](iowq::task_group& all) -> task<> { co_await all.join(); };
      iowq::executor::current().spawn(join(group));
      co_await group.join();
    };
    dies(twice, "a task_group was joined twice at once", second);
  }

  TEST_CASE("a mutex dies while it is held, or waited for") {
    auto const held = []() -> task<> {
      auto m = std::make_unique<iowq::mutex>();
      iowq::executor::current().spawn(hold(*m));
      co_await iowq::yield();
      m.reset();
    };
    dies(held, "a mutex was destroyed while it is locked");
    auto const awaited = []() -> task<> {
      auto m = std::make_unique<iowq::mutex>();
      iowq::executor::current().spawn(hold(*m));
      iowq::executor::current().spawn(hold(*m));
      co_await iowq::yield();
      m.reset();
    };
    dies(awaited, "a mutex was destroyed while coroutines wait for it");
  }

  TEST_CASE("a channel dies while it is waited for") {
    auto const body = []() -> task<> {
      auto c = std::make_unique<iowq::channel<int>>(1);
      iowq::executor::current().spawn(take_from(*c));
      co_await iowq::yield();
      c.reset();
    };
    dies(body, "a channel was destroyed while coroutines wait for it");
  }

  TEST_CASE("a coroutine is destroyed while it sleeps, or waits in line, among others as well") {
    constexpr int sleep = __LINE__ + 3;
    auto const asleep = []() -> task<> {
      auto const alone = []() -> foreign {
        auto all = iowq::when_all(iowq::sleep_for(1h));
        static_cast<void>(co_await all);
      };
      auto const waiting = alone();
      waiting.handle.destroy();
      co_return;
    };
    dies(asleep, "a coroutine was destroyed while it waits", sleep);
    constexpr int wait = __LINE__ + 4;
    auto const in_line = []() -> task<> {
      iowq::event e;
      auto const alone = [](iowq::event& never) -> foreign {
        auto first = iowq::when_any(never.wait());
        static_cast<void>(co_await first);
      };
      auto const waiting = alone(e);
      waiting.handle.destroy();
      co_return;
    };
    dies(in_line, "a coroutine was destroyed while it waits", wait);
  }

  TEST_CASE("a stop_source dies before what is registered with it") {
    auto const body = []() -> task<> {
      auto source = std::make_unique<iowq::stop_source>();
      auto const alone = [](iowq::stop_token token) -> foreign {
        auto sleep = iowq::with_stop(token, iowq::sleep_for(1h));
        co_await sleep;
      };
      alone(source->get_token());
      source.reset();
      co_return;
    };
    dies(body, "a stop_source was destroyed before its callbacks");
  }
}
