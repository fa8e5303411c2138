// SPDX-License-Identifier: BSL-1.0
// A stop request meets an operation in every stage: exactly one outcome, one resume.
#include <iowq/exec/detail/loop.hpp>

#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cstddef>
#include <new>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/linked.hpp>
#include <iowq/op/multishot/many.hpp>
#include <iowq/op/multishot/recv_many.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/raw.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/time.hpp>
#include <iowq/sync/channel.hpp>
#include <iowq/sync/event.hpp>

#include "allocations.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "skip.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;
using iowq_test::way;

struct tally {
  int done = 0, cancelled = 0, other = 0;
  void count(std::error_code error) {
    ++(!error ? done : error == std::errc::operation_canceled ? cancelled : other);
  }
};

/// Awaits one operation under `token` and counts its outcome.
template <class Make>
task<> one(iowq::stop_token token, Make make, tally& sum, int& alive) {
  co_await iowq_test::under{token};
  auto op = make();
  auto const end = co_await iowq::as_result(std::move(op));
  sum.count(end.error());
  --alive;
}

/// Many rounds in which a stop on another thread races with what would complete the operation.
template <class Make, class Complete>
task<> race(int rounds, Make make, Complete complete, tally& sum) {
  for (int i = 0; i < rounds; ++i) {
    iowq::stop_source source;
    std::atomic<bool> go{false};
    std::thread stopper{[&] {
      while (!go.load(std::memory_order_acquire)) {
      }
      for (int spin = 0; spin < i % 64 * 20; ++spin) iowq::detail::linux_policy::relax();
      source.request_stop();
    }};
    int alive = 1;
    iowq::executor::current().spawn(one(source.get_token(), make, sum, alive));
    co_await iowq::yield();
    go.store(true, std::memory_order_release);
    complete();
    co_await iowq_test::until([&] { return alive == 0; });
    stopper.join();
  }
}
constexpr int rounds = 300;

/// What was kept of the registrations that ended is not to be had.
class no_kept_registration {
 public:
  no_kept_registration() {
    auto& cache = iowq::detail::this_thread_frames;
    while (cache.free[cache.class_of(size)] != nullptr)
      held_.push_back(iowq::detail::allocate_frame(size));
  }
  ~no_kept_registration() {
    for (void* each : held_) iowq::detail::free_frame(each, size);
  }
  no_kept_registration(const no_kept_registration&) = delete;
  no_kept_registration& operator=(const no_kept_registration&) = delete;

 private:
  static constexpr std::size_t size = sizeof(iowq::detail::stop_hook);
  std::vector<void*> held_;
};

/// Operations of every sort, while there is no memory.
struct without_memory {
  template <class Operation>
  static task<> fails(Operation op) {
    no_kept_registration const none;
    iowq_test::allocations::refused = true;
    auto const end = co_await iowq::as_result(std::move(op));
    iowq_test::allocations::refused = false;
    CHECK(end.error() == std::errc::not_enough_memory);
  }
  static task<> all(iowq::stop_token token) {
    co_await iowq_test::under{token};
    iowq_test::pipe_pair pipe;
    iowq::channel<int> channel{1};
    iowq::event event;
    char byte;
    for (way go : iowq_test::all_ways)
      co_await fails(as(go, iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1})));
    co_await fails(iowq::sleep_for(1h));
    co_await fails(channel.recv());
    co_await fails(event.wait());
    CHECK(channel.try_send(1));
    auto const value = co_await channel.recv();  // nothing to wait for
    CHECK(*value == 1);
    co_await stream_of_one_request(pipe.out.get());
    co_await stream_without_a_buffer();
    co_await chain(pipe.in.get());
  }

  /// A stream throws; there may be no memory to say more than that.
  template <class T>
  static task<> ends(iowq::stream<T>& all) {
    no_kept_registration const none;
    bool failed = false;
    iowq_test::allocations::refused = true;
    try {
      co_await all.next();
    } catch (const std::bad_alloc&) {
      failed = true;
    } catch (const std::system_error& error) {
      failed = error.code() == std::errc::not_enough_memory;
    }
    iowq_test::allocations::refused = false;
    CHECK(failed);
  }
  static task<> stream_of_one_request(int writable) {
    auto ready = iowq::poll_many(writable, POLLOUT);
    bool const first{co_await ready.next()};
    CHECK(first);
    co_await ends(ready);
  }
  static task<> stream_without_a_buffer() {
    int pair[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    iowq::fd const here{pair[0]}, there{pair[1]};
    REQUIRE(::send(there.get(), "ab", 2, 0) == 2);
    iowq::buffer_ring buffers{1, 1, iowq::multishot::off};
    auto incoming = iowq::recv_many(here, buffers);
    auto first = co_await incoming.next();
    iowq::buffer_view const lease = std::move(*first);
    CHECK(lease.size() == 1);
    co_await ends(incoming);  // its only buffer is leased
  }
  static task<> chain(int in) {
    char byte;
    auto both = iowq::linked(iowq::read(in, iowq::mutable_bytes{&byte, 1}),
                             iowq::read(in, iowq::mutable_bytes{&byte, 1}));
    no_kept_registration const none;
    iowq_test::allocations::refused = true;
    auto const [first, second] = co_await std::move(both);
    iowq_test::allocations::refused = false;
    CHECK(first.error() == std::errc::not_enough_memory);
    CHECK(second.error() == std::errc::operation_canceled);
  }
};
}  // namespace

TEST_SUITE("exec/cancel") {
  TEST_CASE("hazard-5: a stop that races with the completion ends in exactly one of them") {
    iowq_test::leak_check books;
    tally sum;
    iowq_test::pipe_pair pipe{O_CLOEXEC | O_NONBLOCK};
    char byte = 0;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      sum = {};
      auto const make = [&] { return as(go, iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1})); };
      auto const complete = [&] {
        char const sent = 1;
        REQUIRE(::write(pipe.out.get(), &sent, 1) == 1);
      };
      iowq::run(race(rounds, make, complete, sum));
      CHECK(sum.done + sum.cancelled == rounds);
      CHECK(sum.other == 0);
      char left[2 * rounds];  // hazard-6: a byte that was not delivered is still there
      ssize_t const n = ::read(pipe.in.get(), left, sizeof left);
      CHECK((n < 0 ? 0 : n) == sum.cancelled);
    }
  }

  TEST_CASE("the same for a timer, and for a punt") {
    tally sum;
    auto const sleep = [] { return iowq::sleep_for(20us); };
    auto const nothing = [] {};
    iowq::run(race(rounds, sleep, nothing, sum));
    CHECK(sum.done + sum.cancelled == rounds);
    sum = {};
    auto const call = [] { return iowq::punt([] { return 1; }); };
    iowq::run(race(rounds, call, nothing, sum));
    CHECK(sum.done + sum.cancelled == rounds);
    CHECK(sum.other == 0);
  }

  TEST_CASE("hazard-5: a cancel that came too early to find its operation is not lost") {
    // Goal: an operation that the kernel has, and does not find. Method: a chain, of which nothing
    // is found that has not begun. Older kernels have a gap of that kind before a worker begins.
    if (!iowq_test::rings_allowed()) SKIP_CASE("no io_uring");
    auto const body = []() -> task<> {
      co_await iowq::yield();  // the loop's own SQEs come first
      iowq_test::pipe_pair gate, pipe;
      char byte;
      int const first = gate.in.get(), second = pipe.in.get();
      char* const into = &byte;
      tally opened, read;
      int alive = 2;
      iowq::stop_source source;
      auto const head = [first] {
        return iowq::raw([first](io_uring_sqe& sqe) {
          io_uring_prep_poll_add(&sqe, first, POLLIN);
          sqe.flags = IOSQE_IO_LINK;
        });
      };
      auto const tail = [second, into] {
        return iowq::raw([second, into](io_uring_sqe& sqe) {
          io_uring_prep_read(&sqe, second, into, 1, static_cast<std::uint64_t>(-1));
        });
      };
      iowq::executor::current().spawn(one({}, head, opened, alive));
      iowq::executor::current().spawn(one(source.get_token(), tail, read, alive));
      co_await iowq_test::until_waiting("raw", 2);
      auto& here = iowq::executor::current();
      auto const answers = here.stats().completed;
      source.request_stop();
      co_await iowq_test::until([&] { return here.stats().completed > answers; });  // the cancel's
      CHECK(alive == 2);
      CHECK(::write(gate.out.get(), "x", 1) == 1);
      co_await iowq_test::until([&] { return alive == 0; });
      CHECK(opened.done == 1);
      CHECK(read.done + read.cancelled == 1);
    };
    iowq::run(body());
  }

  TEST_CASE("hazard-6: an accept that is cancelled too late leaves no descriptor behind") {
    iowq_test::leak_check books;
    tally sum;
    auto const body = [](tally& all) -> task<> {
      iowq::fd listener = co_await iowq::socket(AF_INET, SOCK_STREAM);
      co_await iowq::bind(listener, iowq::endpoint::ip("127.0.0.1", 0));
      co_await iowq::listen(listener);
      auto const where = iowq::endpoint::local_of(listener.get());
      for (way go : iowq_test::all_ways) {
        auto const make = [&] { return as(go, iowq::accept(listener)); };
        std::optional<iowq::fd> client;
        auto const connect = [&] {
          client.emplace(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
          (void)::connect(client->get(), where.address(), where.size());
        };
        auto rounds_of_it = race(100, make, connect, all);
        co_await rounds_of_it;
      }
    };
    iowq::run(body(sum));
    CHECK(sum.done + sum.cancelled == 300);
    CHECK(sum.other == 0);
  }

  TEST_CASE("hazard-8: a stop before the await, twice, or after the end is legal") {
    auto const body = []() -> task<> {
      iowq::stop_source source;
      source.request_stop();
      source.request_stop();
      tally sum;
      int alive = 2;
      auto const sleep = [] { return iowq::sleep_for(1h); };
      auto const call = [] { return iowq::punt([] { FAIL("it ran"); }); };
      co_await one(source.get_token(), sleep, sum, alive);
      co_await one(source.get_token(), call, sum, alive);
      CHECK(sum.cancelled == 2);
      iowq::stop_source late;
      auto const soon = [] { return iowq::sleep_for(1us); };
      alive = 1;
      co_await one(late.get_token(), soon, sum, alive);
      late.request_stop();
      CHECK(sum.done == 1);
    };
    iowq::run(body());
  }

  TEST_CASE("a queued punt is cancelled without running; a close runs although it is stopped") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      iowq_test::pipe_pair hold;
      auto const block = [&] {
        char byte;
        return ::read(hold.in.get(), &byte, 1);
      };
      bool released = false;
      auto const blocker = [](auto call, bool& ended) -> task<> {
        auto held = iowq::punt(call, {.key = 1});
        (void)co_await held;
        ended = true;
      };
      iowq::executor::current().spawn(blocker(block, released));
      co_await iowq::yield();
      iowq::stop_source source;
      tally sum;
      int alive = 1;
      bool ran = false;
      auto const queued = [&] {
        auto const call = [&ran] { ran = true; };
        return iowq::punt(call, {.key = 1});
      };
      iowq::executor::current().spawn(one(source.get_token(), queued, sum, alive));
      co_await iowq::yield();
      source.request_stop();
      co_await iowq_test::until([&] { return alive == 0; });
      CHECK(sum.cancelled == 1);
      CHECK_FALSE(ran);
      int const number = hold.out.get();
      co_await iowq_test::under{source.get_token()};
      co_await iowq::close(std::move(hold.out));  // also ends the read
      CHECK(::fcntl(number, F_GETFD) == -1);
      co_await iowq_test::under{{}};
      co_await iowq_test::until([&] { return released; });
    };
    iowq::run(body());
  }

  TEST_CASE(
      "no memory to register with a stop token: the operation fails with that, and is not begun") {
    if (!iowq_test::allocations::counted) return;
    // A thread of its own, with no memory kept from earlier frames.
    std::thread{[] {
      iowq::stop_source source;
      iowq::run(without_memory::all(source.get_token()));
    }}.join();
  }
}
