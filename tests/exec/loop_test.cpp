// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/detail/loop.hpp>  // first and alone

#include <sys/eventfd.h>

#include <algorithm>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/raw.hpp>
#include <iowq/op/time.hpp>

#include "leak_check.hpp"
#include "skip.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;

/// What a turn may do before everything else has its turn: see loop.hpp.
constexpr long turn_budget = 256, reap_budget = 1024;

auto nop() {
  return iowq::raw([](io_uring_sqe& sqe) {
    sqe.opcode = IORING_OP_NOP;
    sqe.fd = -1;
  });
}

struct counts {
  long begun = 0, yields = 0, nops = 0;
  bool over = false;
};

task<> yield_always(counts& all) {
  ++all.begun;
  for (; !all.over; ++all.yields) co_await iowq::yield();
}
task<> nop_always(counts& all) {
  ++all.begun;
  for (; !all.over; ++all.nops) co_await nop();
}

/// The most of `count` that happened during one `await()`, of a hundred; beside so many others.
template <class Await>
task<long> most(long others, counts& all, long counts::* count, Await await) {
  co_await iowq_test::until([&] { return all.begun == others; });
  long worst = 0;
  for (int i = 0; i < 100; ++i) {
    long const before = all.*count;
    auto awaited = await();
    co_await awaited;
    worst = std::max(worst, all.*count - before);
  }
  all.over = true;
  co_return worst;
}
}  // namespace

// In turns, not in time: whatever the machine does, so much may happen and no more.
TEST_SUITE("exec/loop") {
  TEST_CASE("hazard-96: a thousand that yield keep a completion waiting for two turns at most") {
    if (!iowq_test::rings_allowed()) SKIP_CASE("of the ring: there is none");
    iowq_test::leak_check books;
    counts all;
    iowq::executor here;
    for (int i = 0; i < 1000; ++i) here.spawn(yield_always(all));
    iowq::fd const ready{::eventfd(1, EFD_CLOEXEC)};
    auto const look = [&ready] { return iowq::poll(ready, POLLIN); };
    long const yields = here.run(most(1000, all, &counts::yields, look));
    CHECK(yields > 0);  // they did yield meanwhile
    // Without a ring it is ready behind those that were.
    CHECK(yields <= (iowq_test::rings_allowed() ? 0 : 1000) + 2 * turn_budget);
  }

  TEST_CASE("hazard-96: nor do they keep a timer that is due waiting for longer than one another") {
    iowq_test::leak_check books;
    counts all;
    iowq::executor here;
    for (int i = 0; i < 1000; ++i) here.spawn(yield_always(all));
    long const timer =
        here.run(most(1000, all, &counts::yields, [] { return iowq::sleep_for(0s); }));
    CHECK(timer > 0);
    CHECK(timer <= 1000 + turn_budget);  // it is ready behind those that were, by a turn at most
  }

  TEST_CASE("hazard-96: a flood of completions keeps a yield waiting for one turn at most") {
    if (!iowq_test::rings_allowed()) SKIP_CASE("of the ring: there is none");
    iowq_test::leak_check books;
    counts all;
    iowq::executor here{{.entries = 4096}};
    for (int i = 0; i < 4000; ++i) here.spawn(nop_always(all));
    long const most_nops = here.run(most(4000, all, &counts::nops, [] { return iowq::yield(); }));
    CHECK(most_nops > 0);
    CHECK(most_nops <= reap_budget + turn_budget);
  }

  TEST_CASE("hazard-101: with 100,000 operations in flight a timer that is due waits a turn") {
    if (!iowq_test::rings_allowed()) SKIP_CASE("of the ring: there is none");
    iowq_test::leak_check books;
    counts all;
    iowq::executor here{{.entries = 4096}};
    for (int i = 0; i < 100'000; ++i) here.spawn(nop_always(all));
    long const most_nops =
        here.run(most(100'000, all, &counts::nops, [] { return iowq::sleep_for(0s); }));
    CHECK(most_nops > 0);
    CHECK(most_nops <= 2 * reap_budget);
  }
}
