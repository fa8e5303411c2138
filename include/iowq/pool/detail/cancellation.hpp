// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/cancellation.hpp -- cancels one item, some or all; waits until the pool is
// quiet.
//
// io_wq_cancel_cb(), in one pass under M: an item is queued, or running, or gone, and there is no
// gap between the places (the kernel had one twice: bug 23). What was queued is finished after M.
// What runs is asked to end: the stop token first, then the worker's descriptor, so that a wait
// of the form "token? poll(fd, wake descriptor)" cannot miss both. A stop callback is a
// stranger's code and never runs under M; until it is through, the worker is *held*: its item
// may end, but the worker touches neither token nor descriptor and takes no other item, so a
// late request never reaches the wrong one. No signal is sent.
//
// For who is about to exec(2), which kills every other thread wherever it is, in the middle of a
// write too; and for a pool's end that lets bound work finish. Both are rare and neither is in a
// hurry, so nobody pays for them while they are not asked for: this looks, now and then.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <optional>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/pool/detail/generation.hpp>
#include <iowq/pool/detail/state.hpp>

namespace iowq::inline v0::detail {

/// One request, made on the stack of whoever cancels. Any thread.
template <class Policy>
class cancellation {
  using state = pool_state<Policy>;
  using account_type = typename state::account_type;
  using worker_type = worker<Policy>;

 public:
  explicit cancellation(state& pool) noexcept : pool_{pool} {}

  /// Under M. Cancels `asked`.
  void add(item& asked) noexcept {
    if (asked.queued())
      dequeue(asked);
    else if (asked.state == item_state::running)
      stop(asked);
    else if (asked.state == item_state::linked)
      unlink(asked, all_generations);  // of its head's, which is not known here
    close();
  }

  /// Under M. Cancels every item for which `match` is true: first those behind others of their
  /// key, then the ready ones, then the running ones; of each first what is linked behind it.
  template <class Match>
  void add_all(Match&& match) {
    auto wanted = [&](item& one) noexcept -> bool { return match(work_access::from_item(one)); };
    for (account_type& account : pool_.accounts) {
      for (worker_type* one = account.workers.front(); one != nullptr; one = one->next)
        if (one->cur != nullptr && one->cur->keyed) dequeue_followers(*one->cur, wanted);
      for (auto& node_queue : account.node_queues)
        for (item *now = node_queue.ready.front(), *next = nullptr; now != nullptr; now = next) {
          next = now->next;  // an next_head takes the place of its key_head, before `next`, unasked
          if (now->keyed) dequeue_followers(*now, wanted);
          if (wanted(*now))
            dequeue(*now);
          else
            unlink_behind(*now, wanted);
        }
    }
    for (account_type& account : pool_.accounts)
      for (worker_type* one = account.workers.front(); one != nullptr; one = one->next) {
        for (item* now = one->cur; now != nullptr; now = now->next) {
          unlink_behind(*now, wanted);
          if (wanted(*now)) stop(*now);
        }
        if (one->later != nullptr) {
          unlink_behind(*one->later, wanted);
          if (wanted(*one->later)) unlink(*one->later, generation_of(*one->later));
        }
      }
    close();
  }

  /// Without M: finishes what was dequeued, stops what runs. Touches nothing of the pool after the
  /// last finished() was entered: a worker that is held keeps its item, and so its pool.
  cancel_outcome deliver() noexcept {
    pool_.run_deferred(todo_);
    dequeued_.finish();
    for (worker_type *one = held_, *next = nullptr; one != nullptr; one = next) {
      next = one->next_cancelled;
      Policy::pause(pause_point::held_stop);
      one->stop->request_stop();
      // acquire: pairs with wake_descriptor()'s release; the descriptor is open, and stays so
      // while we hold the worker. Not there yet: who opens it rings it.
      int const fd = one->wake_fd.load(std::memory_order_acquire);
      if (fd >= 0) Policy::wake_ring(fd);
      release(*one);
    }
    return outcome_;
  }

 private:
  /// The last step under M.
  void close() noexcept {
    pool_.ensure_worker(todo_);
    dequeued_.announce(*pool_.finishers);
  }
  void dequeue(item& queued) noexcept {
    dequeued_.are_of(generation_of(queued));
    pool_.dequeue_item(queued, ECANCELED, todo_, [this](item& one) { keep(one); });
  }
  template <class Wanted>
  void dequeue_followers(item& key_head, Wanted&& wanted) {
    auto asked = [&](item& waiting) noexcept {
      bool const whole = wanted(waiting);
      if (!whole) unlink_behind(waiting, wanted);
      return whole;
    };
    key_table::extract(key_head, asked, [this](item& waiting) {
      dequeued_.are_of(generation_of(waiting));
      pool_.drop_queued(waiting, ECANCELED, [this](item& one) { keep(one); });
    });
  }
  /// One that is linked behind another, and so all behind it. They are of the generations `of`.
  void unlink(item& linked, generation_set of) noexcept {
    if (linked.predecessor == nullptr) {  // in a worker's hands, who finishes it
      linked.withdrawn = true;
      outcome_ = cancel_outcome::running;
      return;
    }
    linked.predecessor->successor = nullptr;
    dequeued_.are_of(of);
    pool_.cancel_chain(&linked, ECANCELED, [this](item& one) { keep(one); });
  }
  template <class Wanted>
  void unlink_behind(item& head, Wanted&& wanted) noexcept {
    for (item* one = head.successor; one != nullptr; one = one->successor)
      if (wanted(*one)) return unlink(*one, generation_of(head));
  }
  void keep(item& withdrawn) noexcept {
    dequeued_.add(withdrawn);
    if (outcome_ == cancel_outcome::not_found) outcome_ = cancel_outcome::dequeued;
  }
  void stop(item& running) noexcept {
    outcome_ = cancel_outcome::running;
    auto& worker_thread = *static_cast<worker_type*>(running.worker_thread);
    // One of a batch: which of them has the token and the descriptor just now, nobody knows, and
    // brief as they are, none has a use for either.
    if (worker_thread.cur->next != nullptr) return;
    if (worker_thread.cancel_requested) return;  // somebody has seen to it, or is about to
    worker_thread.cancel_requested = worker_thread.canceller_active = true;
    worker_thread.next_cancelled = held_;
    held_ = &worker_thread;
  }
  void release(worker_type& worker_thread) noexcept {
    typename Policy::lock const lock = pool_.acquire();
    worker_thread.canceller_active = false;
    // relaxed: written under M. The wake is made under M too: afterwards the worker is not ours.
    if (worker_thread.word.load(std::memory_order_relaxed) != worker_type::waits_for_canceller)
      return;
    worker_thread.word.store(worker_type::awake, std::memory_order_relaxed);
    Policy::futex_wake(worker_thread.word, 1);
  }

  state& pool_;
  departures<Policy> dequeued_;
  worker_type* held_ = nullptr;
  deferred_wakes<Policy> todo_;
  cancel_outcome outcome_ = cancel_outcome::not_found;
};

/// Without M: finishes what a closed pool rejected. The pool's end waits for the calling thread, or
/// is what it does.
template <class Policy>
IOWQ_COLD void finish_rejected(pool_state<Policy>& pool, departures<Policy>& items) noexcept {
  {
    auto const held = pool.acquire();
    if (!pool.rejections.begin(items)) return;
  }
  items.finish();
  auto const held = pool.acquire();
  pool.rejections.end(items);
}

/// Under M: every item of this generation was finished, and its finished() has returned.
template <class Policy>
[[nodiscard]] bool is_quiet(const pool_state<Policy>& pool, std::uint64_t generation) noexcept {
  auto const slot = static_cast<unsigned>(generation % generation_slots);
  if (pool.finishers->any_inside(slot)) return false;
  for (auto const& account : pool.accounts) {
    if (account.unfinished[slot] != 0) return false;
    for (const worker<Policy>* one = account.workers.front(); one != nullptr; one = one->next)
      // acquire: pairs with the worker_thread's release; what finished() did is done, and seen.
      if ((one->finishing.load(std::memory_order_acquire) >> slot & 1) != 0) return false;
  }
  return true;
}

/// Under M: ends the generations that are quiet, but for the current one.
template <class Policy>
void end_quiet_generations(pool_state<Policy>& pool) noexcept {
  while (pool.oldest_generation < pool.generation && is_quiet(pool, pool.oldest_generation))
    ++pool.oldest_generation;
}

/// Calls `look` under M, now and then, until it is true.
template <class Policy, class Look>
void poll_under_lock(pool_state<Policy>& pool, Look look) noexcept {
  using namespace std::chrono_literals;
  typename Policy::template atomic<std::uint32_t> never_rung{0};
  for (time_point::duration pause = 50us;; pause = std::min<time_point::duration>(2 * pause, 5ms)) {
    {
      auto const held = pool.acquire();
      if (look()) return;
    }
    (void)Policy::futex_wait(never_rung, 0, Policy::now() + pause);
  }
}

/// Without M: returns when every item that was accepted before the call was finished, and its
/// finished() has returned.
template <class Policy>
void wait_until_quiet(pool_state<Policy>& pool) noexcept {
  IOWQ_ASSERT(worker<Policy>::current() == nullptr || worker<Policy>::current()->home != &pool,
              "quiesce() was called on a worker of its pool, where it would wait for itself: call "
              "it on another thread");
  std::optional<std::uint64_t> later;  // the first generation that it does not wait for
  poll_under_lock(pool, [&] {
    end_quiet_generations(pool);
    if (!later && is_quiet(pool, pool.generation))
      later = pool.generation;
    else if (!later && pool.generation - pool.oldest_generation + 1 < generation_slots)
      later = ++pool.generation;
    return later && pool.oldest_generation >= *later;
  });
}

/// The first part of a pool's end that drains: takes nothing new, cancels what is unbound, as
/// io-wq does (it might wait for ever, with bound work behind its key), lets the bound work run.
template <class Policy>
void drain_bound(pool_state<Policy>& pool) noexcept {
  cancellation<Policy> unbound{pool};
  {
    auto const held = pool.acquire();
    pool.closed = true;
    unbound.add_all([](const work& one) { return one.flags().unbound; });
  }
  (void)unbound.deliver();
  // No longer: their finished() may still run, and the pool's end joins the workers that call it.
  poll_under_lock(pool, [&] {
    auto const& unfinished = pool.accounts[0].unfinished;
    return std::all_of(std::begin(unfinished), std::end(unfinished),
                       [](unsigned items) { return items == 0; });
  });
}

}  // namespace iowq::inline v0::detail
