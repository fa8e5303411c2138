// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/pool.hpp>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "allocations.hpp"
#include "bounded.hpp"
#include "death.hpp"
#include "jobs.hpp"
#include "leak_check.hpp"
#include "pids_group.hpp"
#include "skip.hpp"

namespace {
using namespace std::chrono_literals;
using iowq_test::counter;
using iowq_test::demand;
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;
using iowq_test::quiet;

iowq::pool_options with_limits(unsigned bound, unsigned unbound) {
  return {.max_workers = {bound, unbound}};
}
/// Sleeps where the kernel sees it, until the gate opens.
job::body behind(gate& closed) {
  return [&closed](const iowq::stop_token&) { (void)closed.wait(); };
}
/// The size of the address space, in pages.
long mapped_pages() {
  long pages = 0;
  std::ifstream{"/proc/self/statm"} >> pages;
  return pages;
}
void spin_for(std::chrono::nanoseconds time) {
  auto const end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}
}  // namespace

TEST_SUITE("pool/pool") {
  TEST_CASE("wq-1: every item finishes exactly once, beside enqueues, cancels and new limits") {
    // Goal: lose an item, or finish one twice. Method: sixteen threads enqueue items of both
    // classes, with keys and without, one cancels at random, one changes the limits.
    iowq_test::leak_check books;
    constexpr int threads = 16, each = 500;
    jobs all;
    std::atomic<int> ran{0};
    std::mt19937 random{3};
    for (int i = 0; i < threads * each; ++i) {
      iowq::work_flags flags;
      flags.unbound = random() % 4 == 0;
      flags.concurrent = random() % 8 == 0;
      if (random() % 2 == 0) flags.key = random() % 20;
      all.add([&](const iowq::stop_token&) { ran.fetch_add(1); }, flags);
    }
    {
      iowq::pool pool{with_limits(8, 8)};
      std::atomic<bool> over{false};
      std::vector<std::jthread> enqueuers;
      for (int t = 0; t < threads; ++t)
        enqueuers.emplace_back([&, t] {
          for (int i = 0; i < each; ++i) pool.enqueue(all[static_cast<std::size_t>(t * each + i)]);
        });
      std::jthread canceller{[&] {
        std::mt19937 dice{5};
        while (!over) (void)pool.cancel(all[dice() % all.size()]);
      }};
      std::jthread resizer{[&] {
        for (unsigned n = 0; !over; ++n) (void)pool.set_max_workers({1 + n % 8, 1 + n % 5});
      }};
      for (auto& one : enqueuers) one.join();
      CHECK(all.wait_all());
      over = true;
      canceller.join();
      resizer.join();
      CHECK(eventually([&] { return quiet(pool); }));  // wq-26
      iowq::pool_stats const stats = pool.stats();
      CHECK(stats.completed + stats.cancelled == threads * each);
      CHECK(stats.completed == static_cast<std::uint64_t>(ran));
      CHECK(stats.keys == 0);
      CHECK(stats.bound.peak_workers <= 8);
    }
    int finishes = 0, wrong = 0;
    for (auto& one : all) {
      finishes += one->ends();
      wrong += one->starts() + one->cancellations() != 1;
    }
    CHECK(finishes == threads * each);
    CHECK(wrong == 0);
  }

  TEST_CASE("wq-2: unhashed items of one class start in the order enqueued, with one worker") {
    iowq::pool pool{with_limits(1, 1)};
    gate start;
    std::vector<int> order;
    jobs all;
    all.add(behind(start));
    for (int i = 0; i < 200; ++i)
      all.add([&order, i](const iowq::stop_token&) { order.push_back(i); });
    all.enqueue_all(pool);
    start.open();
    REQUIRE(all.wait_all());
    bool sorted = order.size() == 200;
    for (std::size_t i = 0; i < order.size(); ++i) sorted &= order[i] == static_cast<int>(i);
    CHECK(sorted);
  }

  TEST_CASE("wq-3, wq-4: workers never exceed the limit in a storm of creations") {
    // Goal: one worker too many. Method: sixteen threads enqueue items that want one each.
    iowq::pool pool{with_limits(5, 3)};
    std::atomic<int> now{0}, most{0};
    jobs all;
    for (int i = 0; i < 16 * 100; ++i)
      all.add(
          [&](const iowq::stop_token&) {
            int const inside = now.fetch_add(1) + 1;
            int seen = most.load();
            while (inside > seen && !most.compare_exchange_weak(seen, inside)) {
            }
            std::this_thread::sleep_for(50us);
            now.fetch_sub(1);
          },
          {.concurrent = true});
    unsigned sampled = 0;
    {
      std::vector<std::jthread> enqueuers;
      for (std::size_t t = 0; t < 16; ++t)
        enqueuers.emplace_back([&, t] {
          for (std::size_t i = t; i < all.size(); i += 16) pool.enqueue(all[i]);
        });
      for (int i = 0; i < 1000; ++i) sampled = std::max(sampled, pool.stats().bound.workers);
    }
    REQUIRE(all.wait_all());
    CHECK(sampled <= 5);
    CHECK(pool.stats().bound.peak_workers <= 5);
    CHECK(most <= 5);
  }

  TEST_CASE("wq-5: a full class does not delay the other") {
    for (bool const full_is_unbound : {false, true}) {
      iowq::pool pool{with_limits(2, 2)};
      gate hold;
      jobs filling;
      for (int i = 0; i < 10; ++i) filling.add(behind(hold), {.unbound = full_is_unbound});
      filling.enqueue_all(pool);
      job other{{}, {.unbound = !full_is_unbound}};
      pool.enqueue(other);
      CHECK(other.wait());
      hold.open();
      CHECK(filling.wait_all());
    }
  }

  TEST_CASE("wq-6: with D concurrent items in flight there are at most D + 1 workers") {
    constexpr int depth = 4, rounds = 200;
    jobs all;
    iowq::pool pool{with_limits(64, 1)};
    std::atomic<int> left{depth * rounds};
    for (int i = 0; i < depth; ++i) {
      job& one = all.add({}, {.concurrent = true});
      one.then = [&](job& again) {  // free before posted: the worker that calls this is idle
        if (left.fetch_sub(1) > depth) pool.enqueue(again);
      };
    }
    all.enqueue_all(pool);
    CHECK(eventually([&] { return left.load() <= 0; }));
    CHECK(eventually([&] { return quiet(pool); }));
    CHECK(pool.stats().bound.peak_workers <= depth + 1);
  }

  TEST_CASE("wq-7: the default limit of bound workers is four a processor of the affinity") {
    cpu_set_t own;
    REQUIRE(iowq::detail::linux_policy::affinity(own));
    iowq::pool pool;
    auto const processors = static_cast<unsigned>(CPU_COUNT(&own));
    CHECK(pool.stats().bound.max_workers == std::min(256u, 4 * processors));
    CHECK(pool.stats().unbound.max_workers >= 1);
    CHECK(pool.stats().unbound.max_workers <= 1024);
  }

  TEST_CASE("wq-8: setting a limit of 0 changes nothing and returns what is") {
    iowq::pool pool{with_limits(3, 4)};
    CHECK(pool.set_max_workers({}) == iowq::worker_limits{3, 4});
    CHECK(pool.set_max_workers({7, 0}) == iowq::worker_limits{3, 4});
    CHECK(pool.set_max_workers({0, 9}) == iowq::worker_limits{7, 4});
    CHECK(pool.set_max_workers({}) == iowq::worker_limits{7, 9});
  }

  TEST_CASE(
      "wq-9: set_max_workers() below the live count retires idle workers, running items finish") {
    // No worker times out: only the lowered limit can retire one.
    iowq::pool pool{{.max_workers = {6, 1}, .idle_timeout = 1h}};
    gate first, second;
    jobs all;
    for (int i = 0; i < 3; ++i) all.add(behind(first), {.concurrent = true});
    for (int i = 0; i < 3; ++i) all.add(behind(second), {.concurrent = true});
    all.enqueue_all(pool);
    for (auto& one : all) REQUIRE(one->wait_started());
    first.open();
    for (std::size_t i = 0; i < 3; ++i) REQUIRE(all[i].wait());
    CHECK(pool.set_max_workers({2, 0}).bound == 6);
    CHECK(eventually([&] { return pool.stats().bound.workers == 3; }));  // those that run
    CHECK(all[3].ends() == 0);
    second.open();
    CHECK(all.wait_all());
    CHECK(eventually([&] { return pool.stats().bound.workers == 2; }));
    CHECK(all[3].cancellations() == 0);
  }

  TEST_CASE("wq-10: a raised limit starts workers for the waiting items, without another enqueue") {
    iowq::pool pool{with_limits(1, 1)};
    gate hold;
    job blocked{behind(hold)}, waiting;
    pool.enqueue(blocked);
    REQUIRE(blocked.wait_started());
    pool.enqueue(waiting);
    (void)pool.set_max_workers({2, 0});
    CHECK(waiting.wait());
    hold.open();
    CHECK(blocked.wait());
  }

  TEST_CASE("wq-12: an item enqueued as the last idle worker leaves is not lost") {
    // Goal: strand an item between time-out and activation. Method: no time to idle at all, and
    // the last worker leaves as well.
    iowq_test::leak_check books;
    for (bool const exit_on_idle : {true, false}) {
      iowq::pool pool{{.max_workers = {3, 1}, .idle_timeout = 0ms, .exit_on_idle = exit_on_idle}};
      job a, b;
      for (int round = 1; round <= 2000; ++round) {
        pool.enqueue(a);
        pool.enqueue(b);
        REQUIRE(a.wait(round));
        REQUIRE(b.wait(round));
      }
    }
  }

  TEST_CASE("wq-11: a million items, in bursts, against workers that leave at once") {
    // Goal: an item that waits until somebody else comes. Method: bursts of any size, so that
    // workers leave, are woken and are made at each of its moments; each burst is waited for.
    iowq_test::leak_check books;
    iowq::pool pool{{.max_workers = {4, 1}, .idle_timeout = 0ms}};
    constexpr int enough = IOWQ_TSAN || IOWQ_ASAN ? 50'000 : 1'000'000;
    constexpr std::size_t most = 128;
    counter ended;
    struct light final : iowq::work {
      void execute(const iowq::stop_token&) noexcept override {}
      void finished(bool) noexcept override {
        if (left->fetch_sub(1) == 1) all->add();
      }
      std::atomic<int>* left = nullptr;
      counter* all = nullptr;
    };
    std::atomic<int> left{0};
    std::vector<light> items(most);
    for (light& one : items) one.left = &left, one.all = &ended;
    std::mt19937 dice{11};
    int bursts = 0;
    for (int enqueued = 0; enqueued < enough;) {
      auto const size = 1 + dice() % most;
      left = static_cast<int>(size);
      for (std::size_t i = 0; i < size; ++i) pool.enqueue(items[i]);
      REQUIRE(ended.wait_for(++bursts));
      enqueued += static_cast<int>(size);
    }
    CHECK(pool.stats().completed >= static_cast<std::uint64_t>(enough));
    CHECK(pool.stats().bound.peak_workers <= 4);
  }

  TEST_CASE("wq-14: idle workers leave when their time is up, one of each class remains") {
    iowq_test::leak_check books;
    iowq::pool pool{{.max_workers = {4, 4}, .idle_timeout = 1ms}};
    counter met;
    jobs all;
    for (int i = 0; i < 8; ++i)
      all.add(
          [&](const iowq::stop_token&) {
            met.add();
            (void)met.wait_for(8);
          },
          {.unbound = i % 2 == 0, .concurrent = true});
    all.enqueue_all(pool);
    REQUIRE(all.wait_all());
    CHECK(pool.stats().bound.peak_workers == 4);
    CHECK(eventually([&] { return pool.stats().bound.workers == 1; }));
    CHECK(eventually([&] { return pool.stats().unbound.workers == 1; }));
    CHECK(iowq_test::within(30, [] { return iowq_test::threads() <= 5; }));  // joined, too
  }

  TEST_CASE("wq-15: with exit_on_idle none remains") {
    iowq::pool pool{{.idle_timeout = 0ms, .exit_on_idle = true}};
    job one;
    pool.enqueue(one);
    REQUIRE(one.wait());
    CHECK(eventually([&] { return pool.stats().bound.workers == 0; }));
    pool.enqueue(one);
    CHECK(one.wait(2));
  }

  TEST_CASE("wq-21: enqueued items run while the owner computes") {
    iowq::pool pool{with_limits(4, 1)};
    gate hold;
    job blocked{behind(hold)}, next;
    pool.enqueue(blocked);
    pool.enqueue(next);
    auto const deadline = std::chrono::steady_clock::now() + iowq_test::patience;
    while (next.ends() == 0 && std::chrono::steady_clock::now() < deadline) spin_for(1ms);
    CHECK(next.ends() == 1);
    hold.open();
    CHECK(blocked.wait());
  }

  TEST_CASE("wq-22: items that compute create no second worker") {
    iowq::pool pool{with_limits(8, 1)};
    jobs all;
    for (int i = 0; i < 6; ++i) all.add([](const iowq::stop_token&) { spin_for(20ms); });
    all.enqueue_all(pool);
    REQUIRE(all.wait_all());
    CHECK(pool.stats().bound.peak_workers == 1);
  }

  TEST_CASE("wq-23: when the only running worker blocks, the next item starts") {
    iowq::pool pool{with_limits(8, 1)};
    gate hold;
    job blocked{behind(hold)}, next;  // no blocking_region: nobody has to annotate
    pool.enqueue(blocked);
    pool.enqueue(next);
    CHECK(next.wait());
    CHECK(pool.stats().bound.blocked == 1);
    hold.open();
    CHECK(blocked.wait());
    CHECK(eventually([&] { return quiet(pool); }));
  }

  TEST_CASE("wq-25: with N - 1 items blocked the next runs if the limit is N, else it waits") {
    for (unsigned const limit : {4u, 3u}) {
      iowq::pool pool{with_limits(limit, 1)};
      gate hold;
      jobs blocked;
      for (int i = 0; i < 3; ++i) blocked.add(behind(hold));
      blocked.enqueue_all(pool);
      for (auto& one : blocked) REQUIRE(one->wait_started());
      job next;
      pool.enqueue(next);
      if (limit == 4) {
        CHECK(next.wait());
      } else {
        CHECK(pool.stats().bound.queued == 1);
        CHECK(pool.stats().bound.workers == 3);
      }
      CHECK(blocked[0].ends() == 0);
      hold.open();
      CHECK(blocked.wait_all());
      CHECK(next.wait());
    }
  }

  TEST_CASE("wq-27: items that all share a busy key create no worker") {
    iowq::pool pool{with_limits(8, 8)};
    gate hold;
    jobs all;
    for (int i = 0; i < 50; ++i) all.add(behind(hold), {.key = 1, .concurrent = true});
    all.enqueue_all(pool);
    REQUIRE(all[0].wait_started());
    CHECK(pool.stats().bound.queued == 49);
    hold.open();
    CHECK(all.wait_all());
    CHECK(pool.stats().created == 1);
    CHECK(pool.stats().unparks == 0);
  }

  TEST_CASE("wq-30, wq-31: items of a key never overlap and run in order") {
    iowq::pool pool{{.max_workers = {8, 8}, .nodes = iowq::topology::of({{0}, {1}})}};
    constexpr std::size_t keys = 10, each = 300;
    struct node_queue {
      std::atomic<int> inside{0};
      std::vector<std::size_t> order;
    };
    std::vector<node_queue> node_queues(keys);
    std::atomic<int> overlaps{0};
    jobs all;
    for (std::size_t i = 0; i < keys * each; ++i)
      all.add(
          [&, i](const iowq::stop_token&) {
            node_queue& mine = node_queues[i % keys];
            if (mine.inside.fetch_add(1) != 0) overlaps.fetch_add(1);
            mine.order.push_back(i);
            if (i % 64 == 0) std::this_thread::sleep_for(20us);
            mine.inside.fetch_sub(1);
          },
          {.unbound = i % 3 == 0,
           .key = i % keys,
           .node = static_cast<int>(i % 2),
           .concurrent = i % 5 == 0});
    all.enqueue_all(pool);
    REQUIRE(all.wait_all());
    CHECK(overlaps == 0);
    for (node_queue& one : node_queues) {
      CHECK(one.order.size() == each);
      CHECK(std::is_sorted(one.order.begin(), one.order.end()));
    }
  }

  TEST_CASE("wq-33: different keys run in parallel") {
    iowq::pool pool{with_limits(4, 1)};
    counter met;
    jobs all;
    for (std::uint64_t key : {0u, 64u, 128u, 192u})
      all.add(
          [&](const iowq::stop_token&) {
            met.add();
            CHECK(met.wait_for(4));
          },
          {.key = key});
    all.enqueue_all(pool);
    CHECK(all.wait_all());
  }

  TEST_CASE("wq-34: a hundred thousand items of one key let another key through") {
    iowq::pool pool{with_limits(1, 1)};
    std::atomic<int> hot_done{0};
    jobs hot;
    for (int i = 0; i < 100'000; ++i)
      hot.add([&](const iowq::stop_token&) { hot_done.fetch_add(1); }, {.key = 1});
    gate start;
    job first{behind(start), {.key = 1}};
    int before_cold = -1;
    job cold{[&](const iowq::stop_token&) { before_cold = hot_done.load(); }, {.key = 2}};
    pool.enqueue(first);
    hot.enqueue_all(pool);
    pool.enqueue(cold);
    start.open();
    REQUIRE(cold.wait());
    CHECK(before_cold <=
          static_cast<int>(iowq::detail::pool_state<iowq::detail::linux_policy>::max_batch));
    CHECK(hot.wait_all());
    CHECK(first.wait());
  }

  TEST_CASE("wq-59, wq-61: nodes that are not there still get their work done") {
    iowq::pool pool{{.max_workers = {2, 2},
                     .nodes = iowq::topology::of({{0}, {}, {900}, {901}}),
                     .affinity = {}}};
    jobs all;
    for (int i = 0; i < 100; ++i) all.add({}, {.node = i % 6});
    all.enqueue_all(pool);
    CHECK(all.wait_all());
    CHECK(pool.stats().nodes == 4);
    CHECK(pool.stats().stolen > 0);
    CHECK(pool.stats().bound.peak_workers <= 2);  // wq-60: the limit is the pool's
  }

  TEST_CASE("wq-59: an item runs although the workers of another node are always busy") {
    iowq::pool pool{{.max_workers = {1, 1}, .nodes = iowq::topology::of({{0}, {1}})}};
    std::atomic<bool> over{false};
    jobs stream;
    for (int i = 0; i < 4; ++i)
      stream.add({}, {.node = 0}).then = [&](job& again) {
        if (!over) pool.enqueue(again);
      };
    job other{{}, {.node = 1}};
    stream.enqueue_all(pool);
    REQUIRE(stream[3].wait(2));  // the only worker belongs to node 0
    pool.enqueue(other);
    CHECK(other.wait());
    over = true;
    pool.quiesce();
    CHECK(iowq_test::quiet(pool));
  }

  TEST_CASE("workers keep to the processors they were given, and follow a change") {
    cpu_set_t own;
    REQUIRE(iowq::detail::linux_policy::affinity(own));
    unsigned first = 0;
    while (!CPU_ISSET(first, &own)) ++first;
    cpu_set_t seen;
    auto look = [&](const iowq::stop_token&) { iowq::detail::linux_policy::affinity(seen); };
    iowq::pool pool{{.nodes = iowq::topology::of({iowq::cpu_set{own}}), .affinity = {first}}};
    job one{look};
    pool.enqueue(one);
    REQUIRE(one.wait());
    CHECK(iowq::cpu_set{seen} == iowq::cpu_set{first});
    pool.set_affinity({});
    pool.enqueue(one);
    REQUIRE(one.wait(2));
    CHECK(iowq::cpu_set{seen} == iowq::cpu_set{own});
    pool.set_affinity({1000});  // nobody has it: a hint that cannot be followed
    pool.enqueue(one);
    CHECK(one.wait(3));
  }

  TEST_CASE("an item enqueues another, and itself, from finished()") {
    iowq::pool pool;
    job second;
    job first;
    int again = 3;
    first.then = [&](job& self) {
      if (--again > 0)
        pool.enqueue(self);
      else
        pool.enqueue(second);
    };
    pool.enqueue(first);
    CHECK(second.wait());
    CHECK(first.wait(3));
  }

  TEST_CASE("hazard-49: in a cgroup of few threads a pool does all by those that it gets") {
    // Goal: an item that fails, or waits for ever, because the next worker is not to be had.
    // Method: a manager and three workers at most, and items that all sleep and all ask for more.
    constexpr unsigned room = 4;
    for (bool const unbound : {false, true}) {
      iowq_test::pids_group group{1 + IOWQ_TSAN + static_cast<int>(room)};
      if (!group) SKIP_CASE(group.why_not());
      auto const end = iowq_test::death_output([&] {
        group.enter();
        iowq::pool pool;
        demand(pool.stats().unbound.max_workers == room,
               "no more are tried than there is room for");
        jobs all;
        auto const nap = [](const iowq::stop_token&) { std::this_thread::sleep_for(1ms); };
        for (int i = 0; i < 100; ++i) all.add(nap, {.unbound = unbound, .concurrent = i % 3 == 0});
        all.enqueue_all(pool);
        demand(all.wait_all(), "every item ends");
        for (auto& one : all) demand(one->cancellations() == 0, "none fails");
        auto const stats = pool.stats();
        demand(stats.bound.peak_workers + stats.unbound.peak_workers < room, "no more than can be");
      });
      CAPTURE(unbound);
      CAPTURE(end.text);
      CHECK(end.survived());
    }
  }

  TEST_CASE("wq-62: a pool ends with work queued, running and waiting for workers") {
    iowq_test::leak_check books;
    for (int round = 0; round < 200; ++round) {
      jobs all;
      std::atomic<int> ran{0};
      {
        iowq::pool pool{with_limits(2, 2)};
        for (int i = 0; i < 20; ++i) {
          iowq::work_flags flags{.unbound = i % 2 == 0, .concurrent = true};
          if (i % 3 == 0) flags.key = 1;
          all.add([&](const iowq::stop_token&) { ran.fetch_add(1); }, flags);
        }
        all.enqueue_all(pool);
        if (round % 4 == 1) spin_for(std::chrono::microseconds{round});
      }
      int once = 0, cancelled = 0;
      for (auto& one : all) {
        once += one->ends() == 1;
        cancelled += one->cancellations();
      }
      REQUIRE(once == 20);
      REQUIRE(cancelled + ran == 20);
    }
  }

  TEST_CASE("wq-62: the pool's end stops what runs") {
    job asked{[](const iowq::stop_token& stop) {
      pollfd wake{iowq::this_worker::wake_descriptor(), POLLIN, 0};
      while (!stop.stop_requested()) ::poll(&wake, 1, -1);
    }};
    {
      iowq::pool pool;
      pool.enqueue(asked);
      REQUIRE(asked.wait_started());
    }
    CHECK(asked.ends() == 1);
    CHECK(asked.cancellations() == 0);
  }

  TEST_CASE("wq-63: an item enqueued while the pool ends is cancelled and never runs") {
    jobs all;
    job late;
    {
      iowq::pool pool{with_limits(1, 1)};
      gate started;
      job& running = all.add([&](const iowq::stop_token& stop) {
        started.open();
        iowq_test::spin_until([&] { return stop.stop_requested(); });
      });
      running.then = [&](job&) { pool.enqueue(late); };
      pool.enqueue(running);
      REQUIRE(started.wait());
    }
    CHECK(late.starts() == 0);
    CHECK(late.ends() == 1);
    CHECK(late.cancellations() == 1);
    CHECK(late.error() == ECANCELED);
  }

  TEST_CASE("wq-64: the pool's end stops a chain before its next item") {
    jobs all;
    {
      iowq::pool pool{with_limits(1, 1)};
      gate started;
      for (int i = 0; i < 10; ++i)
        all.add(
            [&](const iowq::stop_token& stop) {
              started.open();
              iowq_test::spin_until([&] { return stop.stop_requested(); });
            },
            {.key = 1});
      all.enqueue_all(pool);
      REQUIRE(started.wait());
    }
    CHECK(all[0].starts() == 1);
    for (std::size_t i = 1; i < 10; ++i) {
      CHECK(all[i].starts() == 0);
      CHECK(all[i].cancellations() == 1);
    }
  }

  TEST_CASE("wq-65: a worker ends while its owner waits for it in the destructor") {
    iowq_test::leak_check books;
    for (int round = 0; round < 50; ++round) {
      iowq::pool pool{{.max_workers = {4, 4}, .idle_timeout = 0ms}};
      jobs all;
      for (int i = 0; i < 4; ++i) all.add({}, {.concurrent = true});
      all.enqueue_all(pool);
      REQUIRE(all.wait_all());
    }
  }

  TEST_CASE("wq-66: a child of fork() can destroy the pool, with work in every state") {
    auto* const pool = new iowq::pool{with_limits(2, 1)};
    gate hold;
    jobs all;
    for (int i = 0; i < 8; ++i) all.add(behind(hold), {.key = static_cast<unsigned>(i) % 4});
    all.enqueue_all(*pool);
    REQUIRE(all[0].wait_started());
    auto const end = iowq_test::death_output([&] { delete pool; });
    CHECK(end.survived());
    CHECK(end.text == "");
    hold.open();
    CHECK(all.wait_all());
    delete pool;
  }

  TEST_CASE("wq-67: ten thousand pools leave no descriptor, thread or memory behind") {
    iowq_test::leak_check books;
    job one;
    int const rounds = IOWQ_TSAN || IOWQ_ASAN ? 500 : 10'000;
    auto const heap = iowq_test::allocations::now();
    long const mapped = mapped_pages();
    for (int round = 1; round <= rounds; ++round) {
      iowq::pool pool;
      if (round % 16 == 0) {
        pool.enqueue(one);
        REQUIRE(one.wait(round / 16));
      }
    }
    auto const since = iowq_test::allocations::now() - heap;
    CHECK(since.made == since.freed);
    if (!IOWQ_TSAN && !IOWQ_ASAN) {
      CHECK(since.made >= rounds);
      // A stack that is not unmapped is 256 KiB, and there were two a round.
      CHECK(mapped_pages() - mapped < 64 << 8);
    }
  }

  TEST_CASE("a program that is executed inherits none of the pool's descriptors") {
    auto const inherited = [] {
      std::string names;
      FILE* const list = ::popen("exec ls /proc/self/fd", "re");
      if (list == nullptr) return names;
      for (int c; (c = std::fgetc(list)) != EOF;) names += static_cast<char>(c == '\n' ? ' ' : c);
      ::pclose(list);
      return names;
    };
    std::string const before = inherited();
    REQUIRE_FALSE(before.empty());
    iowq::pool pool{with_limits(4, 1)};
    gate hold;
    std::atomic<int> wake{-1};
    job opens{[&](const iowq::stop_token&) {
      wake = iowq::this_worker::wake_descriptor();
      (void)hold.wait();
    }};
    job waits;
    pool.enqueue(opens);
    REQUIRE(opens.wait_started());
    pool.enqueue(waits);  // the manager looks at the first worker, through /proc
    REQUIRE(waits.wait());
    CHECK(wake >= 0);
    CHECK(inherited() == before);
    hold.open();
    CHECK(opens.wait());
  }

  TEST_CASE("destroying a pool on its own worker is refused with a word") {
    auto const end = iowq_test::death_output([] {
      auto* const pool = new iowq::pool;
      job suicide{[&](const iowq::stop_token&) { delete pool; }};
      pool->enqueue(suicide);
      (void)suicide.wait();
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("destroyed on one of its own workers"));
  }

  TEST_CASE("enqueuing an item twice is refused with a word") {
    auto const end = iowq_test::death_output([] {
      iowq::pool pool{with_limits(1, 1)};
      gate hold;
      job first{behind(hold)}, second;
      pool.enqueue(first);
      pool.enqueue(second);
      pool.enqueue(second);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("enqueued twice"));
  }

  TEST_CASE(
      "wq-77: an item that enqueues itself from finished() at the pool's end needs no stack") {
    // Goal: one stack frame or more for each rejection. Method: many of them on this thread.
    constexpr int times = 1'000'000;
    std::optional<iowq::pool> pool;
    struct again final : iowq::work {
      void execute(const iowq::stop_token&) noexcept override {}
      void finished(bool cancelled) noexcept override {
        if (!cancelled) return;
        if (++rejected < times) into->enqueue(*this);
      }
      iowq::pool* into = nullptr;
      int rejected = 0;
    } item;
    job busy{[&](const iowq::stop_token& stop) {
      CHECK(eventually([&] { return stop.stop_requested(); }));
    }};
    pool.emplace(iowq::pool_options{.max_workers = {1, 1}});
    item.into = &*pool;
    pool->enqueue(busy);
    REQUIRE(busy.wait_started());
    pool->enqueue(item);
    pool.reset();
    CHECK(item.rejected == times);
  }
}
