// SPDX-License-Identifier: BSL-1.0
// iowq/pool/roster.hpp -- the workers' moves: woken, idle, asleep, leaving.
// Layer pool; needs pool/dispatch, guarded. Next in the book: pool/state.hpp.
//
//   D3  A worker on the idle stack is taken off by whoever activates it, under M, so its time-out
//       and its activation cannot both win. Its word, too, is set to `awake` under M; the worker
//       itself only ever takes it from `spinning` to `idle`, by a compare and swap, and sleeps on
//       no other value.
#pragma once

#include <cstdint>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/pool/dispatch.hpp>
#include <iowq/pool/guarded.hpp>

namespace iowq::detail {

/// The moves of workers. All of them under M.
template <class Policy>
struct roster : guarded<Policy> {
  using base = guarded<Policy>;
  using typename base::account_type;
  using typename base::worker_type;

  /// Something of this account may have become runnable, near this node: wakes, creates or has
  /// watched, as dispatch.hpp says, until it says that it is enough.
  void settle(account_type& account, unsigned node, bool concurrent, deeds<Policy>& todo) noexcept {
    for (;;) {
      switch (next_step(account, concurrent)) {
        case step::none:
          break;
        case step::wake:
          wake(*account.newest_idle(this->nodes.near(node)), todo);
          continue;
        case step::create:
          account.reserve();
          call_manager(true, todo);
          continue;
        case step::watch:
          call_manager(false, todo);
          break;
      }
      account.check();
      return;
    }
  }

  /// The last step of every critical section that made an item runnable, after its worker, if it
  /// has one, took the item that it runs next. carry_out() asserts that it was not left out.
  void settle(deeds<Policy>& todo) noexcept {
    for (work_class const kind : {work_class::bound, work_class::unbound}) {
      auto const what = std::exchange(todo.unsettled[static_cast<unsigned>(kind)], {});
      if (what.any) settle(this->account_of(kind), what.node, what.concurrent, todo);
    }
  }

  /// Activates an idle worker for an item.
  void wake(worker_type& sleeper, deeds<Policy>& todo) noexcept {
    if (!activate(sleeper)) return;
    todo.add(sleeper);
    ++this->wakes;
  }

  /// Takes an idle worker off its stack: it is awake from here on. True: it slept, or is about to,
  /// and the caller owes it a futex_wake; false: it spins, and sees the word. D3.
  [[nodiscard]] bool activate(worker_type& sleeper) noexcept {
    this->account_of(sleeper.kind).unidle(sleeper);
    sleeper.state = worker_state::running;
    // relaxed: what it finds next, it finds under M. An exchange, not a store: whether the
    // spinner went to sleep just now decides who owes the wake.
    return sleeper.word.exchange(worker_type::awake, std::memory_order_relaxed) !=
           worker_type::spinning;
  }
  /// The first it does under M after activation or birth: from here on it looks for an item.
  void arrive(worker_type& looker) noexcept { --this->account_of(looker.kind).waking; }
  /// Wakes every idle worker of a class, to see whether it may stay. Rare, hence under M.
  void rouse(account_type& account) noexcept {
    for (lane<worker_type>& each : account.lanes)
      while (worker_type* const sleeper = each.idle.front())
        if (activate(*sleeper)) Policy::futex_wake(sleeper->word, 1);
  }

  /// A worker that has no item puts itself on the stack.
  void go_idle(worker_type& quiet) noexcept {
    account_type& account = this->account_of(quiet.kind);
    IOWQ_ASSERT(quiet.state == worker_state::running);
    quiet.state = worker_state::idle;
    account.push_idle(quiet);
    quiet.spins = may_spin();
    // relaxed, both: whoever activates it has M, and the worker looks at its word once more
    // before it sleeps; `spinning` is no more than a limit.
    if (quiet.spins) this->spinning.store(true, std::memory_order_relaxed);
    quiet.word.store(quiet.spins ? worker_type::spinning : worker_type::idle,
                     std::memory_order_relaxed);
  }

  /// The manager saw it asleep in its item.
  void mark_sleeping(worker_type& sleeper) noexcept {
    account_type& account = this->account_of(sleeper.kind);
    IOWQ_ASSERT(sleeper.state == worker_state::running);
    sleeper.state = worker_state::sleeping;
    --account.nr_running;
    ++account.sleeping;
    account.check();
    account.slow_down();
    sleeper.asleep.store(true, std::memory_order_relaxed);  // relaxed: see blocking_region
  }
  /// It runs again.
  void mark_running(worker_type& risen) noexcept {
    account_type& account = this->account_of(risen.kind);
    IOWQ_ASSERT(risen.state == worker_state::sleeping);
    risen.state = worker_state::running;
    --account.sleeping;
    ++account.nr_running;
    account.check();
    risen.asleep.store(false, std::memory_order_relaxed);  // relaxed: see blocking_region
  }
  /// Whether the mark may go before the item ends. A worker of an old epoch takes no other item,
  /// so it stays marked: it must not keep one of the new epoch from being created.
  [[nodiscard]] bool may_rise(const worker_type& marked) const noexcept {
    return marked.state == worker_state::sleeping && marked.epoch == this->epoch;
  }
  /// Whether somebody could take an item of this account, now or later.
  [[nodiscard]] bool has_current_worker(const account_type& account) const noexcept {
    for (worker_type* one = account.workers.front(); one != nullptr; one = one->next)
      if (one->epoch == this->epoch) return true;
    return false;
  }
  /// The end of a blocking region found the mark. Worker only; takes M.
  void woke_up(worker_type& risen) noexcept {
    phase const before = risen.at();
    risen.enter(phase::pool);
    {
      auto const held = this->acquire();
      if (may_rise(risen)) mark_running(risen);
    }
    risen.enter(before);
  }

  [[nodiscard]] bool must_leave(const worker_type& asked) noexcept {
    return detail::must_leave(this->account_of(asked.kind), this->exit, asked.epoch != this->epoch);
  }
  /// A worker, awake and without an item, leaves for good. It is joined by the manager.
  void leave(worker_type& leaver, deeds<Policy>& todo) noexcept {
    account_type& account = this->account_of(leaver.kind);
    IOWQ_ASSERT(leaver.state == worker_state::running);
    account.remove(leaver);
    leaver.state = worker_state::retired;
    this->retired.push_back(leaver);
    ++this->retired_count;
    settle(account, leaver.node, false, todo);
    call_manager(true, todo);
  }

  /// Sees to it that the manager looks again: at once, or no later than at its next tick.
  void call_manager(bool at_once, deeds<Policy>& todo) noexcept {
    // relaxed: it is written under M, which we have.
    std::uint32_t const word = this->manager_word.load(std::memory_order_relaxed);
    if (word != base::manager_parked && !(at_once && word == base::manager_ticking)) return;
    this->manager_word.store(base::manager_busy, std::memory_order_relaxed);
    todo.unpark = true;
    ++this->unparks;
  }

  /// Does what is left to do. Without M, where there is a choice: the woken want it.
  void carry_out(const deeds<Policy>& todo) noexcept {
    IOWQ_ASSERT(!todo.unsettled[0].any && !todo.unsettled[1].any);  // D2
    for (unsigned i = 0; i < todo.nr_wake; ++i) Policy::futex_wake(todo.wake[i]->word, 1);
    if (todo.unpark) Policy::futex_wake(this->manager_word, 1);
  }

 private:
  /// A spin pays off where the next item comes within microseconds from another processor that
  /// is free to send it: one for the spinner, one for the owner, one for each worker that runs.
  /// Of items that take long we do not know whether they compute: then the spins' own luck tells.
  [[nodiscard]] bool may_spin() noexcept {
    if (this->exit) return false;
    unsigned busy = 2;
    for (const account_type& account : this->accounts)
      if (account.quick()) busy += account.nr_running;
    if (busy > this->accounts[0].processors) return false;
    // acquire: pairs with the last spinner's release; what it noted of its luck is ours to read.
    return !this->spinning.load(std::memory_order_acquire) && this->spins.worth();
  }
};

}  // namespace iowq::detail
