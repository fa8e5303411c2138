// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/stats.hpp>

#include <sstream>
#include <string>

#include <doctest/doctest.h>

#include "jobs.hpp"

namespace {
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;

job::body behind(gate& closed) {
  return [&closed](const iowq::stop_token&) { (void)closed.wait(); };
}
std::string dumped(const iowq::pool& pool) {
  std::ostringstream text;
  pool.dump(text);
  return text.str();
}
}  // namespace

TEST_SUITE("pool/stats") {
  TEST_CASE("the counts tell where everything is") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    jobs all;
    for (unsigned i = 0; i < 5; ++i) all.add(behind(hold), {.key = i / 2});
    all.enqueue_all(pool);
    REQUIRE(all[0].wait_started());
    iowq::pool_stats stats = pool.stats();
    CHECK(stats.bound.queued == 4);
    CHECK(stats.bound.running == 1);
    CHECK(stats.bound.workers == 1);
    CHECK(stats.bound.max_workers == 1);
    CHECK(stats.bound.idle == 0);
    CHECK(stats.unbound.workers == 0);
    CHECK(stats.keys == 3);
    CHECK(stats.nodes >= 1);
    CHECK(pool.cancel(all[4]) == iowq::cancel_outcome::dequeued);
    hold.open();
    REQUIRE(all.wait_all());
    REQUIRE(eventually([&] { return iowq_test::quiet(pool); }));
    stats = pool.stats();
    CHECK(stats.completed == 4);
    CHECK(stats.cancelled == 1);
    CHECK(stats.keys == 0);
    CHECK(stats.created == 1);
    CHECK(stats.retired == 0);
    CHECK(stats.wakes <= 1);
    CHECK(stats.kicks == 0);
    CHECK(stats.bound.peak_workers == 1);
  }

  TEST_CASE("hazard-106: a dump names the worker that is stuck, on what, and what waits for it") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    std::string worker;
    job stuck{[&](const iowq::stop_token&) {
                worker = std::to_string(iowq::detail::linux_policy::thread_id());
                (void)hold.wait();
              },
              {.key = 77, .node = 0}};
    job behind_it{{}, {.key = 77, .node = 0}}, other{{}, {.key = 78, .node = 0}};
    pool.enqueue(stuck);
    REQUIRE(stuck.wait_started());
    pool.enqueue(behind_it);
    pool.enqueue(other);
    REQUIRE(eventually([&] { return !dumped(pool).empty(); }));
    (void)pool.cancel(stuck);
    std::string const text = dumped(pool);
    INFO(text);
    CHECK(text.find("bound: 1 of 1 workers") != std::string::npos);
    CHECK(text.find("2 queued") != std::string::npos);
    CHECK(text.find("key 77") != std::string::npos);
    CHECK(text.find("asked to stop") != std::string::npos);
    CHECK(text.find("ready on node 0: work") != std::string::npos);
    CHECK(text.find("key 78") != std::string::npos);
    hold.open();
    CHECK(stuck.wait());
    CHECK(behind_it.wait());
    CHECK(other.wait());
    CHECK(text.find("worker " + worker + " node 0") != std::string::npos);
  }

  TEST_CASE("a dump of a long queue stays short") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    jobs all;
    for (int i = 0; i < 1000; ++i) all.add(behind(hold));
    all.enqueue_all(pool);
    REQUIRE(all[0].wait_started());
    CHECK(dumped(pool).find("999 in all") != std::string::npos);
    CHECK(dumped(pool).size() < 8000);
    hold.open();
    CHECK(all.wait_all());
  }
}
