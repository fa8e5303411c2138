// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/account.hpp>

#include <chrono>

#include <doctest/doctest.h>

namespace {
using iowq::detail::account_counts;
using iowq::detail::creation_is_stale;
using iowq::detail::may_time_out;
using iowq::detail::must_leave;
using iowq::detail::needs_watch;
using iowq::detail::next_step;
using iowq::detail::step;

// The decisions are constexpr: what can be said of them at all can be said here.
static_assert(next_step({}, true) == step::none);
static_assert(!needs_watch({}));
}  // namespace

TEST_SUITE("pool/account_decisions") {
  TEST_CASE("an idle worker is woken before anything else is thought of") {
    account_counts const counts{
        .runnable = 1, .live = 3, .idle = 1, .nr_running = 2, .max_workers = 3};
    CHECK(next_step(counts, false) == step::wake);
    CHECK(next_step(counts, true) == step::wake);
  }

  TEST_CASE("while items are short, an idle worker is woken only for a processor that is free") {
    using namespace std::chrono_literals;
    account_counts counts{
        .runnable = 5, .live = 4, .idle = 2, .nr_running = 2, .max_workers = 4, .processors = 2};
    CHECK(next_step(counts, false) == step::watch);
    CHECK(needs_watch(counts));  // should those two sleep, there are others
    CHECK(next_step(counts, true) == step::wake);
    counts.processors = 3;
    CHECK(next_step(counts, false) == step::wake);
    counts.processors = 2;
    counts.slow_down();  // one was seen asleep: now each is worth a thread
    CHECK(next_step(counts, false) == step::wake);
    for (int i = 0; i < 16; ++i) counts.measured(1us);
    CHECK(next_step(counts, false) == step::watch);
    counts.measured(1s);  // that one lost its processor
    for (int i = 0; i < 16; ++i) {
      counts.measured(1us);
      CHECK(next_step(counts, false) == step::watch);
    }
    for (int i = 0; i < 16; ++i) counts.measured(1s);
    CHECK(next_step(counts, false) == step::wake);
  }

  TEST_CASE("wq-22: while one worker is awake, the next is only watched for") {
    account_counts const counts{.runnable = 5, .live = 1, .nr_running = 1, .max_workers = 8};
    CHECK(next_step(counts, false) == step::watch);
    CHECK(needs_watch(counts));
  }

  TEST_CASE("wq-23: when all that run sleep, one is created, and one only") {
    account_counts counts{.runnable = 5, .live = 2, .sleeping = 2, .max_workers = 8};
    CHECK(next_step(counts, false) == step::create);
    counts.creating = 1;
    CHECK(next_step(counts, false) == step::watch);
  }

  TEST_CASE("wq-4: nothing is created beyond the limit, creations included") {
    account_counts const counts{
        .runnable = 9, .live = 2, .sleeping = 2, .creating = 1, .max_workers = 3};
    CHECK(next_step(counts, true) == step::none);
    CHECK_FALSE(needs_watch(counts));
  }

  TEST_CASE("wq-6: concurrent items get a worker each, never more than there are items") {
    account_counts counts{
        .runnable = 2, .concurrent = 2, .live = 1, .nr_running = 1, .max_workers = 8};
    CHECK(next_step(counts, true) == step::create);
    counts.creating = 2;
    CHECK(next_step(counts, true) == step::watch);
  }

  TEST_CASE("what a waking worker will take asks for nothing more") {
    account_counts counts{
        .runnable = 1, .live = 3, .idle = 2, .nr_running = 1, .waking = 1, .max_workers = 8};
    CHECK(next_step(counts, true) == step::none);
    counts.runnable = 2;
    CHECK(next_step(counts, true) == step::wake);
    counts.live = 1;
    counts.idle = 0;
    CHECK(next_step(counts, true) == step::create);
    CHECK(needs_watch(counts));
    counts.creating = 1;
    CHECK(next_step(counts, true) == step::watch);
    counts.runnable = 1;
    CHECK_FALSE(needs_watch(counts));
    CHECK(creation_is_stale(counts));
  }

  TEST_CASE("wq-27: items behind a busy key are not runnable, so they ask for nothing") {
    account_counts const counts{.queued = 100, .live = 1, .sleeping = 1, .max_workers = 8};
    CHECK(next_step(counts, false) == step::none);
    CHECK_FALSE(needs_watch(counts));
  }

  TEST_CASE("a reservation is given back when an idle worker appeared or the work is gone") {
    CHECK(creation_is_stale({.runnable = 1, .live = 1, .idle = 1}));
    CHECK(creation_is_stale({.live = 1, .nr_running = 1}));
    CHECK_FALSE(creation_is_stale({.runnable = 1, .live = 1, .sleeping = 1}));
    CHECK_FALSE(creation_is_stale({.creating = 1, .max_workers = 1}));  // the first of all
  }

  TEST_CASE("wq-14, wq-15: the last of a class stays, unless told otherwise") {
    CHECK_FALSE(may_time_out({.live = 1, .idle = 1}, false));
    CHECK(may_time_out({.live = 1, .idle = 1}, true));
    CHECK(may_time_out({.live = 2, .idle = 2}, false));
  }

  TEST_CASE("a worker leaves at the pool's end, with an old context, or above the limit") {
    account_counts const fits{.live = 2, .max_workers = 2};
    CHECK_FALSE(must_leave(fits, false, false));
    CHECK(must_leave(fits, true, false));
    CHECK(must_leave(fits, false, true));
    CHECK(must_leave({.live = 3, .max_workers = 2}, false, false));
  }
}
