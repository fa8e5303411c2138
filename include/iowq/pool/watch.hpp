// SPDX-License-Identifier: BSL-1.0
// iowq/pool/watch.hpp -- notices that workers sleep.
// Layer pool; needs pool/state. Next in the book: pool/manager.hpp.
//
// io_wq_worker_sleeping(), which the kernel's scheduler calls, and nobody calls here. While
// something is runnable that nobody is on the way to, and another worker could be had, idle or
// new, the manager looks at the stamps of those that run: first after 50 us, then ever more
// slowly, but so that two looks are never further apart than half a reaction. A stamp that stood
// still in between is one item, or one region, that takes its time: then, and only then, the
// kernel is asked whether the thread computes (or was preempted, which is no sleep) or waits.
//
// A sleep shorter than a tick is not worth a thread, unless there is one after the other: flushes
// of a fast disk take less than a tick each, and their worker sleeps nine tenths of the time. So
// while items are not short, those whose stamp did move are looked at, too. Who is found asleep
// time and again *dozes*, and where work waits, each that does is worth another worker.
//
// While items are short, dispatch.hpp puts off the wake of an idle worker: those that run will be
// done sooner. It cannot know that one of them computes for a second this time. So the manager
// marks the end of each queue, and where what was before the mark has not been taken after 0.3 ms,
// it wakes idle workers in any case. A queue is marked within 0.7 ms (a tick), so an item waits
// 1 ms at most, unless the manager has many workers to look at and ticks more slowly.
//
// A worker that wakes up between the look and the mark is counted asleep until the end of its
// region or item, or until the second look: at worst there is one worker too many for as long.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include <iowq/base/policy.hpp>
#include <iowq/pool/state.hpp>

namespace iowq::detail {

/// The manager's eyes. Manager only, under M, which a look gives up for its duration.
template <class Policy>
class watch {
  using state = pool_state<Policy>;
  using account_type = typename state::account_type;
  using worker_type = worker<Policy>;
  using lock = typename Policy::lock;

 public:
  using duration = time_point::duration;
  static constexpr duration usual_tick = std::chrono::microseconds{700};
  static constexpr duration longest_tick = std::chrono::milliseconds{10};

  explicit watch(state& pool) noexcept : pool_{pool} {}

  /// How slow the ticks may become: a look costs about 2.5 us, and many of them must not cost
  /// more than two parts in a hundred of a processor.
  [[nodiscard]] duration slowest() const noexcept {
    return std::clamp<duration>(looks_ * std::chrono::microseconds{160}, usual_tick, longest_tick);
  }

  /// How long the manager may sleep before the next sample, if it would sleep until `wanted`.
  [[nodiscard]] time_point next_look(time_point wanted) const noexcept {
    return std::min(wanted, overdue_at_);
  }

  /// Before the first sample after a pause: how long an item has waited since is not known.
  void begin() noexcept {
    for (account_type& account : pool_.accounts)
      for (auto& lane : account.lanes) lane.is_marked = false;
  }

  /// One look at all that run. True: something came of it.
  bool sample(lock& held) noexcept {
    bool const relieved = relieve_all();
    worker_type* looked = nullptr;
    looks_ = 0;
    for (account_type& account : pool_.accounts) {
      if (!needs_watch(account)) continue;
      for (worker_type* one = account.workers.front(); one != nullptr; one = one->next) {
        if (one->state != worker_state::running || one->cur == nullptr) continue;
        // relaxed: only a change counts, and an old value is a change not yet seen.
        std::uint64_t const stamp = one->stamp.load(std::memory_order_relaxed);
        // Who is in a region said itself that it may block, so the first look is believed.
        one->stood_still = stamp == one->stamp_seen || one->at() == phase::region;
        one->stamp_seen = stamp;
        if (one->at() == phase::pool || (!one->stood_still && account.quick())) continue;
        one->next_sample = looked;
        looked = one;
        ++looks_;
      }
    }
    if (looked != nullptr) look_at(looked, thread_state::sleeping, held);
    unsigned dozing[2] = {};
    bool acted = relieved;
    for (worker_type* one = looked; one != nullptr; one = one->next_sample) {
      one->dozed = one->sample_holds ? one->dozed + 1 : 0;
      if (!one->sample_holds || one->state != worker_state::running) continue;
      if (one->stood_still && one->stamp.load(std::memory_order_relaxed) == one->stamp_seen) {
        pool_.mark_sleeping(*one);
        ++pool_.sleeps;
        acted = true;
      } else if (one->dozed >= looks_to_doze) {
        ++dozing[static_cast<unsigned>(one->kind)];
      }
    }
    for (unsigned kind = 0; kind < 2; ++kind)
      acted |= reinforce(pool_.accounts[kind], dozing[kind]);
    return acted;
  }

  /// The node whose queue is the longest.
  [[nodiscard]] static unsigned waits_longest(const account_type& account) noexcept {
    unsigned longest = 0;
    for (unsigned node = 1; node < account.lanes.size(); ++node)
      if (account.lanes[node].nr_ready > account.lanes[longest].nr_ready) longest = node;
    return longest;
  }

  /// A worker that slept in its item without saying so may have woken up, and compute: before a
  /// thread is made, look at a few of them again. True: one of them runs, and takes the next.
  bool some_sleeper_runs(account_type& account, lock& held) noexcept {
    if (account.concurrent > 0) return false;
    worker_type* looked = nullptr;
    worker_type* last = account.workers.back();
    for (int looks = 0; looks < max_second_looks && last != nullptr; ++looks) {
      worker_type& first = *account.workers.front();
      account.workers.erase(first);  // round and round, a few at a time
      account.workers.push_back(first);
      if (pool_.may_rise(first)) {
        first.next_sample = looked;
        looked = &first;
      }
      if (&first == last) break;
    }
    if (looked == nullptr) return false;
    look_at(looked, thread_state::running, held);
    bool found = false;
    for (worker_type* one = looked; one != nullptr; one = one->next_sample)
      if (one->sample_holds && pool_.may_rise(*one)) {
        pool_.mark_running(*one);
        found = true;
      }
    return found;
  }

 private:
  static constexpr duration overdue = std::chrono::microseconds{300};  // since it was marked
  static constexpr int max_second_looks = 8;
  static constexpr unsigned looks_to_doze = 2;  // in a row; once may be chance

  /// Wakes an idle worker for each item that has waited too long behind running ones. True: one
  /// was woken.
  bool relieve_all() noexcept {
    time_point const now = Policy::now();
    overdue_at_ = never;
    deeds<Policy> todo;
    for (account_type& account : pool_.accounts)
      for (unsigned node = 0; node < account.lanes.size(); ++node)
        relieve(account, node, now, todo);
    pool_.carry_out(todo);
    return todo.woken() != nullptr;
  }
  void relieve(account_type& account, unsigned node, time_point now, deeds<Policy>& todo) noexcept {
    auto& lane = account.lanes[node];
    // Modulo 2^32 on purpose: `taken` wraps.
    auto const before_mark = static_cast<int>(lane.mark - lane.taken);
    bool const waits = lane.is_marked && before_mark > 0 && lane.nr_ready > 0;
    if (waits && now - lane.marked_at >= overdue) {
      unsigned left = std::min(static_cast<unsigned>(before_mark), lane.nr_ready);
      for (; left > account.waking && account.idle > 0; --left)
        pool_.wake(*account.newest_idle(pool_.nodes.near(node)), todo);
    }
    if (!waits || now - lane.marked_at >= overdue) {
      lane.is_marked = lane.nr_ready > 0;
      lane.mark = lane.taken + lane.nr_ready;
      lane.marked_at = now;
    }
    if (lane.is_marked && account.idle > 0)
      overdue_at_ = std::min(overdue_at_, lane.marked_at + overdue);
  }

  /// After a sample: what is still unserved gets an idle worker, or a new one, as ever; and one
  /// for each that dozes, while there is something for it to do. True: something was done.
  bool reinforce(account_type& account, unsigned dozing) noexcept {
    unsigned const before = account.waking + account.creating;
    deeds<Policy> todo;
    pool_.settle(account, waits_longest(account), account.concurrent > 0, todo);
    pool_.carry_out(todo);
    for (; dozing > 0 && needs_watch(account) && account.idle == 0 &&
           account.runnable > account.waking + account.creating;
         --dozing)
      account.reserve();
    return account.waking + account.creating != before;
  }

  /// Asks the kernel, without M, whether each of these is in the state `expected`.
  void look_at(worker_type* first, thread_state expected, lock& held) noexcept {
    held.unlock();
    for (worker_type* one = first; one != nullptr; one = one->next_sample)
      one->sample_holds = one->probe.look(one->thread, one->tid) == expected;
    Policy::pause(pause_point::sample_apply);
    held.lock();
  }

  state& pool_;
  int looks_ = 0;                  // at workers, in the last sample
  time_point overdue_at_ = never;  // when an item may have waited too long beside an idle worker
};

}  // namespace iowq::detail
