// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/cancellation.hpp>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/pool/pool.hpp>

#include "death.hpp"
#include "jobs.hpp"
#include "leak_check.hpp"

namespace {
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;

/// quiesce() on a thread of its own.
class quiescing {
 public:
  explicit quiescing(iowq::pool& pool)
      : thread_{[&pool, this] {
          id_ = iowq::detail::linux_policy::thread_id();
          pool.quiesce();
          returned_ = true;
        }} {}
  /// Returns when quiesce() has returned or sleeps between two looks.
  [[nodiscard]] bool waits_or_returned() {
    iowq::detail::linux_policy::thread_probe probe;
    return eventually([&] {
      return returned_ || (id_ != 0 && probe.look({}, id_) == iowq::detail::thread_state::sleeping);
    });
  }
  [[nodiscard]] bool returned() const { return returned_; }
  [[nodiscard]] bool returns_within(std::chrono::seconds limit) {
    return iowq_test::within(static_cast<int>(limit.count()), [this] { return returned(); });
  }
  void join() { thread_.join(); }

 private:
  std::atomic<int> id_{0};
  std::atomic<bool> returned_{false};
  std::jthread thread_;
};
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

  TEST_CASE("wq-71: quiesce waits for a finished() on a worker that leaves, or in cancel()") {
    enum class way { old_context, lower_limit, cancelled };
    for (way const how : {way::old_context, way::lower_limit, way::cancelled}) {
      CAPTURE(static_cast<int>(how));
      iowq::pool pool{{.max_workers = {2, 1}}};
      gate hold, in_finished, go_on;
      auto blocks = [&](const iowq::stop_token&) { (void)hold.wait(); };
      job first{blocks, {.concurrent = true}}, second{blocks, {.concurrent = true}}, third;
      job& watched = how == way::cancelled ? third : first;
      watched.then = [&](job&) {
        in_finished.open();
        (void)go_on.wait();
      };
      pool.enqueue(first);
      pool.enqueue(second);
      REQUIRE(first.wait_started());
      REQUIRE(second.wait_started());
      std::jthread canceller;
      switch (how) {
        case way::old_context:
          pool.context_changed();
          break;
        case way::lower_limit:
          (void)pool.set_max_workers({1, 0});
          break;
        case way::cancelled:
          pool.enqueue(third);
          canceller = std::jthread{[&] { (void)pool.cancel(third); }};
          break;
      }
      if (how != way::cancelled) hold.open();
      REQUIRE(in_finished.wait());
      if (how == way::cancelled) hold.open();
      REQUIRE(second.wait());
      quiescing quiesces{pool};
      CHECK(quiesces.waits_or_returned());
      CHECK_FALSE(quiesces.returned());
      go_on.open();
      quiesces.join();
      CHECK(watched.ends() == 1);
    }
  }

  TEST_CASE("wq-71: quiesce waits for no item that was accepted after the call") {
    iowq::pool pool{{.max_workers = {3, 1}}};
    gate hold_old, hold_new;
    job old{[&](const iowq::stop_token&) { (void)hold_old.wait(); }};
    job fresh{[&](const iowq::stop_token&) { (void)hold_new.wait(); }};
    pool.enqueue(old);
    REQUIRE(old.wait_started());
    quiescing quiesces{pool};
    REQUIRE(quiesces.waits_or_returned());
    CHECK_FALSE(quiesces.returned());
    pool.enqueue(fresh);
    REQUIRE(fresh.wait_started());
    quiescing later{pool};  // waits for both
    REQUIRE(later.waits_or_returned());
    hold_old.open();
    CHECK(quiesces.returns_within(std::chrono::seconds{10}));
    CHECK_FALSE(later.returned());
    hold_new.open();
    quiesces.join();
    later.join();
    CHECK(old.wait());
    CHECK(fresh.wait());
  }

  TEST_CASE("wq-71: more quiesce() at once than generations all return, in order") {
    iowq::pool pool{{.max_workers = {8, 1}}};
    std::vector<std::unique_ptr<gate>> holds;
    std::vector<std::unique_ptr<quiescing>> calls;
    jobs all;
    for (int i = 0; i < 7; ++i) {
      gate& hold = *holds.emplace_back(std::make_unique<gate>());
      pool.enqueue(
          all.add([&](const iowq::stop_token&) { (void)hold.wait(); }, {.concurrent = true}));
      REQUIRE(all[all.size() - 1].wait_started());
      REQUIRE(calls.emplace_back(std::make_unique<quiescing>(pool))->waits_or_returned());
    }
    for (std::size_t i = 0; i < calls.size(); ++i) {
      CHECK_FALSE(calls[i]->returned());
      holds[i]->open();
      // The first three began a generation each before a later item was accepted.
      if (i < 3) CHECK(calls[i]->returns_within(std::chrono::seconds{10}));
    }
    for (auto& call : calls) call->join();
    CHECK(all.wait_all());
  }

  TEST_CASE("wq-71: quiesce returns although items are enqueued all the time") {
    iowq::pool pool{{.max_workers = {2, 1}}};
    std::atomic<bool> over{false};
    jobs stream;
    for (int i = 0; i < 4; ++i)
      stream.add().then = [&](job& again) {
        if (!over) pool.enqueue(again);
      };
    stream.enqueue_all(pool);
    quiescing quiesces{pool};
    CHECK(quiesces.returns_within(std::chrono::seconds{10}));
    over = true;
    quiesces.join();
    pool.quiesce();
    CHECK(iowq_test::quiet(pool));
  }

  TEST_CASE("wq-71: quiesce on a worker of its pool is refused with the reason") {
    auto const end = iowq_test::death_output([] {
      iowq::pool pool;
      job one{[&](const iowq::stop_token&) { pool.quiesce(); }};
      pool.enqueue(one);
      (void)one.wait();
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("quiesce() was called on a worker of its pool"));
    CHECK(end.says("call it on another thread"));
    iowq::pool other;  // a worker of another pool may wait for this one
    iowq::pool pool;
    job one{[&](const iowq::stop_token&) { other.quiesce(); }};
    pool.enqueue(one);
    CHECK(one.wait());
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
    job key_head{[](const iowq::stop_token& stop) {
                   CHECK(eventually([&] { return stop.stop_requested(); }));
                 },
                 {.unbound = true, .key = 1}};
    job follower{{}, {.key = 1}};
    pool->enqueue(key_head);
    REQUIRE(key_head.wait_started());
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
