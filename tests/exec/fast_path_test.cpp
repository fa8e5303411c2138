// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/detail/fast_path.hpp>  // first and alone

#include <sys/socket.h>

#include <sstream>
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/raw.hpp>
#include <iowq/op/socket.hpp>

#include "leak_check.hpp"
#include "skip.hpp"
#include "ways.hpp"

namespace {
using iowq::task;

/// What the executor should know, kept beside it.
struct books {
  unsigned waiting = 0;
  std::uint64_t ended = 0;
  unsigned asked = 0, wrong = 0;
  bool dumps = true;  // which lists who is young

  template <class Operation>
  auto await(Operation operation) {
    return awaits(*this, std::move(operation));
  }
  /// Right after an operation of ours went on: others are about to, or have just begun.
  void check(bool cheaply) {
    iowq::executor& here = iowq::executor::current();
    ++asked;
    wrong += here.stats().ring_ops != ended;
    if (cheaply || !dumps) return;
    std::ostringstream text;
    here.dump(text);
    std::string const last = std::to_string(waiting) + " in flight\n";
    wrong += waiting == 0 ? text.str() != last : !text.str().ends_with("\n" + last);
  }

 private:
  template <class Operation>
  static task<> awaits(books& all, Operation operation) {
    ++all.waiting;
    (void)co_await iowq::as_result(std::move(operation));
    --all.waiting;
    ++all.ended;
  }
};

task<> nops(books& all, int n, int dump_every) {
  for (int i = 1; i <= n; ++i) {
    co_await all.await(iowq::raw([](io_uring_sqe& sqe) {
      sqe.opcode = IORING_OP_NOP;
      sqe.fd = -1;
    }));
    all.check(i % dump_every != 0);
  }
}
task<> failures(books& all, int n) {
  for (int i = 0; i < n; ++i) {
    co_await all.await(iowq::raw([](io_uring_sqe& sqe) {
      sqe.opcode = IORING_OP_READ;
      sqe.fd = -1;
    }));
    all.check(i % 7 != 0);
  }
}
task<> receives(books& all, int from, int n) {
  char byte;
  for (int i = 0; i < n; ++i) {
    co_await all.await(iowq::recv(from, iowq::mutable_bytes{&byte, 1}));
    all.check(i % 3 != 0);
  }
}
task<> sends(books& all, int to, int n) {
  for (int i = 0; i < n; ++i) {
    co_await all.await(iowq::send(to, "x"));
    all.check(i % 5 != 0);
  }
}
}  // namespace

TEST_SUITE("exec/fast_path") {
  TEST_CASE("at every moment dump names the waiting operations and stats counts the ended ones") {
    // Goal: lose or keep one that ended out of order, by an error, or never in its turn. Method:
    // ask each time one goes on; rings so small that their slots are wanted again at once.
    if (!iowq_test::rings_allowed()) SKIP_CASE("of the ring: there is none");
    iowq_test::leak_check no_leak;
    for (auto const& [entries, dumps] : {std::pair{1U, true},
                                         {4U, true},
                                         {64U, true},
                                         {256U, true},
                                         {4U, false},
                                         {64U, false},
                                         {256U, false}}) {
      CAPTURE(entries);
      CAPTURE(dumps);
      int pairs[8][2];
      for (auto& ends : pairs) REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
      books all;
      all.dumps = dumps;
      {
        iowq::executor here{{.entries = entries}};
        for (auto& ends : pairs) here.spawn(receives(all, ends[0], 40));
        for (int i = 0; i < 20; ++i) here.spawn(nops(all, 60, 1 + i));
        here.spawn(failures(all, 50));
        for (int i = 7; i >= 0; --i)
          here.spawn(sends(all, pairs[i][1], 40));  // the other way round
        here.run(nops(all, 1, 1));
        CHECK(here.stats().ring_ops == all.ended);
      }
      CHECK(all.ended == 8 * 40 * 2 + 20 * 60 + 50 + 1);
      CHECK(all.asked == all.ended);
      CHECK(all.wrong == 0);
      for (auto& ends : pairs) ::close(ends[0]), ::close(ends[1]);
    }
  }

  TEST_CASE("a stop finds those that were begun in the turn it comes in") {
    int pairs[32][2];
    for (auto& ends : pairs) REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    books all;
    auto const body = [](books& b, int(&ends)[32][2]) -> task<> {
      for (auto& pair : ends) iowq::executor::current().spawn(receives(b, pair[0], 1));
      co_await iowq::yield();
      iowq::executor::current().request_stop();
    };
    iowq::executor here;
    here.run(body(all, pairs));
    CHECK(all.ended == 32);
    CHECK(all.waiting == 0);
    CHECK(here.stats().ring_ops == 32);
    for (auto& ends : pairs) ::close(ends[0]), ::close(ends[1]);
  }
}
