// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/quiesce.hpp>

#include <atomic>
#include <cerrno>
#include <optional>
#include <thread>

#include <doctest/doctest.h>

#include <iowq/pool/pool.hpp>

#include "jobs.hpp"

namespace {
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;
}  // namespace

TEST_SUITE("pool/quiesce") {
  TEST_CASE("quiesce returns at once where nothing is queued or runs") {
    iowq::pool pool;
    pool.quiesce();
    job one;
    pool.enqueue(one);
    REQUIRE(one.wait());
    pool.quiesce();
    CHECK(pool.stats().completed == 1);
  }

  TEST_CASE("quiesce waits for what is queued, for what runs, and for finished() to return") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    for (int round = 0; round < 20; ++round) {
      gate hold, in_finished, go_on;
      std::atomic<bool> over{false};
      jobs all;
      all.add([&](const iowq::stop_token&) { (void)hold.wait(); });
      all.add({}, {.unbound = true});
      job& last = all.add();
      last.then = [&](job&) {
        in_finished.open();
        (void)go_on.wait();
        over = true;
      };
      all.enqueue_all(pool);
      std::atomic<bool> was_over{false};
      std::jthread waits{[&] {
        pool.quiesce();
        was_over = over.load();
      }};
      hold.open();
      REQUIRE(in_finished.wait());
      go_on.open();
      waits.join();
      CHECK(was_over);
      REQUIRE(all.wait_all());
    }
  }

  TEST_CASE("wq-62: with drain_bounded the pool's end runs bound work and cancels the rest") {
    jobs bound, unbound;
    gate hold, started;
    std::optional<iowq::pool> pool;
    pool.emplace(iowq::pool_options{.max_workers = {1, 1}, .drain_bounded = true});
    bound.add([&](const iowq::stop_token&) {
      started.open();
      (void)hold.wait();
    });
    for (int i = 0; i < 10; ++i) bound.add({}, {.key = static_cast<std::uint64_t>(i % 3)});
    // The one unbound worker waits until it is stopped, so the others of its class never begin.
    unbound.add(
        [](const iowq::stop_token& stop) {
          CHECK(eventually([&] { return stop.stop_requested(); }));
        },
        {.unbound = true});
    for (int i = 0; i < 3; ++i) unbound.add({}, {.unbound = true});
    bound.enqueue_all(*pool);
    unbound.enqueue_all(*pool);
    REQUIRE(started.wait());
    REQUIRE(unbound[0].wait_started());
    std::jthread opens{[&] { hold.open(); }};
    pool.reset();
    for (auto& one : bound) {
      CHECK(one->starts() == 1);
      CHECK(one->cancellations() == 0);
    }
    for (std::size_t i = 1; i < unbound.size(); ++i) CHECK(unbound[i].cancellations() == 1);
  }

  TEST_CASE("wq-62: bound work behind an unbound item's key is drained when that was stopped") {
    std::optional<iowq::pool> pool;
    pool.emplace(iowq::pool_options{.max_workers = {1, 1}, .drain_bounded = true});
    job leader{[](const iowq::stop_token& stop) {
                 CHECK(eventually([&] { return stop.stop_requested(); }));
               },
               {.unbound = true, .key = 1}};
    job follower{{}, {.key = 1}};
    pool->enqueue(leader);
    REQUIRE(leader.wait_started());
    pool->enqueue(follower);
    pool.reset();
    CHECK(follower.starts() == 1);
    CHECK(follower.cancellations() == 0);
  }

  TEST_CASE("wq-63: while it drains, a pool takes nothing new") {
    job late, late_successor;
    late.iowq::work::then(late_successor);
    std::optional<iowq::pool> pool;
    iowq::pool& ending =
        pool.emplace(iowq::pool_options{.max_workers = {1, 1}, .drain_bounded = true});
    gate hold;
    job first{[&](const iowq::stop_token&) { (void)hold.wait(); }};
    // Queued bound work runs although the pool has begun to end; what it enqueues does not.
    job probe{{}, {.unbound = true}};
    job second{[&](const iowq::stop_token&) {
      for (int times = 1; probe.cancellations() == 0; ++times) {
        ending.enqueue(probe);
        CHECK(probe.wait(times));
      }
      ending.enqueue(late);
    }};
    pool->enqueue(first);
    pool->enqueue(second);
    REQUIRE(first.wait_started());
    std::jthread opens{[&] { hold.open(); }};
    pool.reset();
    CHECK(second.cancellations() == 0);
    CHECK(late.starts() == 0);
    CHECK(late.cancellations() == 1);
    CHECK(late.error() == ECANCELED);
    CHECK(late_successor.cancellations() == 1);
  }
}
