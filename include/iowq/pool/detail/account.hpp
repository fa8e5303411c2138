// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/account.hpp -- the counts of one class of work, and the decisions based on them.
//
// This is the kernel's io_wq_acct with the two repairs that it received over the years. Each class
// has its own list: with one list for both, the classes blocked each other. And a worker belongs to
// one class for life. The counts are plain integers, because all of them change under M. The
// kernel's split into two locks and atomics is what reintroduced lost wake-ups and lost items.
//
// The decisions are functions of the counts alone, so each rule can be tested without a thread.
// They keep the invariant that no runnable item is forgotten:
//
//   D2  If an item is runnable, then a worker is on its way to take it; or a worker is awake in an
//       item, and will look for another before it goes idle; or a worker is being created; or the
//       manager watches the account; or the limit is reached.
//
// The kernel wakes a free worker for each item. That is right for items that block. For items that
// do not block it multiplies the cost by two to four: the woken thread contends for a processor and
// for M, finds no item left, and sleeps again. So while items prove to be short, an idle worker is
// woken only if there are fewer running workers than processors. For the other items the manager
// keeps D2 by watching.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/queue/intrusive_list.hpp>

namespace iowq::inline v0::detail {

/// The counts on which the decisions are based.
struct account_counts {
  // Items.
  unsigned runnable = 0;                       // in the ready lists, so not behind a busy key
  unsigned concurrent = 0;                     // runnable items that require a worker of their own
  std::size_t queued = 0;                      // accepted and not started, including chained items
  unsigned arrived = 0;                        // total number accepted; wraps
  unsigned unfinished[generation_slots] = {};  // accepted, and neither ended nor cancelled
  // Workers. A1: idle + nr_running + sleeping == live.
  unsigned live = 0;
  unsigned idle = 0;        // on an idle stack
  unsigned nr_running = 0;  // awake: running an item, or about to look for one
  unsigned waking = 0;      // running workers without an item that will look for one under M
  unsigned sleeping = 0;    // found asleep in an item by the manager
  unsigned creating = 0;    // reserved, not yet live. A2: live + creating <= max when reserved
  unsigned max_workers = 0;
  unsigned peak = 0;  // greatest value of `live`
  // More workers than processors help only if items wait for something other than a processor.
  unsigned processors = std::numeric_limits<unsigned>::max();
  std::chrono::nanoseconds pace{};  // approximate duration of an item
  std::chrono::nanoseconds took_before{};

  /// Whether more items are runnable than the waking workers will take.
  [[nodiscard]] constexpr bool unserved() const noexcept { return runnable > waking; }

  /// An item shorter than this ends before another worker would be awake. A wake-up was measured to
  /// take 10 us; the rest is slack.
  static constexpr std::chrono::microseconds short_pace{20};
  [[nodiscard]] constexpr bool quick() const noexcept { return pace < short_pace; }

  /// Records the duration of an item. A worker measures only one run in 16. An item that was
  /// preempted says nothing about the others, so the smaller of two consecutive durations counts.
  constexpr void measured(std::chrono::nanoseconds took) noexcept {
    auto const believed = std::min(
        {took, std::exchange(took_before, took), std::chrono::nanoseconds{8 * short_pace}});
    pace += (believed - pace) / 4;
  }
  /// A worker was seen asleep in an item.
  constexpr void slow_down() noexcept {
    pace = std::max<std::chrono::nanoseconds>(pace, 4 * short_pace);
  }

  /// Asserts A1 and the other relations between these counts. It costs a few instructions, so every
  /// state change of a worker ends with it in every build.
  void check() const noexcept {
    // The sum has 64 bits, so a count that fell below zero is larger than `live` by itself and
    // does not cancel out against another count.
    IOWQ_ASSERT(std::uint64_t{idle} + nr_running + sleeping == live);  // A1
    IOWQ_ASSERT(waking <= nr_running);
    IOWQ_ASSERT(runnable <= queued && concurrent <= runnable);
  }
};

/// One class on one node.
template <class Worker>
struct node_queue {
  intrusive_list<&item::next, &item::prev>
      ready;  // items without a key, and the key_heads of keys that are not busy
  unsigned nr_ready = 0;
  unsigned taken = 0;        // total number taken from the front of `ready`; wraps
  unsigned passed_over = 0;  // takes from other nodes since the last one here, with items ready
  intrusive_list<&Worker::next_idle, &Worker::prev_idle> idle;  // a stack: the newest is in front

  // Used by the manager. When `taken` reaches `mark`, all items that were ready at `marked_at` have
  // been taken.
  bool is_marked = false;
  unsigned mark = 0;
  time_point marked_at{};
};

/// One class. Under M.
template <class Worker>
struct account : account_counts {
  std::vector<node_queue<Worker>> node_queues;           // one for each node; sized once
  intrusive_list<&Worker::next, &Worker::prev> workers;  // live workers, oldest first

  /// Appends an item that may run now to the ready list of its node_queue.
  void make_ready(item& startable) noexcept {
    startable.state = item_state::ready;
    node_queues[startable.node_queue].ready.push_back(startable);
    count(startable, +1);
  }
  /// Replaces `key_head` by `next_head` in the ready list. Both have this class and the same
  /// node_queue.
  void make_ready_at(item& key_head, item& next_head) noexcept {
    node_queues[key_head.node_queue].ready.replace(key_head, next_head);
    count(key_head, -1);
    next_head.state = item_state::ready;
    count(next_head, +1);
  }
  /// Removes an item from its ready list.
  void unready(item& ready) noexcept {
    node_queues[ready.node_queue].ready.erase(ready);
    count(ready, -1);
  }

  /// Removes the oldest ready item of its node_queue, to run it.
  void take_ready(item& oldest) noexcept {
    ++node_queues[oldest.node_queue].taken;
    unready(oldest);
  }

  /// Pushes a worker without work on the idle stack of its node.
  void push_idle(Worker& worker) noexcept {
    node_queues[worker.node].idle.push_front(worker);
    --nr_running;
    ++idle;
    check();
  }
  /// Removes a worker from any position of the idle stack, to run.
  void remove_idle(Worker& worker) noexcept {
    node_queues[worker.node].idle.erase(worker);
    --idle;
    ++nr_running;
    ++waking;
    check();
  }
  /// The newest idle worker of the first of these nodes that has one.
  [[nodiscard]] Worker* newest_idle(const std::vector<std::uint8_t>& nodes) const noexcept {
    for (std::uint8_t const node : nodes)
      if (Worker* const worker = node_queues[node].idle.front(); worker != nullptr) return worker;
    return nullptr;
  }

  /// Reserves the place of a worker that the manager is to create.
  void reserve() noexcept {
    IOWQ_ASSERT(live + creating < max_workers);  // A2
    ++creating;
  }
  /// Turns a reservation into a live, running worker, in one critical section.
  void add(Worker& worker) noexcept {
    --creating;
    ++live;
    ++nr_running;
    ++waking;
    if (live > peak) peak = live;
    workers.push_back(worker);
    check();
  }
  void remove(Worker& worker) noexcept {
    workers.erase(worker);
    --live;
    --nr_running;
    check();
  }

 private:
  void count(const item& one, int by) noexcept {
    auto add_to = [by](unsigned& number) { number = static_cast<unsigned>(int(number) + by); };
    add_to(node_queues[one.node_queue].nr_ready);
    add_to(runnable);
    if (one.concurrent) add_to(concurrent);
  }
};

/// The next step for an account, as decided by next_step().
enum class step : unsigned char {
  none,    // nothing: a waking worker takes the item, or the limit is reached
  wake,    // wake an idle worker
  create,  // create a worker
  watch,   // let the manager watch the running workers, and add one if all of them sleep
};

/// Decides the next step. `concurrent`: an item that just became runnable requires a worker of its
/// own.
[[nodiscard]] constexpr step next_step(const account_counts& counts, bool concurrent) noexcept {
  if (!counts.unserved()) return step::none;
  if (counts.idle > 0) {
    bool const helps = concurrent || !counts.quick() || counts.nr_running < counts.processors;
    return helps ? step::wake : step::watch;
  }
  if (counts.live + counts.creating >= counts.max_workers) return step::none;
  if (counts.nr_running + counts.creating == 0) return step::create;
  if (concurrent && counts.creating + counts.waking < counts.runnable) return step::create;
  return step::watch;
}

/// Whether the manager must watch the account. While true, the manager may not park.
[[nodiscard]] constexpr bool needs_watch(const account_counts& counts) noexcept {
  return counts.unserved() &&
         (counts.idle > 0 || counts.live + counts.creating < counts.max_workers);
}

/// Whether a reservation is no longer needed: a worker became idle, or the items are gone. (The
/// kernel created the worker even then, and threads churned: bug 29.)
[[nodiscard]] constexpr bool creation_is_stale(const account_counts& counts) noexcept {
  return counts.idle > 0 || (!counts.unserved() && counts.live > 0);
}

/// Whether a worker without an item must leave: the pool is being destroyed, the worker was created
/// in an old context, or the limit was lowered.
[[nodiscard]] constexpr bool must_leave(const account_counts& counts, bool exit,
                                        bool stale) noexcept {
  return exit || stale || counts.live > counts.max_workers;
}

/// Whether an idle worker may leave after its time-out. The last worker of a class stays, unless
/// `exit_on_idle`.
[[nodiscard]] constexpr bool may_time_out(const account_counts& counts,
                                          bool exit_on_idle) noexcept {
  return exit_on_idle || counts.live > 1;
}

}  // namespace iowq::inline v0::detail
