// SPDX-License-Identifier: BSL-1.0
// Brief items, taken many at a time; chains of items, enqueued as one; idle workers that spin.
#include <iowq/pool/pool.hpp>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <doctest/doctest.h>

#include "jobs.hpp"
#include "scripted_policy.hpp"
#include "skip.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::cancel_outcome;
using iowq_test::counter;
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;
using iowq_test::quiet;
using iowq_test::script;
using scripted_pool = iowq::basic_pool<iowq_test::scripted_policy>;
constexpr iowq::work_flags brief{.brief = true};

/// One worker, held in an item until `go_on` opens: what is enqueued meanwhile waits.
struct held_pool {
  explicit held_pool(iowq::pool_options options = {.max_workers = {1, 1}}) {
    pool.emplace(options);
    pool->enqueue(busy);
    REQUIRE(busy.wait_started());
  }
  gate go_on;
  job busy{[this](const iowq::stop_token&) { (void)go_on.wait(); }};
  std::optional<iowq::pool> pool;
};
}  // namespace

TEST_SUITE("pool/brief") {
  TEST_CASE("wq-2: brief items of a batch run, and are finished, in the order enqueued") {
    held_pool held;
    std::vector<int> ran, ended;  // one worker: nobody else writes
    jobs all;
    for (int i = 0; i < 100; ++i) {
      // Others in between end a batch and keep their place.
      iowq::work_flags flags = i % 10 == 9 ? iowq::work_flags{} : brief;
      if (i % 25 == 24) flags = {.key = static_cast<std::uint64_t>(i), .brief = true};
      job& one = all.add([&ran, i](const iowq::stop_token&) { ran.push_back(i); }, flags);
      one.then = [&ended, i](job&) { ended.push_back(i); };
    }
    all.enqueue_all(*held.pool);
    held.go_on.open();
    REQUIRE(all.wait_all());
    for (int i = 0; i < 100; ++i) {
      CHECK(ran[static_cast<std::size_t>(i)] == i);
      CHECK(ended[static_cast<std::size_t>(i)] == i);
    }
    CHECK(held.busy.wait());
    CHECK(eventually([&] { return quiet(*held.pool); }));
    CHECK(held.pool->stats().completed == 101);
  }

  TEST_CASE("a batch is finished together, after its last item ran") {
    held_pool held;
    jobs all;
    int ran = 0;
    std::vector<int> ran_when_finished;
    for (int i = 0; i < 8; ++i) {
      job& one = all.add([&ran](const iowq::stop_token&) { ++ran; }, brief);
      one.then = [&](job&) { ran_when_finished.push_back(ran); };
    }
    all.enqueue_all(*held.pool);
    held.go_on.open();
    REQUIRE(all.wait_all());
    CHECK(ran_when_finished == std::vector<int>(8, 8));
  }

  TEST_CASE("wq-42, wq-43: cancelled inside a batch, an item runs, and its neighbours unstopped") {
    held_pool held;
    gate inside, go_on;
    std::atomic<int> stopped{0};
    jobs all;
    all.add(
        [&](const iowq::stop_token& stop) {
          inside.open();
          (void)go_on.wait();
          stopped += stop.stop_requested();
        },
        brief);
    for (int i = 0; i < 3; ++i)
      all.add([&](const iowq::stop_token& stop) { stopped += stop.stop_requested(); }, brief);
    all.enqueue_all(*held.pool);
    held.go_on.open();
    REQUIRE(inside.wait());
    CHECK(held.pool->cancel(all[0]) == cancel_outcome::running);
    CHECK(held.pool->cancel(all[2]) == cancel_outcome::running);
    CHECK(held.pool->cancel_all([](const iowq::work&) { return true; }) == cancel_outcome::running);
    go_on.open();
    REQUIRE(all.wait_all());
    CHECK(stopped == 0);
    for (auto& one : all) CHECK(one->cancellations() == 0);
  }

  TEST_CASE("wq-39: a brief item that no worker has taken is dequeued") {
    held_pool held;
    job one{{}, brief};
    held.pool->enqueue(one);
    CHECK(held.pool->cancel(one) == cancel_outcome::dequeued);
    CHECK(one.starts() == 0);
    held.go_on.open();
    CHECK(held.busy.wait());
  }

  TEST_CASE("wq-64: the pool's end stops before the next item of a batch") {
    gate inside;
    std::atomic<bool> ending{false};
    jobs all;
    held_pool held;
    all.add(
        [&](const iowq::stop_token&) {
          inside.open();
          CHECK(eventually([&] { return ending.load(); }));
        },
        brief);
    job last;  // cancelled when the pool ends: then it has begun
    last.then = [&](job&) { ending = true; };
    for (int i = 0; i < 5; ++i) all.add({}, brief);
    all.enqueue_all(*held.pool);
    held.pool->enqueue(last);
    held.go_on.open();
    REQUIRE(inside.wait());
    held.pool.reset();
    CHECK(all[0].starts() == 1);
    CHECK(all[0].cancellations() == 0);
    for (std::size_t i = 1; i < all.size(); ++i) {
      CHECK(all[i].starts() == 0);
      CHECK(all[i].cancellations() == 1);
      CHECK(all[i].error() == ECANCELED);
    }
  }

  TEST_CASE("a batch leaves to the others that run what is their share") {
    script script;
    script.probe = iowq_test::probing::says_running;
    scripted_pool pool{{.max_workers = {2, 1}, .affinity = {}}};
    gate go_on;
    jobs busy;
    for (int i = 0; i < 2; ++i)
      busy.add([&](const iowq::stop_token&) { (void)go_on.wait(); }, {.concurrent = true});
    busy.enqueue_all(pool);
    for (auto& one : busy) REQUIRE(one->wait_started());
    // Four wait, two run: neither may take more than two, so no item waits for three.
    jobs all;
    std::atomic<int> at_once{0};
    std::atomic<bool> met{false};
    for (int i = 0; i < 4; ++i)
      all.add(
          [&](const iowq::stop_token&) {
            if (++at_once == 2) met = true;
            // Whoever is first waits for another worker's, which a greedy one would never let be.
            (void)eventually([&] { return met.load(); });
          },
          brief);
    iowq::work_chain chain;
    for (auto& one : all) chain.push_back(*one);
    pool.enqueue(chain);
    go_on.open();
    CHECK(all.wait_all());
    CHECK(met);
    CHECK(busy.wait_all());
  }

  TEST_CASE("a chain is enqueued in order, in one step, and is empty afterwards") {
    held_pool held;
    std::vector<int> order;
    jobs all;
    iowq::work_chain chain;
    for (int i = 0; i < 50; ++i)
      chain.push_back(all.add([&order, i](const iowq::stop_token&) { order.push_back(i); }));
    CHECK(chain.size() == 50);
    held.pool->enqueue(chain);
    CHECK(chain.empty());
    CHECK(held.pool->stats().bound.queued == 50);
    held.go_on.open();
    REQUIRE(all.wait_all());
    for (int i = 0; i < 50; ++i) CHECK(order[static_cast<std::size_t>(i)] == i);
  }

  TEST_CASE("wq-5: a chain of both classes gets workers of both") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    jobs all;
    iowq::work_chain chain;
    for (int i = 0; i < 2; ++i)
      chain.push_back(
          all.add([&](const iowq::stop_token&) { (void)hold.wait(); }, {.unbound = i == 1}));
    pool.enqueue(chain);
    for (auto& one : all) CHECK(one->wait_started());
    hold.open();
    CHECK(all.wait_all());
  }

  TEST_CASE("wq-63: a chain enqueued while the pool ends is cancelled, item by item") {
    jobs late;
    std::atomic<int> turns{0};
    gate inside;
    std::optional<iowq::pool> pool{std::in_place, iowq::pool_options{.max_workers = {1, 1}}};
    iowq::pool& ending = *pool;
    job busy{[&](const iowq::stop_token& stop) {
      inside.open();
      CHECK(eventually([&] { return stop.stop_requested(); }));
      iowq::work_chain chain;
      for (int i = 0; i < 3; ++i) chain.push_back(late.add());
      ending.enqueue(chain);
      ++turns;
    }};
    pool->enqueue(busy);
    REQUIRE(inside.wait());
    pool.reset();
    CHECK(turns == 1);
    for (auto& one : late) {
      CHECK(one->cancellations() == 1);
      CHECK(one->starts() == 0);
    }
  }

  TEST_CASE("a worker that spins takes an item without being woken") {
    // Two processors in name: a spin needs one for the owner and one for itself.
    iowq::pool_options const options{.max_workers = {1, 1}, .affinity = {}, .spin = 20s};
    iowq::pool pool{options};
    if (iowq::cpu_set::of_caller<iowq::detail::linux_policy>().count() < 2)
      SKIP_CASE("there is one processor only");
    job one;
    pool.enqueue(one);
    REQUIRE(one.wait());
    REQUIRE(eventually([&] { return pool.stats().bound.idle == 1; }));
    auto const before = pool.stats().wakes;
    for (int round = 2; round < 50; ++round) {
      pool.enqueue(one);
      REQUIRE(one.wait(round));
      REQUIRE(eventually([&] { return pool.stats().bound.idle == 1; }));
    }
    CHECK(pool.stats().wakes == before);
  }

  TEST_CASE("without a spin each item for an idle worker is one wake") {
    iowq::pool pool{{.max_workers = {1, 1}, .spin = 0ns}};
    job one;
    pool.enqueue(one);
    REQUIRE(one.wait());
    for (int round = 2; round < 50; ++round) {
      REQUIRE(eventually([&] { return pool.stats().bound.idle == 1; }));
      auto const before = pool.stats().wakes;
      pool.enqueue(one);
      REQUIRE(one.wait(round));
      CHECK(pool.stats().wakes == before + 1);
    }
  }

  TEST_CASE("on one processor no worker spins") {
    iowq::pool pool{{.max_workers = {1, 1}, .affinity = {0}, .spin = 20s}};
    job one;
    for (int round = 1; round < 20; ++round) {
      REQUIRE(eventually([&] { return round == 1 || pool.stats().bound.idle == 1; }));
      pool.enqueue(one);
      REQUIRE(one.wait(round));  // had it spun, its 20 s would have kept the pool's end
    }
    CHECK(pool.stats().wakes >= 18);
  }

  TEST_CASE("the pool's end reaches a worker that spins") {
    for (int round = 0; round < 20; ++round) {
      iowq::pool pool{{.max_workers = {1, 1}, .spin = 60s}};
      job one;
      pool.enqueue(one);
      REQUIRE(one.wait());
    }
  }
}
