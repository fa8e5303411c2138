// SPDX-License-Identifier: BSL-1.0
// iowq/pool/state.hpp -- all that M guards, and the moves on it.
// Layer pool; needs pool/dispatch, chain, worker, topology. Next in the book: pool/this_worker.hpp.
//
// Everything here runs under M and does nothing to the outside: it moves items and workers
// between their places and says what is to be done after M is free.
//
//   D1  Insertion and decision are one critical section. (The kernel checked before it inserted,
//       and slept after: bugs 12 and 13 of its history.)
//   D2  See dispatch.hpp.
//   D3  A worker on the idle stack is taken off by whoever activates it, under M, so its time-out
//       and its activation cannot both win.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/pool/account.hpp>
#include <iowq/pool/chain.hpp>
#include <iowq/pool/dispatch.hpp>
#include <iowq/pool/topology.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/pool/worker.hpp>
#include <iowq/queue/list.hpp>

namespace iowq::detail {

/// What is left to do once M is free. Of what they point at, only addresses are used then.
template <class Policy>
struct deeds {
  worker<Policy>* wake = nullptr;
  bool unpark = false;
};

/// All that M guards, and the moves on it.
template <class Policy>
struct pool_state {
  using worker_type = worker<Policy>;
  using account_type = account<worker_type>;
  using lock = typename Policy::lock;
  template <class T>
  using atomic = typename Policy::template atomic<T>;

  static constexpr unsigned max_batch = 16;
  static constexpr std::chrono::milliseconds max_batch_time{2};

  // Never changes once the pool is made.
  topology nodes;
  std::chrono::milliseconds idle_timeout{};
  std::size_t stack_size = 0;
  bool exit_on_idle = false;
  int owner_tid = 0;

  typename Policy::mutex m;  // "M"

  // Under M.
  account_type accounts[2];  // by work_class
  chain_table chains;
  cpu_set affinity;
  unsigned affinity_version = 0;  // 0: as inherited, nothing to apply
  unsigned epoch = 0;
  bool exit = false;
  list<&worker_type::next, &worker_type::prev> retired;  // left; to be joined
  list<&worker_type::next, &worker_type::prev> spare;    // joined; to be used again
  std::uint64_t created = 0, retired_count = 0, create_failures = 0, completed = 0, cancelled = 0,
                stolen = 0, wakes = 0, unparks = 0, sleeps = 0;

  // The manager's. Its word is written under M.
  enum : std::uint32_t { manager_busy, manager_parked, manager_ticking };
  atomic<std::uint32_t> manager_word{manager_busy};
  bool manager_present = false;
  bool manager_retires = false;  // the owner is forking its successor, or ends the pool
  int manager_error = 0;         // why there is none and nobody is forking one; else 0

  // The thread inside a match of cancel_all(), or 0. Written under M; read anywhere, to refuse.
  atomic<int> matcher{0};

  [[nodiscard]] lock acquire() noexcept {
    // relaxed: only the thread that wrote it can find itself there.
    int const inside = matcher.load(std::memory_order_relaxed);
    IOWQ_ASSERT(inside == 0 || inside != Policy::thread_id(),
                "a match of cancel_all() called into its pool");
    return lock{m};
  }

  [[nodiscard]] account_type& account_of(work_class kind) noexcept {
    return accounts[static_cast<unsigned>(kind)];
  }

  /// A new item of any thread. D1.
  void insert(item& fresh, deeds<Policy>& todo) noexcept {
    account_type& account = account_of(fresh.kind());
    ++account.queued;
    if (fresh.keyed && !chains.enter(fresh)) return;
    account.make_ready(fresh);
    settle(account, fresh.lane, fresh.concurrent, todo);
  }

  /// Gives `taker`, which is awake and has none, the item it should run; null if there is none.
  /// Changes nothing for others: what was unserved before is so still, and D2 holds as it did.
  [[nodiscard]] item* take(worker_type& taker) noexcept {
    account_type& account = account_of(taker.kind);
    if (account.runnable == 0) return nullptr;
    for (std::uint8_t const node : nodes.near(taker.node)) {
      item* const oldest = account.lanes[node].ready.front();
      if (oldest == nullptr) continue;
      account.unready(*oldest);
      if (node != taker.node) ++stolen;
      taker.batch = 0;
      if (oldest->keyed) taker.batch_start = Policy::now();
      begin(taker, *oldest);
      return oldest;
    }
    return nullptr;
  }

  /// The item of `ender` has run. Null, or the next of its key, which `ender` runs at once.
  [[nodiscard]] item* end(worker_type& ender, deeds<Policy>& todo) noexcept {
    item& ended = *ender.cur;
    ender.cur = nullptr;
    ended.state = item_state::done;
    ended.runner = nullptr;
    ++completed;
    if (!ended.keyed) return nullptr;
    item* const heir = chains.release(ended);
    if (heir == nullptr) return nullptr;
    if (heir->kind() == ender.kind && ender.batch < max_batch && !must_leave(ender) &&
        Policy::now() - ender.batch_start < max_batch_time) {
      begin(ender, *heir);
      return heir;
    }
    // To the end of its queue: a hot key holds a worker no longer than others can bear.
    account_type& account = account_of(heir->kind());
    account.make_ready(*heir);
    if (heir->kind() != ender.kind) settle(account, heir->lane, heir->concurrent, todo);
    return nullptr;  // of our own class: we look there next
  }

  /// Takes a queued item out for good; finish it, cancelled, after M.
  void withdraw(item& queued, int why, deeds<Policy>& todo) noexcept {
    account_type& account = account_of(queued.kind());
    if (queued.state == item_state::chained) {
      chains.leave(queued);
    } else {
      item* const heir = queued.keyed ? chains.release(queued) : nullptr;
      if (heir != nullptr && heir->kind() == queued.kind() && heir->lane == queued.lane) {
        account.make_ready_at(queued, *heir);
      } else {
        account.unready(queued);
        if (heir != nullptr) {
          account_type& other = account_of(heir->kind());
          other.make_ready(*heir);
          settle(other, heir->lane, heir->concurrent, todo);
        }
      }
    }
    forget(queued, why);
  }
  /// The rest of it: for an item that is linked nowhere any more.
  void forget(item& withdrawn, int why) noexcept {
    --account_of(withdrawn.kind()).queued;
    ++cancelled;
    withdrawn.state = item_state::done;
    withdrawn.error = why;
  }

  // ---- Workers ----

  /// Something of this account may have become runnable, near this node.
  void settle(account_type& account, unsigned node, bool concurrent, deeds<Policy>& todo) noexcept {
    switch (next_step(account, concurrent)) {
      case step::none:
        break;
      case step::wake:
        // The second wake of one critical section is rare, and made within it.
        if (todo.wake != nullptr) Policy::futex_wake(todo.wake->word, 1);
        todo.wake = account.newest_idle(nodes.near(node));
        activate(*todo.wake);
        ++wakes;
        break;
      case step::create:
        account.reserve();
        call_manager(true, todo);
        break;
      case step::watch:
        call_manager(false, todo);
        break;
    }
    account.check();
  }

  /// Takes an idle worker off its stack: it is awake from here on. D3.
  void activate(worker_type& sleeper) noexcept {
    account_of(sleeper.kind).unidle(sleeper);
    sleeper.state = worker_state::running;
    // relaxed: what it finds next, it finds under M.
    sleeper.word.store(worker_type::awake, std::memory_order_relaxed);
  }
  /// The first it does under M after activation or birth: from here on it looks for an item.
  void arrive(worker_type& looker) noexcept { --account_of(looker.kind).waking; }
  /// Wakes every idle worker of a class, to see whether it may stay. Rare, hence under M.
  void rouse(account_type& account) noexcept {
    for (lane<worker_type>& each : account.lanes)
      while (worker_type* const sleeper = each.idle.front()) {
        activate(*sleeper);
        Policy::futex_wake(sleeper->word, 1);
      }
  }

  /// A worker that has no item puts itself on the stack.
  void go_idle(worker_type& quiet) noexcept {
    quiet.state = worker_state::idle;
    account_of(quiet.kind).push_idle(quiet);
    // relaxed: whoever activates it has M; it looks at the word once more before it sleeps.
    quiet.word.store(worker_type::idle, std::memory_order_relaxed);
  }

  /// The manager saw it asleep in its item.
  void mark_sleeping(worker_type& sleeper) noexcept {
    account_type& account = account_of(sleeper.kind);
    sleeper.state = worker_state::sleeping;
    --account.nr_running;
    ++account.sleeping;
    sleeper.asleep.store(true, std::memory_order_relaxed);  // relaxed: see blocking_region
  }
  /// It runs again.
  void mark_running(worker_type& risen) noexcept {
    account_type& account = account_of(risen.kind);
    risen.state = worker_state::running;
    --account.sleeping;
    ++account.nr_running;
    risen.asleep.store(false, std::memory_order_relaxed);  // relaxed: see blocking_region
  }
  /// Whether the mark may go before the item ends. A worker of an old epoch takes no other item,
  /// so it stays marked: it must not keep one of the new epoch from being created.
  [[nodiscard]] bool may_rise(const worker_type& marked) const noexcept {
    return marked.state == worker_state::sleeping && marked.epoch == epoch;
  }
  /// Whether somebody could take an item of this account, now or later.
  [[nodiscard]] bool has_current_worker(const account_type& account) const noexcept {
    for (worker_type* one = account.workers.front(); one != nullptr; one = one->next)
      if (one->epoch == epoch) return true;
    return false;
  }
  /// The end of a blocking region found the mark. Worker only.
  void woke_up(worker_type& risen) noexcept {
    phase const before = risen.at();
    risen.enter(phase::pool);
    {
      auto const held = acquire();
      if (may_rise(risen)) mark_running(risen);
    }
    risen.enter(before);
  }

  [[nodiscard]] bool must_leave(const worker_type& asked) noexcept {
    return detail::must_leave(account_of(asked.kind), exit, asked.epoch != epoch);
  }
  /// A worker, awake and without an item, leaves for good. It is joined by the manager.
  void leave(worker_type& leaver, deeds<Policy>& todo) noexcept {
    account_type& account = account_of(leaver.kind);
    account.remove(leaver);
    leaver.state = worker_state::retired;
    retired.push_back(leaver);
    ++retired_count;
    settle(account, leaver.node, false, todo);
    call_manager(true, todo);
  }

  /// Sees to it that the manager looks again: at once, or no later than at its next tick.
  void call_manager(bool at_once, deeds<Policy>& todo) noexcept {
    // relaxed: it is written under M, which we have.
    std::uint32_t const word = manager_word.load(std::memory_order_relaxed);
    if (word != manager_parked && !(at_once && word == manager_ticking)) return;
    manager_word.store(manager_busy, std::memory_order_relaxed);
    todo.unpark = true;
    ++unparks;
  }

  /// Does what is left to do. Without M, where there is a choice: the woken want it.
  void carry_out(const deeds<Policy>& todo) noexcept {
    if (todo.wake != nullptr) Policy::futex_wake(todo.wake->word, 1);
    if (todo.unpark) Policy::futex_wake(manager_word, 1);
  }

 private:
  void begin(worker_type& runner, item& next) noexcept {
    --account_of(next.kind()).queued;
    next.state = item_state::running;
    next.runner = &runner;
    runner.cur = &next;
    ++runner.batch;
  }
};

}  // namespace iowq::detail
