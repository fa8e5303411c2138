// SPDX-License-Identifier: BSL-1.0
// A descriptor is closed after what is in flight on it, and not beside it.
#include <iowq/exec/detail/pending_close.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <source_location>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/time.hpp>
#include <iowq/op/transfer.hpp>

#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::all_ways;
using iowq_test::as;
using iowq_test::moment;
using iowq_test::way;

struct tally {
  int alive = 0, cancelled = 0, other = 0;
  int error = 0;  // the last that was no cancellation
};

/// Awaits one operation in a task of its own and counts how it ended.
template <class Operation>
task<> ends(Operation op, tally& sum) {
  ++sum.alive;
  auto const end = co_await iowq::as_result(std::move(op));
  --sum.alive;
  bool const was_cancelled = !end && end.error() == std::errc::operation_canceled;
  ++(was_cancelled ? sum.cancelled : sum.other);
  if (!was_cancelled) sum.error = end.error().value();
}
template <class Operation>
void begin(Operation op, tally& sum) {
  iowq::executor::current().spawn(ends(std::move(op), sum));
}

/// An operation that no stop request reaches.
struct stuck_call {
  static constexpr iowq::operation_row row{
      .name = "stuck", .first = iowq::route::pool, .reason = "a call that waits"};
  int file, gate;
  std::atomic<bool>* inside;
  [[nodiscard]] int descriptor() const noexcept { return file; }
  int call(const iowq::stop_token&) const noexcept {
    char byte;
    inside->store(true);
    return static_cast<int>(iowq::detail::or_errno(::read(gate, &byte, 1)));
  }
};

/// A descriptor whose number may soon be another's.
struct open_file {
  explicit open_file(const iowq::fd& file) : number{file.get()}, inode{inode_now()} {}
  [[nodiscard]] ::ino_t inode_now() const {
    // Not fstat(): ThreadSanitizer takes a look at a number that is another's by now for a race.
    struct ::statx now{};
    long const r = ::syscall(SYS_statx, number, "", AT_EMPTY_PATH, STATX_INO, &now);
    return r == 0 ? static_cast<::ino_t>(now.stx_ino) : 0;
  }
  [[nodiscard]] bool is_open() const { return inode_now() == inode; }
  int number;
  ::ino_t inode;
};

std::string read_now(int from) {
  char text[16];
  auto const n = ::read(from, text, sizeof text);
  return n > 0 ? std::string(text, static_cast<std::size_t>(n)) : std::string{};
}
}  // namespace

TEST_SUITE("exec/pending_close") {
  TEST_CASE("hazard-83: close ends what is in flight on it, wherever that is, and closes then") {
    auto const body = [](way go, moment when, bool by_ring) -> task<> {
      iowq_test::pipe_pair pipe, neighbour;
      tally mine, theirs;
      char byte[3];
      begin(as(go, iowq::read(pipe.in, iowq::mutable_bytes{byte, 1})), mine);
      begin(as(go, iowq::poll(pipe.in, POLLIN)), mine);
      begin(as(go, iowq::splice(pipe.in, {}, neighbour.out, {}, 1)), mine);
      begin(as(go, iowq::read(neighbour.in, iowq::mutable_bytes{byte + 1, 1})), theirs);
      co_await iowq_test::reach(when, "read", 2);
      co_await iowq_test::reach(when, "poll");
      co_await iowq_test::reach(when, "splice");
      open_file const old{pipe.in};
      if (by_ring)
        co_await as(way::ring, iowq::close(std::move(pipe.in)));
      else
        co_await iowq::close(std::move(pipe.in));
      CHECK_FALSE(old.is_open());
      CHECK(mine.alive == 0);
      CHECK(mine.error == 0);
      CHECK(mine.other == 0);
      CHECK(mine.cancelled == 3);
      CHECK(theirs.other == 0);
      co_await iowq::write(neighbour.out, "x");
      co_await iowq_test::until([&] { return theirs.alive == 0; });
      CHECK(theirs.other == 1);
    };
    for (way go : all_ways)
      for (moment when : {moment::submitted, moment::waiting})
        for (bool by_ring : {false, true})
          for (unsigned entries : {1U, 256U}) {
            CAPTURE(go);
            CAPTURE(when);
            CAPTURE(by_ring);
            CAPTURE(entries);
            iowq_test::leak_check books;
            iowq::run(body(go, when, by_ring), {.entries = entries});
          }
  }

  TEST_CASE("hazard-83: a number that is used again gets what was meant for it, no other") {
    auto const body = [](way go) -> task<> {
      tally sum;
      int strays = 0;
      char byte;
      for (int round = 0; round < 500; ++round) {
        iowq_test::pipe_pair first;
        int const number = first.in.get();
        begin(as(go, iowq::read(first.in, iowq::mutable_bytes{&byte, 1})), sum);
        co_await iowq::yield();
        co_await iowq::close(std::move(first.in));
        iowq_test::pipe_pair second;  // takes the number
        if (second.in.get() != number) ++strays;
        std::string const tag = std::to_string(round);
        co_await iowq::write(second.out, tag);
        CHECK(read_now(second.in.get()) == tag);
      }
      CHECK(sum.cancelled == 500);
      CHECK(strays < 500);
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("a close waits for what nothing stops, a stop request or not") {
    auto const body = [](bool stop) -> task<> {
      co_await iowq_test::under{iowq::stop_token{}};  // else our own stop ends us first
      iowq_test::pipe_pair gate, pipe;
      open_file const old{pipe.in};
      std::atomic<bool> inside{false};
      tally stuck, closes;
      begin(iowq::operation<stuck_call>{std::source_location::current(),
                                        stuck_call{old.number, gate.in.get(), &inside}},
            stuck);
      co_await iowq_test::until([&] { return inside.load(); });
      begin(iowq::close(std::move(pipe.in)), closes);
      if (stop) iowq::executor::current().request_stop();
      co_await iowq_test::until_waiting("close");
      CHECK(closes.alive == 1);
      CHECK(old.is_open());
      CHECK(::write(gate.out.get(), "x", 1) == 1);
      co_await iowq_test::until([&] { return closes.alive == 0; });
      CHECK(stuck.other == 1);
      CHECK(closes.other == 1);
      CHECK_FALSE(old.is_open());
    };
    iowq::run(body(false));
    iowq::run(body(true));
  }

  TEST_CASE("of a thousand operations on one descriptor none is left when it is closed") {
    auto const body = [](moment when) -> task<> {
      int pair[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
      iowq::fd here{pair[0]}, there{pair[1]};
      tally sum;
      char byte;
      for (int i = 0; i < 1000; ++i) begin(iowq::recv(here, iowq::mutable_bytes{&byte, 1}), sum);
      co_await iowq_test::reach(when, "recv", 1000);
      co_await iowq::close(std::move(here));
      CHECK(sum.cancelled == 1000);
      CHECK(sum.alive == 0);
    };
    for (moment when : {moment::submitted, moment::waiting})
      for (unsigned entries : {256U, 4U}) {
        CAPTURE(when);
        CAPTURE(entries);
        iowq::run(body(when), {.entries = entries});
      }
  }

  TEST_CASE("hazard-83: an fd that goes while it is in use stops the program and names the user") {
    auto const dies = [](way go, bool moved_over) {
      return iowq_test::death_output([=] {
        auto const body = [](way w, bool over) -> task<> {
          char byte;
          tally sum;
          iowq_test::pipe_pair pipe;
          begin(as(w, iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1})), sum);
          co_await iowq::yield();
          if (over) pipe.in = iowq::fd{};
        };
        iowq::run(body(go, moved_over));
      });
    };
    for (way go : {way::usual, way::ring})
      for (bool moved_over : {false, true}) {
        CAPTURE(go);
        auto const end = dies(go, moved_over);
        CAPTURE(end.text);
        CHECK(end.signal == SIGABRT);
        CHECK(end.says("in use by read at"));
        CHECK(end.says("pending_close_test.cpp"));
        CHECK(end.says("co_await close()"));
      }
  }

  TEST_CASE("an fd may go while it is in use where everything is being stopped") {
    tally sum;
    auto const body = [](tally& all) -> task<> {
      char byte;
      iowq_test::pipe_pair pipe;
      begin(iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}), all);
      co_await iowq::yield();
      iowq::executor::current().request_stop();
    };
    iowq::run(body(sum));
    CHECK(sum.cancelled + sum.other == 1);  // it may have seen the end of the pipe
  }

  TEST_CASE("a descriptor that is closed by number, or twice, is closed once") {
    auto const body = []() -> task<> {
      iowq_test::pipe_pair pipe;
      tally sum;
      char byte;
      open_file const old{pipe.in};
      int const number = pipe.in.release();
      begin(iowq::read(number, iowq::mutable_bytes{&byte, 1}), sum);
      co_await iowq::yield();
      auto const closing = [](int n, tally& all) -> task<> { co_await ends(iowq::close(n), all); };
      tally closes;
      iowq::executor::current().spawn(closing(number, closes));
      iowq::executor::current().spawn(closing(number, closes));
      co_await iowq_test::until([&] { return closes.other == 2; });
      CHECK(sum.cancelled == 1);
      CHECK_FALSE(old.is_open());
    };
    iowq::run(body());
  }
}
