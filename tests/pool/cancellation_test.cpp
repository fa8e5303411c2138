// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/cancellation.hpp>

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/base/fd.hpp>

#include "bounded.hpp"
#include "death.hpp"
#include "jobs.hpp"
#include "leak_check.hpp"
#include "scripted_policy.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::cancel_outcome;
using iowq_test::counter;
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;

job::body behind(gate& closed) {
  return [&closed](const iowq::stop_token&) { (void)closed.wait(); };
}
/// What an operation that may wait for the world does: token, poll with the wake descriptor.
void wait_until_stopped(const iowq::stop_token& stop) {
  pollfd wake{iowq::this_worker::wake_descriptor(), POLLIN, 0};
  while (!stop.stop_requested()) (void)::poll(&wake, 1, -1);
}
bool is_running(job& one) { return one.starts() > one.ends(); }

using scripted_pool = iowq::basic_pool<iowq_test::scripted_policy>;

/// An item whose canceller stops at held_stop, and whose worker waits for that canceller.
class held_worker {
 public:
  held_worker() {
    script_.at_pause = [this](iowq::detail::pause_point point) {
      if (point != iowq::detail::pause_point::held_stop || at_stop_.exchange(true)) return;
      holding_.open();
      (void)let_go_.wait();
    };
  }
  /// Enqueues the item, cancels it by `cancel` on another thread, and returns when the canceller
  /// holds the worker and the worker sleeps.
  template <class Cancel>
  [[nodiscard]] bool hold(scripted_pool& pool, Cancel cancel) {
    pool.enqueue(item);
    if (!item.wait_started()) return false;
    canceller_ = std::jthread{[&pool, cancel, this] { cancel(pool, item); }};
    if (!holding_.wait()) return false;
    end_.open();
    iowq::detail::linux_policy::thread_probe probe;
    return eventually(
        [&] { return probe.look({}, thread_) == iowq::detail::thread_state::sleeping && ended_; });
  }
  void release() {
    let_go_.open();
    canceller_.join();
  }

  job item{[this](const iowq::stop_token&) {
    thread_ = iowq::detail::linux_policy::thread_id();
    (void)end_.wait();
    ended_ = true;
  }};

 private:
  iowq_test::script script_;
  gate holding_, let_go_, end_;
  std::atomic<bool> at_stop_{false}, ended_{false};
  std::atomic<int> thread_{0};
  std::jthread canceller_;
};
/// A pool in memory that shows whether anything wrote to it after the pool's end.
template <class Pool>
class watched_pool {
 public:
  explicit watched_pool(iowq::pool_options options) { new (memory_) Pool{std::move(options)}; }
  watched_pool(const watched_pool&) = delete;
  watched_pool& operator=(const watched_pool&) = delete;
  [[nodiscard]] Pool& operator*() { return *reinterpret_cast<Pool*>(memory_); }
  void destroy() {
    (**this).~Pool();
    std::fill(std::begin(memory_), std::end(memory_), filling);
  }
  [[nodiscard]] bool is_untouched() const {
    return std::all_of(std::begin(memory_), std::end(memory_),
                       [](unsigned char one) { return one == filling; });
  }

 private:
  static constexpr unsigned char filling = 0xa5;
  alignas(Pool) unsigned char memory_[sizeof(Pool)];
};
void check_exact(const iowq::class_stats& stats) {
  CHECK(std::uint64_t{stats.idle} + stats.running + stats.blocked == stats.workers);
}
}  // namespace

TEST_SUITE("pool/cancellation") {
  TEST_CASE("wq-39: a queued item is dequeued and its body never runs") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    job running{behind(hold)}, queued;
    pool.enqueue(running);
    pool.enqueue(queued);
    REQUIRE(running.wait_started());
    CHECK(pool.cancel(queued) == cancel_outcome::dequeued);
    CHECK(queued.ends() == 1);  // within cancel()
    CHECK(queued.cancellations() == 1);
    CHECK(queued.error() == ECANCELED);
    CHECK(queued.starts() == 0);
    hold.open();
    CHECK(running.wait());
  }

  TEST_CASE("wq-40: a running wait that polls the wake descriptor ends") {
    iowq::pool pool;
    job waits{wait_until_stopped};
    for (int round = 1; round <= 200; ++round) {
      pool.enqueue(waits);
      REQUIRE(waits.wait_started(round));
      REQUIRE(pool.cancel(waits) == cancel_outcome::running);
      REQUIRE(waits.wait(round));
    }
    CHECK(waits.cancellations() == 0);  // it ran
    CHECK(waits.error() == 0);
  }

  TEST_CASE("wq-40: a descriptor first asked for after the cancellation is readable") {
    iowq::pool pool;
    gate started, cancelled;
    short seen = 0;
    job one{[&](const iowq::stop_token& stop) {
      started.open();
      (void)cancelled.wait();
      CHECK(stop.stop_requested());
      pollfd wake{iowq::this_worker::wake_descriptor(), POLLIN, 0};
      (void)::poll(&wake, 1, 0);
      seen = wake.revents;
    }};
    pool.enqueue(one);
    REQUIRE(started.wait());
    CHECK(pool.cancel(one) == cancel_outcome::running);
    cancelled.open();
    REQUIRE(one.wait());
    CHECK(seen == POLLIN);
  }

  TEST_CASE("wq-41: what never was here, or has ended, is not found") {
    iowq::pool pool;
    job stranger, done;
    CHECK(pool.cancel(stranger) == cancel_outcome::not_found);
    pool.enqueue(done);
    REQUIRE(done.wait());
    CHECK(pool.cancel(done) == cancel_outcome::not_found);
    CHECK(pool.cancel_all([](const iowq::work&) { return true; }) == cancel_outcome::not_found);
  }

  TEST_CASE("wq-42: an unfinished item is always found") {
    // Goal: catch an item between the queue and its worker. Method: cancel it as it is taken.
    iowq::pool pool{{.max_workers = {2, 1}}};
    int dequeued = 0, running = 0;
    job one;
    std::atomic<bool> cancelled{false};
    for (int round = 1; round <= 3000; ++round) {
      cancelled = false;
      pool.enqueue(one);
      int const ends_before = one.ends();
      cancel_outcome const outcome = pool.cancel(one);
      if (outcome == cancel_outcome::not_found)
        REQUIRE(one.wait(round));  // it had ended: finished() is called or about to be
      else
        ++(outcome == cancel_outcome::dequeued ? dequeued : running);
      if (outcome == cancel_outcome::dequeued) REQUIRE(one.ends() == round);
      REQUIRE(ends_before <= round);
      REQUIRE(one.wait(round));
    }
    CHECK(one.starts() + one.cancellations() == 3000);
    CHECK(one.cancellations() == dequeued);
  }

  TEST_CASE("wq-43: a cancellation aimed at one item never reaches the next on its worker") {
    // Goal: stop the neighbour. Method: one worker; a cancels as often as it can, b looks.
    iowq::pool pool{{.max_workers = {1, 1}}};
    std::atomic<int> stopped{0}, readable{0};
    job victim;
    job neighbour{[&](const iowq::stop_token& stop) {
      pollfd wake{iowq::this_worker::wake_descriptor(), POLLIN, 0};
      if (::poll(&wake, 1, 0) != 0) readable.fetch_add(1);
      if (stop.stop_requested()) stopped.fetch_add(1);
    }};
    std::atomic<bool> over{false};
    std::jthread canceller{[&] {
      while (!over) (void)pool.cancel(victim);
    }};
    for (int round = 1; round <= 3000; ++round) {
      pool.enqueue(victim);
      pool.enqueue(neighbour);
      REQUIRE(victim.wait(round));
      REQUIRE(neighbour.wait(round));
    }
    over = true;
    canceller.join();
    CHECK(stopped == 0);
    CHECK(readable == 0);
    CHECK(neighbour.cancellations() == 0);
  }

  TEST_CASE("wq-43: a ring that comes after its item ended does not reach the next") {
    // Goal: ring for one, and have the next hear it. Method: hold the canceller between token
    // and ring until the next has started, which it must not, or for a time in which it could.
    iowq_test::script script;
    gate has_descriptor, next_started;
    std::atomic<int> rings{0};
    script.at_ring = [&] {
      rings.fetch_add(1);
      (void)next_started.wait_at_most(50ms);
    };
    iowq::basic_pool<iowq_test::scripted_policy> pool{{.max_workers = {1, 1}}};
    auto descriptor = [] {
      return iowq::detail::worker<iowq_test::scripted_policy>::current()->wake_descriptor();
    };
    job victim{[&](const iowq::stop_token& stop) {
      (void)descriptor();
      has_descriptor.open();
      iowq_test::spin_until([&] { return stop.stop_requested(); });
    }};
    int readable = -1;
    bool stopped = true;
    job next{[&](const iowq::stop_token& stop) {
      next_started.open();
      pollfd wake{descriptor(), POLLIN, 0};
      readable = ::poll(&wake, 1, 100);
      stopped = stop.stop_requested();
    }};
    pool.enqueue(victim);
    pool.enqueue(next);
    REQUIRE(has_descriptor.wait());
    CHECK(pool.cancel(victim) == cancel_outcome::running);
    CHECK(victim.wait());
    REQUIRE(next.wait());
    CHECK(rings == 1);
    CHECK(readable == 0);
    CHECK_FALSE(stopped);
  }

  TEST_CASE("wq-43: an item that ended waits for its canceller, and the next starts clean") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate registered, in_callback, end_cancellation;
    job victim{[&](const iowq::stop_token& stop) {
      iowq::stop_callback slow{stop, [&] {
                                 in_callback.open();
                                 (void)end_cancellation.wait();
                               }};
      registered.open();
      (void)in_callback.wait();
    }};
    bool clean = false;
    job next{[&](const iowq::stop_token& stop) { clean = !stop.stop_requested(); }};
    pool.enqueue(victim);
    pool.enqueue(next);
    REQUIRE(registered.wait());
    {
      std::jthread canceller{[&] { CHECK(pool.cancel(victim) == cancel_outcome::running); }};
      REQUIRE(in_callback.wait());
      CHECK(pool.cancel(victim) == cancel_outcome::running);  // twice is once
      CHECK(next.starts() == 0);
      end_cancellation.open();
    }
    CHECK(victim.wait());
    CHECK(next.wait());
    CHECK(clean);
  }

  TEST_CASE("wq-35: cancelling the head, the middle or the tail of a key keeps its order") {
    for (std::size_t gone = 1; gone <= 4; ++gone) {
      iowq::pool pool{{.max_workers = {2, 1}}};
      gate hold;
      std::vector<std::size_t> order;
      jobs all;
      all.add(behind(hold), {.key = 1});
      for (std::size_t i = 1; i <= 5; ++i)
        all.add([&order, i](const iowq::stop_token&) { order.push_back(i); }, {.key = 1});
      for (std::size_t i = 0; i <= 4; ++i) pool.enqueue(all[i]);
      REQUIRE(all[0].wait_started());
      CHECK(pool.cancel(all[gone]) == cancel_outcome::dequeued);  // wq-36
      pool.enqueue(all[5]);
      hold.open();
      REQUIRE(all.wait_all());
      std::vector<std::size_t> expected;
      for (std::size_t i = 1; i <= 5; ++i)
        if (i != gone) expected.push_back(i);
      CHECK(order == expected);
    }
  }

  TEST_CASE("cancelling the ready head of a key lets its follower run") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    job busy{behind(hold)}, key_head{{}, {.key = 1}}, follower{{}, {.key = 1}};
    pool.enqueue(busy);
    REQUIRE(busy.wait_started());
    pool.enqueue(key_head);
    pool.enqueue(follower);
    CHECK(pool.cancel(key_head) == cancel_outcome::dequeued);
    hold.open();
    CHECK(follower.wait());
    CHECK(follower.starts() == 1);
    CHECK(busy.wait());
  }

  TEST_CASE("wq-44: cancel_all takes what matches, in every place, and leaves the rest") {
    iowq::pool pool{{.max_workers = {2, 1}}};
    gate started;
    jobs all;
    all.add([&](const iowq::stop_token& stop) { wait_until_stopped(stop); }, {.key = 1});
    for (int i = 1; i < 1000; ++i) {
      iowq::work_flags flags{.unbound = i % 5 == 0};
      if (i % 2 == 0) flags.key = static_cast<std::uint64_t>(i) % 7;
      all.add({}, flags);
    }
    gate hold, hold_too;
    job second{behind(hold)}, unbound{behind(hold_too), {.unbound = true}};
    pool.enqueue(all[0]);
    REQUIRE(all[0].wait_started());
    pool.enqueue(second);
    pool.enqueue(unbound);
    REQUIRE(second.wait_started());
    REQUIRE(unbound.wait_started());
    for (std::size_t i = 1; i < 1000; ++i) pool.enqueue(all[i]);
    auto ours = [&](const iowq::work& one) { return &one != &second && &one != &unbound; };
    CHECK(pool.cancel_all(ours) == cancel_outcome::running);  // outranks dequeued
    CHECK(all.wait_all());
    int cancelled = 0;
    for (auto& one : all) cancelled += one->cancellations();
    CHECK(cancelled == 999);
    CHECK(is_running(second));
    hold.open();
    hold_too.open();
    CHECK(second.wait());
    CHECK(unbound.wait());
    CHECK(pool.stats().keys == 0);
  }

  TEST_CASE("wq-44: cancelling a hundred thousand items asks about each once") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    job busy{behind(hold), {.key = 5}};
    pool.enqueue(busy);
    REQUIRE(busy.wait_started());
    jobs all;
    for (int i = 0; i < 100'000; ++i) {
      iowq::work_flags flags;
      if (i % 2 == 0) flags.key = static_cast<std::uint64_t>(i) % 1000;
      all.add({}, flags);
    }
    all.enqueue_all(pool);
    long asked = 0;
    CHECK(pool.cancel_all([&](const iowq::work& one) { return ++asked, &one != &busy; }) ==
          cancel_outcome::dequeued);
    CHECK(asked == 100'001);
    hold.open();
    CHECK(all.wait_all());
    CHECK(busy.wait());
  }

  TEST_CASE("wq-45: a call that cannot be interrupted runs to its real result") {
    iowq::pool pool;
    std::string path = "/tmp/iowq-fsync-XXXXXX";
    iowq::fd const file{::mkstemp(path.data())};
    REQUIRE(file);
    gate started, cancelled;
    int result = -1;
    job sync{[&](const iowq::stop_token&) {
      started.open();
      (void)cancelled.wait();
      result = ::write(file.get(), "x", 1) == 1 ? ::fsync(file.get()) : -2;
    }};
    pool.enqueue(sync);
    REQUIRE(started.wait());
    CHECK(pool.cancel(sync) == cancel_outcome::running);
    cancelled.open();
    REQUIRE(sync.wait());
    CHECK(result == 0);
    CHECK(sync.cancellations() == 0);
    ::unlink(path.c_str());
  }

  TEST_CASE("wq-46: no signal is sent to cancel") {
    // What the process may be sent is caught by a handler that counts. A worker blocks it: there it
    // would be pending; and what cannot be blocked would end its poll with EINTR.
    static std::atomic<int> signals;
    signals = 0;
    struct sigaction count{}, before{};
    count.sa_handler = [](int) { signals.fetch_add(1); };
    std::vector<int> const watched{SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGTERM, SIGURG, SIGRTMIN};
    std::vector<struct sigaction> old(watched.size());
    for (std::size_t i = 0; i < watched.size(); ++i) ::sigaction(watched[i], &count, &old[i]);
    std::atomic<int> interrupted{0}, pending{0};
    {
      iowq::pool pool;
      job waits{[&](const iowq::stop_token& stop) {
        pollfd wake{iowq::this_worker::wake_descriptor(), POLLIN, 0};
        while (!stop.stop_requested())
          if (::poll(&wake, 1, -1) < 0) interrupted.fetch_add(1);
        sigset_t waiting;
        sigemptyset(&waiting);
        ::sigpending(&waiting);
        if (::sigisemptyset(&waiting) == 0) pending.fetch_add(1);
      }};
      for (int round = 1; round <= 50; ++round) {
        pool.enqueue(waits);
        REQUIRE(waits.wait_started(round));
        (void)pool.cancel(waits);
        REQUIRE(waits.wait(round));
      }
    }
    for (std::size_t i = 0; i < watched.size(); ++i) ::sigaction(watched[i], &old[i], &before);
    CHECK(signals == 0);
    CHECK(interrupted == 0);
    CHECK(pending == 0);
  }

  TEST_CASE("wq-47: a match that calls into its pool is refused with a word") {
    auto const end = iowq_test::death_output([] {
      iowq::pool pool;
      job one;
      gate hold;
      job busy{behind(hold)};
      pool.enqueue(busy);
      (void)busy.wait_started();
      pool.cancel_all([&](const iowq::work&) { return pool.stats().nodes == 0; });
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a match of cancel_all() called into its pool"));
  }

  TEST_CASE("wq-70: context_changed() beside a worker that its canceller holds keeps the counts") {
    auto one = [](scripted_pool& pool, iowq::work& item) { (void)pool.cancel(item); };
    auto all = [](scripted_pool& pool, iowq::work&) {
      (void)pool.cancel_all([](const iowq::work&) { return true; });
    };
    for (bool const cancels_all : {false, true})
      for (bool const changes_twice : {false, true}) {
        CAPTURE(cancels_all);
        CAPTURE(changes_twice);
        held_worker held;
        scripted_pool pool{{.max_workers = {2, 1}}};
        REQUIRE((cancels_all ? held.hold(pool, all) : held.hold(pool, one)));
        pool.context_changed();
        if (changes_twice) pool.context_changed();
        check_exact(pool.stats().bound);
        held.release();
        REQUIRE(held.item.wait());
        job later;
        pool.enqueue(later);
        CHECK(later.wait());
        CHECK(later.starts() == 1);
        REQUIRE(eventually([&] { return pool.stats().bound.workers == pool.stats().bound.idle; }));
        check_exact(pool.stats().bound);
      }
  }

  TEST_CASE("wq-70, wq-23: a worker that its canceller holds is replaced like a blocked one") {
    held_worker held;
    scripted_pool pool{{.max_workers = {2, 1}}};
    REQUIRE(held.hold(pool, [](scripted_pool& in, iowq::work& item) { (void)in.cancel(item); }));
    job next;
    pool.enqueue(next);
    CHECK(next.wait());
    CHECK(held.item.ends() == 0);
    held.release();
    CHECK(held.item.wait());
    CHECK(eventually([&] { return iowq_test::quiet(pool); }));
    check_exact(pool.stats().bound);
  }

  TEST_CASE("wq-72: a pool may be destroyed while another thread's cancel() is in finished()") {
    for (bool const all : {false, true}) {
      CAPTURE(all);
      watched_pool<iowq::pool> pool{{.max_workers = {1, 1}}};
      gate hold, in_finished, go_on;
      job busy{behind(hold)}, queued, linked;
      queued.iowq::work::then(linked);
      linked.then = [&](job&) {
        in_finished.open();
        (void)go_on.wait();
      };
      (*pool).enqueue(busy);
      REQUIRE(busy.wait_started());
      (*pool).enqueue(queued);
      std::jthread canceller{[&] {
        if (all)
          (void)(*pool).cancel_all([&](const iowq::work& one) { return &one == &queued; });
        else
          (void)(*pool).cancel(queued);
      }};
      REQUIRE(in_finished.wait());
      hold.open();
      REQUIRE(busy.wait());
      pool.destroy();
      go_on.open();
      canceller.join();
      CHECK(pool.is_untouched());
      CHECK(linked.ends() == 1);
    }
  }

  TEST_CASE("wq-72: a finished() that cancel() calls may itself destroy the pool") {
    watched_pool<iowq::pool> pool{{.max_workers = {1, 1}}};
    gate hold;
    job busy{behind(hold)}, queued;
    (*pool).enqueue(busy);
    REQUIRE(busy.wait_started());
    (*pool).enqueue(queued);
    queued.then = [&](job&) {
      hold.open();
      CHECK(busy.wait());
      pool.destroy();
    };
    CHECK((*pool).cancel(queued) == cancel_outcome::dequeued);
    CHECK(pool.is_untouched());
  }

  TEST_CASE("wq-72: a pool without threads may be destroyed while an enqueue() is in finished()") {
    iowq_test::script script;
    script.refuse(EAGAIN);
    watched_pool<scripted_pool> pool{{.max_workers = {1, 1}}};
    gate in_finished, go_on;
    job one;
    one.then = [&](job&) {
      in_finished.open();
      (void)go_on.wait();
    };
    std::jthread enqueuer{[&] { (*pool).enqueue(one); }};
    REQUIRE(in_finished.wait());
    pool.destroy();
    go_on.open();
    enqueuer.join();
    CHECK(pool.is_untouched());
    CHECK(one.error() == EAGAIN);
  }

  TEST_CASE("hazard-58: cancelled from many threads while it runs, an item still ends once") {
    iowq_test::leak_check books;
    iowq::pool pool{{.max_workers = {3, 3}}};
    jobs all;
    for (int i = 0; i < 12; ++i) {
      iowq::work_flags flags{.unbound = i % 2 == 0, .concurrent = true};
      if (i % 3 == 0) flags.key = 9;
      all.add({}, flags);
    }
    std::atomic<bool> over{false};
    {
      std::vector<std::jthread> cancellers;
      for (unsigned t = 0; t < 3; ++t)
        cancellers.emplace_back([&, t] {
          std::mt19937 dice{t};
          while (!over) {
            if (dice() % 50 == 0)
              (void)pool.cancel_all([&](const iowq::work&) { return dice() % 2 == 0; });
            else
              (void)pool.cancel(all[dice() % all.size()]);
          }
        });
      for (int round = 1; round <= 300; ++round) {
        all.enqueue_all(pool);
        for (auto& one : all) REQUIRE(one->wait(round));
      }
      over = true;
    }
    int wrong = 0;
    for (auto& one : all) wrong += one->starts() + one->cancellations() != 300;
    CHECK(wrong == 0);
  }
}
