// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/operation.hpp>  // first and alone

#include <sys/socket.h>

#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/raw.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/time.hpp>

#include "allocations.hpp"
#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "skip.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;
using iowq_test::way;

task<int> callee(int n) { co_return n; }

/// One of everything; `path` is a long one.
task<> once(const std::string& path, int a, int b) {
  char byte = 0;
  iowq::mutable_bytes const one{&byte, 1};
  iowq::fd file = co_await iowq::open(path, O_RDWR | O_CREAT);
  iowq::fd again = co_await iowq::open(path, O_RDONLY);
  co_await iowq::pwrite(file, "x", 0);
  co_await iowq::pread(again, one, 0);
  co_await iowq::on_pool(iowq::pread(again, one, 0));
  co_await iowq::send(a, "x");
  co_await iowq::recv(b, one);
  co_await iowq::close(std::move(again));
  co_await iowq::close(std::move(file));
  (void)co_await iowq::punt([&] { return byte; });
  co_await iowq::sleep_for(1us);
  co_await iowq::yield();
  (void)co_await callee(1);
}
}  // namespace

TEST_SUITE("exec/operation") {
  TEST_CASE("no operation allocates once its thread is warm") {
    if (!iowq_test::allocations::counted) {
      MESSAGE("skipped: a sanitizer has the heap");
      return;
    }
    iowq_test::scratch dir;
    auto const body = [](std::string path) -> task<long> {
      int ends[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
      iowq::stop_source source;  // another token than the ambient one: hooks, too
      co_await iowq_test::under{source.get_token()};
      for (int i = 0; i < 20; ++i) co_await once(path, ends[0], ends[1]);
      auto const before = iowq_test::allocations::now();
      for (int i = 0; i < 200; ++i) co_await once(path, ends[0], ends[1]);
      auto const made = (iowq_test::allocations::now() - before).made;
      ::close(ends[0]);
      ::close(ends[1]);
      co_return made;
    };
    CHECK(iowq::run(body(dir / std::string(180, 'p'))) == 0);
  }

  TEST_CASE("of the ring: stats count every operation once, by the route that finished it") {
    if (!iowq_test::rings_allowed()) SKIP_CASE("there is none");
    auto const body = []() -> task<iowq::executor_stats> {
      iowq::fd zero = co_await iowq::open("/dev/zero", O_RDONLY);
      char byte;
      iowq::mutable_bytes const one{&byte, 1};
      for (int i = 0; i < 5; ++i) co_await iowq::on_ring(iowq::read(zero, one));
      for (int i = 0; i < 3; ++i) co_await iowq::on_pool(iowq::read(zero, one));
      for (int i = 0; i < 2; ++i) (void)co_await iowq::socket(AF_INET, SOCK_STREAM);
      co_return iowq::executor::current().stats();
    };
    auto const stats = iowq::run(body());
    auto const line = [&](std::string_view name) {
      for (const auto& e : stats.operations)
        if (name == e.name) return e;
      return iowq::operation_stats{};
    };
    CHECK(line("read").ring_ops == 5);
    CHECK(line("read").punted_ops == 3);
    CHECK(line("socket").inline_ops == 2);
    CHECK(stats.inline_ops + stats.ring_ops + stats.punted_ops == 5 + 3 + 2 + 1);
    CHECK(stats.submitted >= stats.ring_ops);
  }

  TEST_CASE("the kernel's own workers do no work of the pool") {
    auto const body = []() -> task<> {
      iowq_test::scratch dir;
      for (int i = 0; i < 50; ++i) {
        iowq::fd file = co_await iowq::open(dir / std::to_string(i), O_WRONLY | O_CREAT);
        co_await iowq::write(file, "x");
        co_await iowq::fdatasync(file);
        (void)co_await iowq::punt([] { return 0; });
      }
      std::string const worker = "iou-wrk-" + std::to_string(::gettid()) + '\n';
      bool kernel_worker = false;
      for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
        iowq::fd comm = co_await iowq::open((thread.path() / "comm").string(), O_RDONLY);
        std::string name(32, '\0');
        name.resize(static_cast<std::size_t>(::read(comm.get(), name.data(), name.size())));
        kernel_worker |= name.starts_with(worker);
      }
      CHECK_FALSE(kernel_worker);
    };
    // They are a thread's and outlive its rings: so none of another test's.
    std::jthread{[&] { iowq::run(body()); }};
  }

  TEST_CASE("dump names each await in flight: what, where, since when, which line") {
    auto const body = []() -> task<std::string> {
      iowq_test::pipe_pair pipe;
      auto const reader = [](way w, int from) -> task<> {
        char byte;
        (void)co_await iowq::as_result(as(w, iowq::read(from, iowq::mutable_bytes{&byte, 1})));
      };
      auto const sleeper = []() -> task<> { co_await iowq::sleep_for(1h); };
      iowq::executor::current().spawn(reader(way::ring, pipe.in.get()));
      iowq::executor::current().spawn(reader(way::pool, pipe.in.get()));
      iowq::executor::current().spawn(sleeper());
      co_await iowq::yield();
      std::ostringstream text;
      iowq::executor::current().dump(text);
      iowq::executor::current().request_stop();
      co_return text.str();
    };
    auto const text = iowq::run(body());
    CHECK(text.find("read fd ") != text.npos);
    CHECK(text.find(iowq_test::rings_allowed() ? ": ring, " : ": poll, ") != text.npos);
    CHECK(text.find(": pool, ") != text.npos);
    CHECK(text.find("sleep: timer, ") != text.npos);
    CHECK(text.find("operation_test.cpp:") != text.npos);
    CHECK(text.find("3 in flight") != text.npos);
  }

  TEST_CASE(
      "an operation ends for a completion callback as for a coroutine, whichever way it goes") {
    struct ear : iowq::detail::completion_callback {
      int heard = 0;
      ear()
          : completion_callback{
                [](completion_callback* self) noexcept { ++static_cast<ear*>(self)->heard; }} {}
    };
    iowq_test::leak_check books;
    auto const body = [](way go) -> task<> {
      iowq_test::pipe_pair pipe;
      char byte = 0;
      ear read_end, cancelled, refused;
      auto read = as(go, iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}));
      CHECK(read.start(read_end, {}));
      co_await iowq_test::until_waiting("read");
      CHECK(read_end.heard == 0);
      CHECK(::write(pipe.out.get(), "x", 1) == 1);
      co_await iowq_test::until([&] { return read_end.heard != 0; });
      CHECK(read.await_resume() == 1);

      iowq::stop_source stop;
      auto again = as(go, iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}));
      CHECK(again.start(cancelled, stop.get_token()));
      co_await iowq_test::until_waiting("read");
      stop.request_stop();
      CHECK(cancelled.heard == 0);  // later, never from within
      co_await iowq_test::until([&] { return cancelled.heard != 0; });
      CHECK(again.await_resume_result().error() == std::errc::operation_canceled);

      auto late = as(go, iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}));
      CHECK_FALSE(late.start(refused, stop.get_token()));
      CHECK(late.await_resume_result().error() == std::errc::operation_canceled);
      CHECK(refused.heard == 0);
      CHECK(read_end.heard == 1);
      CHECK(cancelled.heard == 1);
    };
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("wrong use of an operation ends the program with a sentence that names it") {
    auto const twice = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        auto sleep = iowq::sleep_for(1us);
        co_await sleep;
        co_await sleep;
      };
      iowq::run(body());
    });
    CHECK(twice.says("an operation was awaited twice"));
    auto const nowhere = iowq_test::death_output([] {
      auto const body = []() -> task<> { (void)co_await iowq::open("/", O_RDONLY); };
      iowq_test::started run{body()};
    });
    CHECK(nowhere.says("an operation was awaited on a thread that runs no executor"));
    auto const early = iowq_test::death_output([] {  // hazard-1
      auto const body = []() -> task<> {
        iowq_test::pipe_pair pipe;
        std::optional<iowq_test::started> inner;
        auto const reader = [](int from) -> task<> {
          char byte;
          co_await iowq::read(from, iowq::mutable_bytes{&byte, 1});
        };
        inner.emplace(reader(pipe.in.get()));
        inner.reset();
        co_return;
      };
      iowq::run(body());
    });
    CHECK(early.signal == SIGABRT);
    CHECK(early.says("a task was destroyed while it waits"));
  }

  TEST_CASE(
      "of the ring: punt_policy::kernel moves operations to the kernel, and changes nothing else") {
    if (!iowq_test::rings_allowed()) SKIP_CASE("there is none");
    iowq_test::scratch dir;
    auto const body = [](iowq_test::scratch& in) -> task<iowq::executor_stats> {
      iowq::fd file = co_await iowq::open(in / "file", O_RDWR | O_CREAT);
      CHECK(co_await iowq::write(file, "text") == 4);
      co_await iowq::fsync(file);
      co_await iowq::close(std::move(file));
      co_return iowq::executor::current().stats();
    };
    auto const stats = iowq::run(body(dir), {.punt = iowq::punt_policy::kernel});
    CHECK(stats.punted_ops == 0);
    CHECK(stats.ring_ops == 4);
  }
}
