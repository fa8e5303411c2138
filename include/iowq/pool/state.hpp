// SPDX-License-Identifier: BSL-1.0
// iowq/pool/state.hpp -- the items' moves: inserted, taken, ended, withdrawn.
// Layer pool; needs pool/roster. Next in the book: pool/this_worker.hpp.
//
// Everything here runs under M and does nothing to the outside: it moves items and workers
// between their places and says what is to be done after M is free.
//
//   D1  Insertion and decision are one critical section. (The kernel checked before it inserted,
//       and slept after: bugs 12 and 13 of its history.)
//   D2  See dispatch.hpp. Whatever makes an item runnable notes that in the deeds, and settle()
//       decides at the end of the critical section: only then it is known which item the worker
//       takes itself, and no move has to know what follows it.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <utility>

#include <iowq/base/policy.hpp>
#include <iowq/pool/roster.hpp>
#include <iowq/queue/fifo.hpp>

namespace iowq::detail {

/// What becomes of a worker's hands at the end of its item.
struct aftermath {
  item* next = nullptr;      // runs at once, on the same worker
  fifo<&item::next> failed;  // were linked behind it, and it failed: to be finished after it
};

/// All that M guards, and the moves on it.
template <class Policy>
struct pool_state : roster<Policy> {
  using base = roster<Policy>;
  using typename base::account_type;
  using typename base::worker_type;

  static constexpr unsigned max_batch = 16;  // items of one key, or linked to each other
  static constexpr unsigned max_brief = 32;  // brief items taken at once
  static constexpr std::chrono::nanoseconds short_batch{8'000}, long_batch{50'000};
  static constexpr std::chrono::milliseconds max_batch_time{2};

  /// A new item of any thread. Settle before M is released. D1.
  void insert(item& fresh, deeds<Policy>& todo) noexcept {
    accept(fresh, static_cast<unsigned>(this->generation % generation_slots));
    place(fresh, todo);
  }
  /// The item counts in that generation until depart().
  void accept(item& fresh, unsigned slot) noexcept {
    fresh.generation = static_cast<std::uint8_t>(slot) & (generation_slots - 1);
    ++this->account_of(fresh.kind()).unfinished[fresh.generation];
  }
  /// The item ended or was cancelled; whoever calls its finished() has to show that from here on.
  generation_set depart(const item& gone) noexcept {
    --this->account_of(gone.kind()).unfinished[gone.generation];
    return generation_of(gone);
  }
  void place(item& fresh, deeds<Policy>& todo) noexcept {
    account_type& account = this->account_of(fresh.kind());
    ++account.queued;
    ++account.arrived;
    if (fresh.keyed && !this->chains.enter(fresh)) return;
    make_ready(fresh, todo);
  }

  /// Gives `taker`, which is awake and has none, the item it should run; null if there is none.
  /// A brief one brings others along, chained by `next`. Changes nothing for others: what was
  /// unserved before is so still, and D2 holds as it did.
  [[nodiscard]] item* take(worker_type& taker) noexcept {
    account_type& account = this->account_of(taker.kind);
    if (account.runnable == 0) return nullptr;
    for (std::uint8_t const node : this->nodes.near(taker.node)) {
      auto& lane = account.lanes[node];
      item* const oldest = lane.ready.front();
      if (oldest == nullptr) continue;
      unsigned const fair = fair_share(account, taker);
      account.take_ready(*oldest);
      taker.batch = 0;
      if (oldest->keyed) taker.batch_start = Policy::now();
      taker.cur = oldest;
      begin(taker, *oldest);
      unsigned taken = 1;
      if (oldest->batchable())
        for (item* last = oldest; taken < fair; ++taken, last = last->next) {
          item* const also = lane.ready.front();
          if (also == nullptr || !also->batchable()) break;
          __builtin_prefetch(also->ahead, 1);
          account.take_ready(*also);
          begin(taker, *also);
          last->next = also;
        }
      if (node != taker.node) this->stolen += taken;
      return oldest;
    }
    return nullptr;
  }

  /// The item of `ender` has run, or all of its batch. If that makes both a successor and the next
  /// item of the key startable, the worker keeps the successor, and the other item is queued.
  /// Settle after the worker took its next item.
  [[nodiscard]] aftermath end(worker_type& ender, deeds<Policy>& todo) noexcept {
    item& ended = *std::exchange(ender.cur, nullptr);
    for (item* one = &ended; one != nullptr; one = one->next) {
      one->state = item_state::done;
      one->runner = nullptr;
      ender.departed |= depart(*one);
      ++this->completed;
    }
    aftermath after;
    if (ended.successor != nullptr) follow(ender, ended, after);
    if (ended.keyed) pass_on(ender, ended, after, todo);
    return after;
  }

  /// The pool began to end within a batch: what comes behind `last` in it never runs. Finish it,
  /// cancelled, after M.
  void abandon_rest(worker_type& ender, item& last, fifo<&item::next>& rest) noexcept {
    for (item *one = std::exchange(last.next, nullptr), *next; one != nullptr; one = next) {
      next = one->next;
      one->state = item_state::done;
      one->runner = nullptr;
      one->error = ECANCELED;
      ender.departed |= depart(*one);
      ++this->cancelled;
      rest.push_back(*one);
    }
  }

  /// What `ender` kept until its predecessor was finished, now like any other item of any
  /// thread; or cancelled, with all behind it, into `failed`.
  void hand_on(worker_type& ender, fifo<&item::next>& failed, deeds<Policy>& todo) noexcept {
    item& successor = *std::exchange(ender.later, nullptr);
    if (this->closed || successor.withdrawn) {
      ender.departed |= depart(successor);
      cut(&successor, ECANCELED, [&](item& one) { failed.push_back(one); });
    } else {
      place(successor, todo);
    }
  }

  /// Takes a queued item out for good, with all that is linked behind it, and hands them to
  /// `take`, in order: finish them, cancelled, after M. Settle before M is released.
  template <class Take>
  void withdraw(item& queued, int why, deeds<Policy>& todo, Take&& take) noexcept {
    account_type& account = this->account_of(queued.kind());
    if (queued.state == item_state::chained) {
      this->chains.leave(queued);
    } else {
      item* const heir = queued.keyed ? this->chains.release(queued) : nullptr;
      if (heir != nullptr && heir->kind() == queued.kind() && heir->lane == queued.lane) {
        account.make_ready_at(queued, *heir);
        todo.became_runnable(*heir);
      } else {
        account.unready(queued);
        if (heir != nullptr) make_ready(*heir, todo);
      }
    }
    forget(queued, why, take);
  }
  /// The rest of it: for an item that is linked nowhere any more.
  template <class Take>
  void forget(item& withdrawn, int why, Take&& take) noexcept {
    --this->account_of(withdrawn.kind()).queued;
    (void)depart(withdrawn);
    cut(&withdrawn, why, take);
  }
  /// For what is counted neither as queued nor as unfinished: `first` and all behind it.
  template <class Take>
  void cut(item* first, int why, Take&& take) noexcept {
    while (first != nullptr) {
      item& one = *first;
      first = std::exchange(one.successor, nullptr);
      one.state = item_state::done;
      one.error = why;
      one.prev = nullptr;
      ++this->cancelled;
      take(one);
    }
  }

 private:
  void make_ready(item& startable, deeds<Policy>& todo) noexcept {
    this->account_of(startable.kind()).make_ready(startable);
    todo.became_runnable(startable);
  }
  void begin(worker_type& runner, item& next) noexcept {
    --this->account_of(next.kind()).queued;
    hold(runner, next);
  }
  void hold(worker_type& runner, item& next) noexcept {
    next.state = item_state::running;
    next.runner = &runner;
    next.next = nullptr;
    ++runner.batch;
  }

  /// How many brief items to take at once: what each of those that run would get, were all that
  /// is ready dealt out now. Where items have arrived since the last batch was taken, as many as
  /// end before an owner that looks out for them goes to sleep. Else it sleeps already, or is busy:
  /// twice as long as the last, up to what makes its wake worth it.
  [[nodiscard]] static unsigned fair_share(const account_type& account,
                                           worker_type& taker) noexcept {
    unsigned const running = std::max(account.nr_running, 1u);
    bool const answered = std::exchange(taker.arrived_seen, account.arrived) != account.arrived;
    taker.batch_length = answered ? short_batch : std::min(2 * taker.batch_length, long_batch);
    auto const in_time =
        taker.batch_length / std::max(account.pace, taker.batch_length / max_brief);
    return std::min((account.runnable + running - 1) / running,
                    std::max(static_cast<unsigned>(in_time), 1u));
  }

  /// `leader` gives its key up. `ender` runs the next item of the key at once, unless it keeps a
  /// successor of `leader` already.
  void pass_on(worker_type& ender, item& leader, aftermath& after, deeds<Policy>& todo) noexcept {
    item* const heir = this->chains.release(leader);
    if (heir == nullptr) return;
    if (after.next == nullptr && ender.later == nullptr && heir->kind() == ender.kind &&
        ender.batch < max_batch && !this->must_leave(ender) &&
        Policy::now() - ender.batch_start < max_batch_time) {
      ender.cur = after.next = heir;
      begin(ender, *heir);
      return;
    }
    // To the end of its queue: a hot key holds a worker no longer than others can bear.
    make_ready(*heir, todo);
  }

  /// What was linked behind `ended`: runs here and now if no rule is in the way, is handed on
  /// after `ended` is finished, or will not run.
  void follow(worker_type& ender, item& ended, aftermath& after) noexcept {
    item& successor = *std::exchange(ended.successor, nullptr);
    if (ended.error != 0 || this->closed)
      return cut(&successor, ECANCELED, [&](item& one) { after.failed.push_back(one); });
    successor.predecessor = nullptr;  // it may be gone as soon as it is finished
    accept(successor, ended.generation);
    successor.lane =
        successor.node == any_node || static_cast<unsigned>(successor.node) >= this->nodes.size()
            ? ended.lane
            : static_cast<std::uint8_t>(successor.node);
    bool const here = !successor.keyed && !successor.withdrawn && successor.kind() == ender.kind &&
                      successor.lane == ended.lane && ender.batch < max_batch &&
                      !this->must_leave(ender);
    if (!here) {
      IOWQ_ASSERT(ender.later == nullptr);  // the runner handed it on before it took another item
      ender.later = &successor;
      return;
    }
    ender.cur = &successor;
    hold(ender, successor);
    after.next = &successor;
  }
};

}  // namespace iowq::detail
