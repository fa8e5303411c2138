// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/worker_thread.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include <doctest/doctest.h>

#include "jobs.hpp"
#include "scripted_policy.hpp"

namespace {
using namespace std::chrono_literals;
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;
using iowq_test::quiet;
using iowq_test::script;
using scripted_pool = iowq::basic_pool<iowq_test::scripted_policy>;
}  // namespace

TEST_SUITE("pool/worker_thread") {
  TEST_CASE("an item is finished after its worker took the next, or went idle") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    unsigned idle = 0, running = 9;
    job one;
    one.then = [&](job&) {
      iowq::pool_stats const stats = pool.stats();
      idle = stats.bound.idle;
      running = stats.bound.running;
    };
    pool.enqueue(one);
    REQUIRE(one.wait());
    CHECK(idle == 1);
    CHECK(running == 0);
    CHECK(pool.stats().completed == 1);
  }

  TEST_CASE("wq-12, hazard-47: activated between going idle and falling asleep, a worker wakes") {
    script script;
    std::atomic<scripted_pool*> pool{nullptr};
    jobs all;
    std::atomic<int> enqueued{0};
    for (int i = 0; i < 100; ++i) all.add();
    script.at_pause = [&](iowq::detail::pause_point point) {
      if (point != iowq::detail::pause_point::idle_wait || pool.load() == nullptr) return;
      int const next = enqueued.fetch_add(1);
      if (next < 100) pool.load()->enqueue(all[static_cast<std::size_t>(next)]);
    };
    std::optional<scripted_pool> made;
    job first;
    made.emplace(iowq::pool_options{.max_workers = {1, 1}, .idle_timeout = 0ms});
    REQUIRE(eventually([&] { return made->stats().bound.idle == 1; }));
    pool = &*made;
    made->enqueue(first);
    CHECK(first.wait());
    CHECK(all.wait_all());
    CHECK(eventually([&] { return quiet(*made); }));
    pool = nullptr;
    made.reset();
  }

  TEST_CASE("wq-75: a long idle_timeout keeps idle workers, a short one keeps the last only") {
    using std::chrono::milliseconds;
    auto const with_two_workers = [](milliseconds timeout, int rounds, auto check) {
      iowq::pool pool{{.max_workers = {2, 1}, .idle_timeout = timeout, .spin = 0ns}};
      for (int round = 0; round < rounds; ++round) {
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
        check(pool);
      }
    };
    for (milliseconds const timeout :
         {milliseconds::max(), milliseconds::max() - 1ms, milliseconds{INT64_MAX / 1'000'000},
          milliseconds{INT64_MAX / 1'000'000 + 1}, milliseconds{std::chrono::hours{24 * 365 * 300}},
          milliseconds{std::chrono::hours{1}}}) {
      CAPTURE(timeout.count());
      with_two_workers(timeout, 100, [](iowq::pool& pool) {
        CHECK(pool.stats().created == 2);
        CHECK(pool.stats().retired == 0);
      });
    }
    for (milliseconds const timeout : {1ms, 0ms, -1ms, milliseconds::min()}) {
      CAPTURE(timeout.count());
      with_two_workers(timeout, 3, [](iowq::pool& pool) {
        CHECK(eventually([&] { return pool.stats().bound.workers == 1; }));
      });
    }
  }

  TEST_CASE("wq-42: cancelled between take and execute, an item is running and starts stopped") {
    script script;
    gate taken, go_on;
    std::atomic<bool> hold{true};
    script.at_pause = [&](iowq::detail::pause_point point) {
      if (point != iowq::detail::pause_point::pop_execute || !hold.exchange(false)) return;
      taken.open();
      (void)go_on.wait();
    };
    scripted_pool pool;
    bool stopped = false;
    job one{[&](const iowq::stop_token& stop) { stopped = stop.stop_requested(); }};
    pool.enqueue(one);
    REQUIRE(taken.wait());
    CHECK(pool.cancel(one) == iowq::cancel_outcome::running);
    go_on.open();
    REQUIRE(one.wait());
    CHECK(stopped);
  }

  TEST_CASE("wq-42: cancelled between execute and its end, an item is running still") {
    script script;
    gate executed, go_on;
    std::atomic<bool> hold{true};
    script.at_pause = [&](iowq::detail::pause_point point) {
      if (point != iowq::detail::pause_point::execute_finish || !hold.exchange(false)) return;
      executed.open();
      (void)go_on.wait();
    };
    scripted_pool pool;
    job one;
    bool clean = false;
    job next{[&](const iowq::stop_token& stop) { clean = !stop.stop_requested(); }};
    pool.enqueue(one);
    REQUIRE(executed.wait());
    CHECK(pool.cancel(one) == iowq::cancel_outcome::running);
    go_on.open();
    REQUIRE(one.wait());
    pool.enqueue(next);
    REQUIRE(next.wait());
    CHECK(clean);
  }
}
