// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/manager.hpp>

#include <atomic>
#include <chrono>
#include <thread>

#include <doctest/doctest.h>

#include "jobs.hpp"
#include "leak_check.hpp"
#include "scripted_policy.hpp"

namespace {
using namespace std::chrono_literals;
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;
using iowq_test::probing;
using iowq_test::quiet;
using iowq_test::script;
using scripted_pool = iowq::basic_pool<iowq_test::scripted_policy>;
using scripted_region = iowq::basic_blocking_region<iowq_test::scripted_policy>;

job::body behind(gate& closed) {
  return [&closed](const iowq::stop_token&) { (void)closed.wait(); };
}
}  // namespace

TEST_SUITE("pool/manager_sampler") {
  TEST_CASE("wq-24: as long as the kernel says R, however long, no worker is created") {
    script script;
    script.probe = probing::says_running;  // as it does of a thread that was preempted
    scripted_pool pool{{.max_workers = {4, 1}}};
    gate hold;
    job long_one{behind(hold)}, next;
    pool.enqueue(long_one);
    pool.enqueue(next);
    REQUIRE(eventually([&] { return script.looks > 20; }));
    CHECK(pool.stats().bound.workers == 1);
    CHECK(next.starts() == 0);
    script.probe = probing::real;
    CHECK(next.wait());  // and when it says S, one is
    CHECK(pool.stats().bound.workers == 2);
    hold.open();
    CHECK(long_one.wait());
  }

  TEST_CASE("wq-73: an item behind one that computes gets an idle worker, not a new one") {
    // On one processor one running worker is enough while items are short, so the enqueue wakes no
    // other. The manager has to see that the item waits.
    script script;
    script.probe = probing::says_running;
    iowq::cpu_set cpus = iowq::cpu_set::of_caller<iowq::detail::linux_policy>();
    iowq::cpu_set first;
    for (unsigned cpu = 0; first.empty(); ++cpu)
      if (cpus.contains(cpu)) first.add(cpu);
    for (bool const keyed : {false, true}) {
      CAPTURE(keyed);
      scripted_pool pool{{.max_workers = {3, 1}, .affinity = first, .spin = 0ns}};
      iowq_test::counter met;
      auto meet = [&](const iowq::stop_token&) {
        met.add();
        CHECK(met.wait_for(2));
      };
      job one{meet, {.concurrent = true}}, two{meet, {.concurrent = true}};
      pool.enqueue(one);
      pool.enqueue(two);
      REQUIRE(one.wait());
      REQUIRE(two.wait());
      REQUIRE(eventually([&] { return quiet(pool); }));
      std::atomic<bool> next_ran{false};
      bool in_time = false;
      job computes{[&](const iowq::stop_token&) {
                     in_time = iowq_test::within(10, [&] { return next_ran.load(); });
                   },
                   {}};
      job next{[&](const iowq::stop_token&) { next_ran = true; }};
      if (keyed) next.flags({.key = 1});
      pool.enqueue(computes);
      REQUIRE(computes.wait_started());
      pool.enqueue(next);
      CHECK(computes.wait());
      CHECK(next.wait());
      CHECK(in_time);
      CHECK(pool.stats().created == 2);
    }
  }

  TEST_CASE("only a worker whose progress counter stood still is looked at") {
    script script;
    script.probe = probing::says_sleeping;
    using policy = iowq_test::scripted_policy;
    iowq::detail::pool_state<policy> state;
    state.nodes = iowq::topology::of({iowq::cpu_set{}});
    auto& account = state.accounts[0];
    account.node_queues = decltype(account.node_queues)(1);
    account.max_workers = 4;
    iowq::detail::worker<policy> worker{state};
    account.reserve();
    account.add(worker);
    state.worker_started_looking(worker);
    worker.state = iowq::detail::worker_state::running;
    job one, two;
    iowq::detail::deferred_wakes<policy> todo;
    state.insert(iowq::detail::work_access::to_item(one), todo);
    state.insert(iowq::detail::work_access::to_item(two), todo);
    REQUIRE(state.take(worker) != nullptr);
    iowq::detail::worker_sampler<policy> watch{state};
    auto held = state.acquire();
    worker.enter(iowq::detail::phase::item);
    CHECK_FALSE(watch.sample(held));
    worker.enter(iowq::detail::phase::item);  // the next item, or a region
    CHECK_FALSE(watch.sample(held));
    CHECK(script.looks == 0);
    worker.enter(iowq::detail::phase::pool);
    CHECK_FALSE(watch.sample(held));
    CHECK_FALSE(watch.sample(held));  // it stands still, but in the pool: it waits for M
    CHECK(script.looks == 0);
    worker.enter(iowq::detail::phase::blocking_region);
    CHECK(watch.sample(held));  // it said that it may block
    CHECK(script.looks == 1);
    CHECK(account.sleeping == 1);
    CHECK(account.creating == 1);
    CHECK_FALSE(watch.sample(held));  // one is being created: that will do
    account.creating = 0;
    state.mark_running(worker);
    (void)state.end(worker, todo);
    REQUIRE(state.take(worker) != nullptr);
    (void)state.end(worker, todo);
    account.remove(worker);
  }

  TEST_CASE("wq-23: who sleeps a little in each of many items is worth another worker") {
    script script;
    using policy = iowq_test::scripted_policy;
    iowq::detail::pool_state<policy> state;
    state.nodes = iowq::topology::of({iowq::cpu_set{}});
    auto& account = state.accounts[0];
    account.node_queues = decltype(account.node_queues)(1);
    account.max_workers = 3;
    iowq::detail::worker<policy> worker{state};
    account.reserve();
    account.add(worker);
    state.worker_started_looking(worker);
    worker.state = iowq::detail::worker_state::running;
    jobs all;
    iowq::detail::deferred_wakes<policy> todo;
    for (int i = 0; i < 4; ++i) state.insert(iowq::detail::work_access::to_item(all.add()), todo);
    iowq::detail::worker_sampler<policy> watch{state};
    auto held = state.acquire();
    // One sample after the other; between them the worker has begun another item.
    auto sample_next = [&](probing says) {
      script.probe = says;
      if (worker.cur != nullptr) (void)state.end(worker, todo);
      REQUIRE(state.take(worker) != nullptr);
      worker.enter(iowq::detail::phase::item);
      return watch.sample(held);
    };
    CHECK_FALSE(sample_next(probing::says_sleeping));
    CHECK(script.looks == 0);  // items are short: nobody is worth a look
    account.slow_down();
    CHECK_FALSE(sample_next(probing::says_sleeping));  // once may be chance
    CHECK_FALSE(sample_next(probing::says_running));   // as of one that computes, or waits its turn
    CHECK(account.creating == 0);
    CHECK(account.sleeping == 0);
    REQUIRE(account.runnable == 1);
    for (int i = 0; i < 4; ++i) state.insert(iowq::detail::work_access::to_item(all.add()), todo);
    CHECK_FALSE(sample_next(probing::says_sleeping));
    CHECK(sample_next(probing::says_sleeping));
    CHECK(account.creating == 1);  // one more for the one that dozes
    CHECK(account.sleeping == 0);  // and it counts as awake, as it soon is
    CHECK(sample_next(probing::says_sleeping));
    CHECK(account.creating == 2);
    CHECK_FALSE(sample_next(probing::says_sleeping));  // the limit
    CHECK(account.creating == 2);
    account.creating = 0;
    while (worker.cur != nullptr) {
      (void)state.end(worker, todo);
      (void)state.take(worker);
    }
    account.remove(worker);
  }

  TEST_CASE("wq-29: without /proc a sleeper is still noticed") {
    script script;
    script.probe = probing::without_proc;
    scripted_pool pool{{.max_workers = {4, 1}}};
    gate hold;
    job blocked{behind(hold)}, next;
    pool.enqueue(blocked);
    pool.enqueue(next);
    CHECK(next.wait());
    CHECK(script.looks > 0);
    hold.open();
    CHECK(blocked.wait());
  }

  TEST_CASE("wq-29: without /proc a worker that computes is not taken for a sleeper") {
    iowq::detail::linux_policy::thread_probe probe{"/nowhere"};
    std::atomic<bool> over{false};
    std::atomic<int> id{0};
    std::jthread computes{[&] {
      id = iowq::detail::linux_policy::thread_id();
      while (!over) {
      }
    }};
    REQUIRE(eventually([&] { return id != 0; }));
    bool slept = false;
    for (int look = 0; look < 20; ++look) {
      slept |= probe.look(computes.native_handle(), id) == iowq::detail::thread_state::sleeping;
      std::this_thread::sleep_for(1ms);
    }
    CHECK_FALSE(slept);
    over = true;
  }

  TEST_CASE("the probe tells a thread that waits from one that computes, and from none") {
    iowq::detail::linux_policy::thread_probe probe;
    gate hold;
    std::atomic<bool> over{false};
    std::atomic<int> id{0};
    std::jthread other{[&] {
      id = iowq::detail::linux_policy::thread_id();
      (void)hold.wait();
      while (!over) {
      }
    }};
    REQUIRE(eventually([&] { return id != 0; }));
    CHECK(eventually([&] {
      return probe.look(other.native_handle(), id) == iowq::detail::thread_state::sleeping;
    }));
    hold.open();
    CHECK(eventually([&] {
      return probe.look(other.native_handle(), id) == iowq::detail::thread_state::running;
    }));
    over = true;
    other.join();
    CHECK(eventually([&] { return probe.look({}, id) == iowq::detail::thread_state::unknown; }));
  }

  TEST_CASE("wq-26: a region that ends undoes its mark, and the counts are exact") {
    script script;
    scripted_pool pool{{.max_workers = {4, 1}}};
    gate hold, rest;
    job one{[&](const iowq::stop_token&) {
      {
        scripted_region region;
        scripted_region nested;
        (void)hold.wait();
      }
      CHECK(pool.stats().bound.blocked == 0);
      (void)rest.wait();
    }};
    job next;
    pool.enqueue(one);
    pool.enqueue(next);
    REQUIRE(next.wait());  // so `one` was marked
    CHECK(pool.stats().bound.blocked == 1);
    CHECK(eventually([&] { return pool.stats().bound.running == 0; }));
    hold.open();
    CHECK(eventually([&] { return pool.stats().bound.running == 1; }));
    rest.open();
    CHECK(one.wait());
    CHECK(eventually([&] { return quiet(pool); }));
  }

  TEST_CASE("a region off a worker does nothing") {
    iowq::blocking_region region;
    CHECK(iowq::this_worker::wake_descriptor() == -1);
  }

  TEST_CASE("hazard-51: who slept once and now computes keeps another from being created") {
    script script;
    scripted_pool pool{{.max_workers = {8, 1}}};
    gate hold;
    std::atomic<bool> over{false};
    std::atomic<bool> computes{false};
    job one{[&](const iowq::stop_token&) {
      (void)hold.wait();  // no region: nothing tells the pool that this is over
      computes = true;
      while (!over) {
      }
    }};
    job second;
    pool.enqueue(one);
    pool.enqueue(second);
    REQUIRE(second.wait());
    REQUIRE(eventually([&] { return pool.stats().bound.idle == 1; }));
    hold.open();
    REQUIRE(eventually([&] { return computes.load(); }));
    CHECK(pool.stats().bound.blocked == 1);
    // Take the idle worker away with an item that blocks; now a third item would need a thread.
    gate busy;
    job blocks{behind(busy)}, third;
    pool.enqueue(blocks);
    REQUIRE(blocks.wait_started());
    pool.enqueue(third);
    int const looked = script.looks;  // from here on at `one`, again and again
    REQUIRE(eventually([&] { return script.looks > looked + 20; }));
    CHECK(third.starts() == 0);
    CHECK(pool.stats().created == 2);
    over = true;
    CHECK(third.wait());
    CHECK(one.wait());
    busy.open();
    CHECK(blocks.wait());
  }

  TEST_CASE("hazard-52: items that wait for items, to twice the depth of what runs at once") {
    iowq::pool pool{{.max_workers = {16, 1}}};
    jobs all;
    for (int depth = 0; depth < 12; ++depth)
      all.add([&, depth](const iowq::stop_token&) {
        if (depth == 11) return;
        job& inner = all[static_cast<std::size_t>(depth) + 1];
        pool.enqueue(inner);
        CHECK(inner.wait());
      });
    pool.enqueue(all[0]);
    CHECK(all.wait_all());
    CHECK(pool.stats().bound.peak_workers <= 13);
  }

  TEST_CASE("a worker that wakes between the look and the mark ends with exact counts") {
    // Goal: a mark on a worker that runs. Method: hold the manager between look and mark, open
    // the worker's gate meanwhile.
    script script;
    gate hold;
    std::atomic<bool> opened{false};
    script.at_pause = [&](iowq::detail::pause_point point) {
      if (point == iowq::detail::pause_point::sample_apply && !opened.exchange(true)) hold.open();
    };
    scripted_pool pool{{.max_workers = {4, 1}}};
    job one{behind(hold)}, two;
    pool.enqueue(one);
    pool.enqueue(two);
    CHECK(one.wait());
    CHECK(two.wait());
    CHECK(opened);
    CHECK(eventually([&] { return quiet(pool); }));
  }
}
