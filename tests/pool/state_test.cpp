// SPDX-License-Identifier: BSL-1.0
// The moves under M, one by one, without a thread: workers here are records only.
#include <iowq/pool/detail/state.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include <doctest/doctest.h>

#include "death.hpp"
#include "jobs.hpp"

namespace iowq_test {
/// Linux, but time stands still, so that no slow machine ends a batch early.
struct timeless_policy : iowq::detail::linux_policy {
  static iowq::detail::time_point now() noexcept { return clock; }
  inline static iowq::detail::time_point clock{};
};
}  // namespace iowq_test

namespace {
using iowq::work_class;
using iowq::detail::deferred_wakes;
using iowq::detail::item;
using iowq::detail::item_state;
using iowq::detail::worker_state;
using iowq_test::job;
using policy = iowq_test::timeless_policy;

/// A pool that nobody runs.
struct still {
  explicit still(unsigned limit, iowq::topology nodes = iowq::topology::of({iowq::cpu_set{}})) {
    state.nodes = nodes;
    for (auto& account : state.accounts) {
      account.node_queues = decltype(account.node_queues)(nodes.size());
      account.max_workers = limit;
    }
  }
  ~still() {
    for (auto& one : workers) {
      while (one->cur != nullptr) (void)finish(*one);
      auto& account = state.account_of(one->kind);
      if (one->state == worker_state::idle) (void)state.activate(*one);
      account.waking = 0;
      if (one->state == worker_state::sleeping) state.mark_running(*one);
      account.remove(*one);
    }
  }
  using worker = iowq::detail::worker<policy>;

  /// A new worker, awake, as the manager leaves it.
  worker& born(work_class kind = work_class::bound, unsigned node = 0) {
    worker& one = *workers.emplace_back(std::make_unique<worker>(state));
    one.kind = kind;
    one.node = node;
    state.account_of(kind).reserve();
    state.account_of(kind).add(one);
    one.state = worker_state::running;
    state.worker_started_looking(one);
    return one;
  }
  deferred_wakes<policy> insert(iowq::work& one, unsigned node_queue = 0) {
    deferred_wakes<policy> todo;
    in(one).node_queue = static_cast<std::uint8_t>(node_queue);
    state.insert(in(one), todo);
    state.ensure_worker(todo);
    return todo;
  }
  item* take(worker& one) {
    // Activated since: this is its arrival.
    if (state.account_of(one.kind).waking > 0 && one.cur == nullptr)
      state.worker_started_looking(one);
    return state.take(one);
  }
  item* finish(worker& one) {
    deferred_wakes<policy> todo;
    return state.end(one, todo).next;
  }
  static item& in(iowq::work& one) { return iowq::detail::work_access::to_item(one); }
  /// An item that outlives the pool.
  job& make(iowq::work_flags flags = {}) { return items.add({}, flags); }
  auto& bound() { return state.accounts[0]; }
  auto& unbound() { return state.accounts[1]; }

  iowq_test::jobs items;
  iowq::detail::pool_state<policy> state;
  std::vector<std::unique_ptr<worker>> workers;
};
iowq::work_flags key(std::uint64_t of, bool unbound = false) {
  return {.unbound = unbound, .key = of};
}
}  // namespace

TEST_SUITE("pool/state") {
  TEST_CASE("wq-13: the most recently idled worker is woken first") {
    still pool{4};
    auto& first = pool.born();
    auto& second = pool.born();
    pool.state.go_idle(first);
    pool.state.go_idle(second);
    job &a = pool.make(), &b = pool.make(), &c = pool.make();
    CHECK(pool.insert(a).woken() == &second);
    CHECK(pool.insert(b).woken() == &first);
    CHECK(pool.insert(c).woken() == nullptr);
    CHECK(pool.take(first) == &still::in(a));  // whoever comes first takes the oldest
    CHECK(pool.take(second) == &still::in(b));
    (void)pool.finish(first);
    CHECK(pool.take(first) == &still::in(c));
  }

  TEST_CASE("an item makes one reservation, and the manager is called for it") {
    still pool{2};
    pool.state.manager_word = pool.state.manager_parked;
    job &a = pool.make(), &b = pool.make();
    CHECK(pool.insert(a).unpark);
    CHECK(pool.bound().creating == 1);
    CHECK_FALSE(pool.insert(b).unpark);  // it is awake already
    CHECK(pool.bound().creating == 1);
    --pool.bound().creating;
    auto& only = pool.born();
    CHECK(pool.take(only) == &still::in(a));
    CHECK(pool.finish(only) == nullptr);
    CHECK(pool.take(only) == &still::in(b));
  }

  TEST_CASE("wq-30: of one key only one item is ever in a worker's hands, across the classes") {
    still pool{4};
    auto& bound = pool.born();
    auto& unbound = pool.born(work_class::unbound);
    job &a = pool.make(key(1)), &b = pool.make(key(1, true)), &c = pool.make(key(1));
    (void)pool.insert(a);
    (void)pool.insert(b);
    (void)pool.insert(c);
    CHECK(pool.take(unbound) == nullptr);
    CHECK(pool.take(bound) == &still::in(a));
    CHECK(pool.take(unbound) == nullptr);
    CHECK(pool.finish(bound) == nullptr);  // the next head is of the other class: not ours to run
    CHECK(pool.take(bound) == nullptr);
    CHECK(pool.take(unbound) == &still::in(b));
    CHECK(pool.finish(unbound) == nullptr);
    CHECK(pool.take(bound) == &still::in(c));
  }

  TEST_CASE("a key handed to the other class wakes that class's worker") {
    still pool{4};
    auto& bound = pool.born();
    auto& unbound = pool.born(work_class::unbound);
    job &a = pool.make(key(1)), &b = pool.make(key(1, true));
    (void)pool.insert(a);
    (void)pool.insert(b);
    pool.state.go_idle(unbound);
    CHECK(pool.take(bound) == &still::in(a));
    deferred_wakes<policy> todo;
    CHECK(pool.state.end(bound, todo).next == nullptr);
    pool.state.ensure_worker(todo);
    CHECK(todo.woken() == &unbound);
    CHECK(pool.take(unbound) == &still::in(b));
  }

  TEST_CASE("wq-32: an unhashed item that ends releases nobody's key") {
    still pool{4};
    auto& keyed = pool.born();
    auto& other = pool.born();
    job &a = pool.make(key(0)), &b = pool.make(key(0)), &plain = pool.make();
    (void)pool.insert(a);
    (void)pool.insert(b);
    (void)pool.insert(plain);
    CHECK(pool.take(keyed) == &still::in(a));
    CHECK(pool.take(other) == &still::in(plain));
    CHECK(pool.finish(other) == nullptr);
    CHECK(pool.take(other) == nullptr);
    CHECK(pool.state.chains.keys() == 1);
    CHECK(pool.finish(keyed) == &still::in(b));
  }

  TEST_CASE("wq-59: the work of one node wakes its own worker, then those of the others") {
    still pool{4, iowq::topology::of({{0}, {1}, {2}, {3}})};
    std::vector<still::worker*> on(4);
    for (unsigned node = 0; node < 4; ++node) {
      on[node] = &pool.born(work_class::bound, node);
      pool.state.go_idle(*on[node]);
    }
    for (unsigned const woken : {1u, 0u, 2u, 3u}) {  // the nearest first
      CHECK(pool.insert(pool.make(), 1).woken() == on[woken]);
    }
    for (auto* const one : on) CHECK(pool.take(*one) != nullptr);
    CHECK(pool.state.stolen == 3);
  }

  TEST_CASE("wq-38: a dequeue touches its item and its neighbours, however many wait") {
    // Goal: a step that grows with the queue. Method: a hundred thousand items, of which only the
    // first and the last page may be touched when one is taken, ended, and its key passed on.
    for (bool const keyed : {false, true}) {
      CAPTURE(keyed);
      auto const end = iowq_test::death_output([keyed] {
        struct bare final : iowq::work {
          void execute(const iowq::stop_token&) noexcept override {}
          void finished(bool) noexcept override {}
        };
        constexpr std::size_t count = 100'000, taken = 8;
        auto const page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
        static_assert((taken + 1) * sizeof(bare) < 4096);
        std::size_t const size = (count * sizeof(bare) / page + 1) * page;
        void* const memory =
            ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) ::_exit(2);
        auto* const items = static_cast<bare*>(memory);
        still pool{1};
        auto& only = pool.born();
        for (std::size_t i = 0; i < count; ++i) {
          new (items + i) bare;
          if (keyed) items[i].flags({.key = 7});
          (void)pool.insert(items[i]);
        }
        ::mprotect(static_cast<char*>(memory) + page, size - 3 * page, PROT_NONE);
        for (std::size_t i = 0; i < taken; ++i) {
          item* const one = only.cur != nullptr ? only.cur : pool.take(only);
          if (one != &still::in(items[i])) ::_exit(3);
          (void)pool.finish(only);
        }
        ::_exit(pool.bound().queued == count - taken - (only.cur != nullptr) ? 0 : 4);
      });
      CHECK(end.exit_code == 0);
      CHECK(end.signal == 0);
    }
  }

  TEST_CASE("wq-34: after its batch a key goes to the end of the queue") {
    still pool{4};
    auto& only = pool.born();
    std::vector<job*> hot;
    for (int i = 0; i < 40; ++i) {
      hot.push_back(&pool.make(key(1)));
      (void)pool.insert(*hot.back());
    }
    job& cold = pool.make(key(2));
    (void)pool.insert(cold);
    item* now = pool.take(only);
    unsigned run = 1;
    while (pool.finish(only) != nullptr) ++run;
    CHECK(now == &still::in(*hot[0]));
    CHECK(run == pool.state.max_batch);
    CHECK(pool.take(only) == &still::in(cold));
    (void)pool.finish(only);
    CHECK(pool.take(only) == &still::in(*hot[run]));
    for (; only.cur != nullptr; (void)pool.take(only))
      while (pool.finish(only) != nullptr) {
      }
    CHECK(pool.state.completed == 41);
  }

  TEST_CASE("wq-34: a batch that has taken 2 ms is over, however few items it ran") {
    still pool{4};
    auto& only = pool.born();
    job &a = pool.make(key(1)), &b = pool.make(key(1)), &c = pool.make(key(1)), &cold = pool.make();
    for (job* const one : {&a, &b, &c, &cold}) (void)pool.insert(*one);
    CHECK(pool.take(only) == &still::in(a));
    policy::clock += pool.state.max_batch_time - std::chrono::nanoseconds{1};
    CHECK(pool.finish(only) == &still::in(b));
    policy::clock += std::chrono::nanoseconds{1};
    CHECK(pool.finish(only) == nullptr);
    CHECK(pool.take(only) == &still::in(cold));
    CHECK(pool.finish(only) == nullptr);
    CHECK(pool.take(only) == &still::in(c));
  }

  TEST_CASE("wq-36: an item behind a running one of its key can be withdrawn") {
    still pool{4};
    auto& only = pool.born();
    job &a = pool.make(key(1)), &b = pool.make(key(1));
    (void)pool.insert(a);
    (void)pool.insert(b);
    (void)pool.take(only);
    CHECK(still::in(b).state == item_state::chained);
    deferred_wakes<policy> todo;
    pool.state.dequeue_item(still::in(b), ECANCELED, todo, [](item&) {});
    CHECK(b.error() == ECANCELED);
    CHECK(pool.bound().queued == 0);
    CHECK(pool.finish(only) == nullptr);
    CHECK(pool.state.chains.keys() == 0);
  }

  TEST_CASE("wq-35: the next head of a withdrawn key head stands where it stood") {
    still pool{4};
    auto& only = pool.born();
    job &a = pool.make(key(1)), &b = pool.make(key(1)), &plain = pool.make();
    (void)pool.insert(a);
    (void)pool.insert(plain);
    (void)pool.insert(b);
    deferred_wakes<policy> todo;
    pool.state.dequeue_item(still::in(a), ECANCELED, todo, [](item&) {});
    CHECK(pool.bound().runnable == 2);
    CHECK(pool.take(only) == &still::in(b));
    CHECK(pool.finish(only) == nullptr);
    CHECK(pool.take(only) == &still::in(plain));
  }

  TEST_CASE("wq-5: what is ready in one class is nothing to the other") {
    still pool{1};
    auto& bound = pool.born();
    job& a = pool.make({.unbound = true});
    CHECK(pool.insert(a).woken() == nullptr);
    CHECK(pool.unbound().creating == 1);
    CHECK(pool.take(bound) == nullptr);
    --pool.unbound().creating;
    CHECK(pool.take(pool.born(work_class::unbound)) == &still::in(a));
  }

  TEST_CASE("wq-59: a worker takes from its own node first, then from others, nearest first") {
    still pool{8, iowq::topology::of({{0}, {1}, {2}, {3}})};
    auto& worker = pool.born(work_class::bound, 2);
    job &far = pool.make(), &near = pool.make(), &own = pool.make();
    (void)pool.insert(far, 0);
    (void)pool.insert(near, 1);
    (void)pool.insert(own, 2);
    CHECK(pool.take(worker) == &still::in(own));
    (void)pool.finish(worker);
    CHECK(pool.state.stolen == 0);
    CHECK(pool.take(worker) == &still::in(near));
    (void)pool.finish(worker);
    CHECK(pool.take(worker) == &still::in(far));
    CHECK(pool.state.stolen == 2);
    (void)pool.finish(worker);
    pool.state.go_idle(worker);
    job& other = pool.make();
    CHECK(pool.insert(other, 0).woken() == &worker);  // idle elsewhere is idle
    CHECK(pool.take(worker) == &still::in(other));
  }

  TEST_CASE("wq-59: a node whose items are passed over 16 times is served next") {
    still pool{8, iowq::topology::of({{0}, {1}, {2}})};
    auto& worker = pool.born(work_class::bound, 0);
    auto const next_node = [&] {
      (void)pool.insert(pool.make(), 0);  // an item of the worker's own node is always ready
      unsigned const node = pool.take(worker)->node_queue;
      (void)pool.finish(worker);
      return node;
    };
    (void)pool.insert(pool.make(), 1);
    (void)pool.insert(pool.make(), 2);
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 15; ++i) CHECK(next_node() == 0);
      CHECK(next_node() + next_node() == 1 + 2);  // one of each, in either order
      (void)pool.insert(pool.make(), 1);
      (void)pool.insert(pool.make(), 2);
    }
    while (pool.take(worker) != nullptr) (void)pool.finish(worker);
  }

  TEST_CASE("wq-60: a key excludes across nodes") {
    still pool{8, iowq::topology::of({{0}, {1}})};
    auto& here = pool.born(work_class::bound, 0);
    auto& there = pool.born(work_class::bound, 1);
    job &a = pool.make(key(1)), &b = pool.make(key(1));
    (void)pool.insert(a, 0);
    (void)pool.insert(b, 1);
    CHECK(pool.take(here) == &still::in(a));
    CHECK(pool.take(there) == nullptr);
    CHECK(pool.finish(here) == &still::in(b));
  }

  TEST_CASE("wq-68: with a successor and a next item of the key, a worker keeps the successor") {
    still pool{4};
    auto& worker = pool.born();
    job &a = pool.make(key(1)), &b = pool.make(key(1));
    job &inline_one = pool.make(), &other_class = pool.make({.unbound = true});
    a.iowq::work::then(inline_one);
    b.iowq::work::then(other_class);
    (void)pool.insert(a);
    (void)pool.insert(b);
    CHECK(pool.take(worker) == &still::in(a));
    CHECK(pool.finish(worker) == &still::in(inline_one));
    CHECK(worker.later == nullptr);
    CHECK(still::in(b).state == item_state::ready);
    CHECK(pool.finish(worker) == nullptr);
    CHECK(pool.take(worker) == &still::in(b));
    CHECK(pool.finish(worker) == nullptr);
    CHECK(worker.later == &still::in(other_class));
    iowq::detail::intrusive_queue<&item::next> failed;
    deferred_wakes<policy> todo;
    pool.state.enqueue_successor(worker, failed, todo);
    pool.state.ensure_worker(todo);
    CHECK(failed.empty());
    CHECK(pool.unbound().runnable == 1);
    CHECK(pool.unbound().creating == 1);
    pool.unbound().creating = 0;
    CHECK(pool.take(pool.born(work_class::unbound)) == &still::in(other_class));
  }

  TEST_CASE("wq-69: the next item of a key wakes an idle worker if its own worker goes on") {
    still pool{4};
    auto& worker = pool.born();
    auto& idle = pool.born();
    job &a = pool.make(key(1)), &b = pool.make({.key = 1, .concurrent = true}),
        &successor = pool.make();
    a.iowq::work::then(successor);
    pool.state.go_idle(idle);
    (void)pool.insert(a);
    for (auto* const one : {&worker, &idle})
      if (one->state == worker_state::idle) (void)pool.state.activate(*one);
    CHECK(pool.take(worker) == &still::in(a));
    CHECK(pool.take(idle) == nullptr);
    pool.state.go_idle(idle);
    (void)pool.insert(b);
    deferred_wakes<policy> todo;
    CHECK(pool.state.end(worker, todo).next == &still::in(successor));
    pool.state.ensure_worker(todo);
    CHECK(todo.woken() == &idle);
    CHECK(pool.take(idle) == &still::in(b));
  }

  TEST_CASE("wq-69: the next item of a withdrawn key head's key gets the worker that it wants") {
    still pool{4};
    auto& worker = pool.born();
    job &busy = pool.make(), &a = pool.make(key(1)), &b = pool.make({.key = 1, .concurrent = true});
    (void)pool.insert(busy);
    CHECK(pool.take(worker) == &still::in(busy));
    (void)pool.insert(a);
    (void)pool.insert(b);
    CHECK(pool.bound().creating == 0);  // `worker` runs and the manager watches it
    deferred_wakes<policy> todo;
    pool.state.dequeue_item(still::in(a), ECANCELED, todo, [](item&) {});
    pool.state.ensure_worker(todo);
    CHECK(pool.bound().creating == 1);
    pool.bound().creating = 0;
    (void)pool.finish(worker);
    CHECK(pool.take(worker) == &still::in(b));
  }

  TEST_CASE("wq-26: a mark and its end leave the counts as they were") {
    still pool{4};
    auto& worker = pool.born();
    job& a = pool.make();
    (void)pool.insert(a);
    (void)pool.take(worker);
    pool.state.mark_sleeping(worker);
    CHECK(pool.bound().nr_running == 0);
    CHECK(pool.bound().sleeping == 1);
    CHECK(worker.asleep.load());
    job& b = pool.make();
    (void)pool.insert(b);  // nobody is awake any more
    CHECK(pool.bound().creating == 1);
    --pool.bound().creating;
    CHECK(pool.state.can_mark_running(worker));
    pool.state.mark_running(worker);
    CHECK(pool.bound().nr_running == 1);
    CHECK_FALSE(worker.asleep.load());
    (void)pool.finish(worker);
    CHECK(pool.take(worker) == &still::in(b));
  }

  TEST_CASE("wq-53: a worker of an old context must leave, and does not rise before") {
    still pool{4};
    auto& worker = pool.born();
    job &a = pool.make(key(1)), &b = pool.make(key(1));
    (void)pool.insert(a);
    (void)pool.insert(b);
    (void)pool.take(worker);
    pool.state.mark_sleeping(worker);
    ++pool.state.epoch;
    CHECK_FALSE(pool.state.can_mark_running(worker));
    CHECK(pool.state.must_leave(worker));
    CHECK_FALSE(pool.state.has_current_worker(pool.bound()));
    pool.state.mark_running(worker);  // its item ends
    CHECK(pool.finish(worker) == nullptr);
    worker.epoch = pool.state.epoch;  // as its successor
    CHECK(pool.take(worker) == &still::in(b));
  }
}
