// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/account.hpp -- the counts of one class of work, and the decisions made from
// them.
//
// io_wq_acct, with the two repairs it got over the years: each class has its own list (one list
// for both let them block each other), and a worker belongs to one class for life. Counts are
// plain integers, since all of them change under M; the kernel's split into two locks and atomics
// is what reintroduced lost wake-ups and lost items.
//
// Numbers in, a decision out, so that each rule is tested without a thread. Whether an item waits
// for ever is decided in this file:
//
//   D2  If something is runnable, then a worker is on its way to take it; or one is in an item
//       and awake, and will look before it idles; or one is being created; or the manager
//       watches; or the limit is reached.
//
// The kernel wakes a free worker for each item. That is right for items that block and costs two
// to four times their price for those that do not: the woken thread contends for a processor and
// for M, finds nothing left, and sleeps again. So while items prove short, an idle worker is
// woken only for a processor that has none; the rest of D2 is the manager's watch.
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

/// The numbers that decisions are made of.
struct account_counts {
  // Items.
  unsigned runnable = 0;    // in the ready lists: could run now. Those behind a busy key cannot
  unsigned concurrent = 0;  // of those, the ones that want a worker of their own
  std::size_t queued = 0;   // accepted and not started, chained ones included
  unsigned arrived = 0;     // accepted, ever; wraps
  unsigned unfinished[generation_slots] = {};  // accepted, and neither ended nor cancelled
  // Workers. A1: idle + nr_running + sleeping == live.
  unsigned live = 0;
  unsigned idle = 0;        // on an idle stack
  unsigned nr_running = 0;  // awake: running an item, or about to look for one
  unsigned waking = 0;      // of those, without an item: each will look for one, under M
  unsigned sleeping = 0;    // in an item and asleep, as far as the manager saw
  unsigned creating = 0;    // promised and not yet live. A2: live + creating <= max when promised
  unsigned max_workers = 0;
  unsigned peak = 0;  // of live
  // More workers than processors help only where they wait for something else.
  unsigned processors = std::numeric_limits<unsigned>::max();
  std::chrono::nanoseconds pace{};  // what an item takes, about
  std::chrono::nanoseconds took_before{};

  /// More is runnable than those that are on their way will take.
  [[nodiscard]] constexpr bool unserved() const noexcept { return runnable > waking; }

  /// Items end sooner than another worker would be awake: 10 us, as measured, and some slack.
  static constexpr std::chrono::microseconds short_pace{20};
  [[nodiscard]] constexpr bool quick() const noexcept { return pace < short_pace; }

  /// An item took that long: one in some that a worker measures. One that lost its processor
  /// meanwhile says nothing about the others: only two in a row that took long are believed.
  constexpr void measured(std::chrono::nanoseconds took) noexcept {
    auto const believed = std::min(
        {took, std::exchange(took_before, took), std::chrono::nanoseconds{8 * short_pace}});
    pace += (believed - pace) / 4;
  }
  /// A worker was seen asleep in an item.
  constexpr void slow_down() noexcept {
    pace = std::max<std::chrono::nanoseconds>(pace, 4 * short_pace);
  }

  /// Asserts A1 and what else must hold between these counts. A few instructions: every move of a
  /// worker ends with it, in every build.
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
      ready;  // unhashed items, and leaders of keys that are not busy
  unsigned nr_ready = 0;
  unsigned taken = 0;  // from the front of `ready`, ever; wraps
  intrusive_list<&Worker::next_idle, &Worker::prev_idle> idle;  // a stack: the newest is in front

  // The manager's. What was ready at the time `marked_at` is gone when `taken` reaches `mark`.
  bool is_marked = false;
  unsigned mark = 0;
  time_point marked_at{};
};

/// One class. Under M.
template <class Worker>
struct account : account_counts {
  std::vector<node_queue<Worker>> node_queues;           // one a node; sized once
  intrusive_list<&Worker::next, &Worker::prev> workers;  // live ones, oldest first

  /// Appends an item that may run now to its node_queue.
  void make_ready(item& startable) noexcept {
    startable.state = item_state::ready;
    node_queues[startable.node_queue].ready.push_back(startable);
    count(startable, +1);
  }
  /// Puts `next_head` where `key_head` stands in the ready list; both are of this class and
  /// node_queue.
  void make_ready_at(item& key_head, item& next_head) noexcept {
    node_queues[key_head.node_queue].ready.replace(key_head, next_head);
    count(key_head, -1);
    next_head.state = item_state::ready;
    count(next_head, +1);
  }
  /// Takes a ready item out.
  void unready(item& ready) noexcept {
    node_queues[ready.node_queue].ready.erase(ready);
    count(ready, -1);
  }

  /// Takes out the oldest ready item of its node_queue, to run it.
  void take_ready(item& oldest) noexcept {
    ++node_queues[oldest.node_queue].taken;
    unready(oldest);
  }

  /// A worker without work goes on top of its node's stack.
  void push_idle(Worker& worker) noexcept {
    node_queues[worker.node].idle.push_front(worker);
    --nr_running;
    ++idle;
    check();
  }
  /// It leaves the stack to run, from wherever it is.
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

  void reserve() noexcept {
    IOWQ_ASSERT(live + creating < max_workers);  // A2
    ++creating;
  }
  /// A created worker is counted, awake, in the step that gives its reservation back.
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

/// What an account with something runnable, and nobody on the way to it, needs next.
enum class step : unsigned char {
  none,    // who is awake will take it, or the limit is reached
  wake,    // an idle worker
  create,  // another worker
  watch,   // the manager's eye on those that run: should all of them sleep, another worker
};

/// `concurrent`: the item that just became runnable wants a worker of its own.
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

/// While true the manager may not park.
[[nodiscard]] constexpr bool needs_watch(const account_counts& counts) noexcept {
  return counts.unserved() &&
         (counts.idle > 0 || counts.live + counts.creating < counts.max_workers);
}

/// A reservation that nobody needs any more: an idle worker appeared, or the work is gone. (The
/// kernel created all the same, and threads churned: bug 29.)
[[nodiscard]] constexpr bool creation_is_stale(const account_counts& counts) noexcept {
  return counts.idle > 0 || (!counts.unserved() && counts.live > 0);
}

/// Whether a worker that has no item may not look for another: the pool ends, its context is an
/// old one, or the limit was lowered.
[[nodiscard]] constexpr bool must_leave(const account_counts& counts, bool exit,
                                        bool stale) noexcept {
  return exit || stale || counts.live > counts.max_workers;
}

/// Whether an idle worker may go when its time is up. The last of a class stays.
[[nodiscard]] constexpr bool may_time_out(const account_counts& counts,
                                          bool exit_on_idle) noexcept {
  return exit_on_idle || counts.live > 1;
}

}  // namespace iowq::inline v0::detail
