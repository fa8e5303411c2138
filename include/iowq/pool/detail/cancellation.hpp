// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/cancellation.hpp -- cancels items, and waits until earlier items have finished.
//
// A cancellation is the kernel's io_wq_cancel_cb() in one pass under M. An item is either queued or
// running or gone. There is no gap between these places; the kernel had one twice (bug 23). Queued
// items are finished after M is released. A running item is told to stop: first through its stop
// token, then through its worker's wake descriptor. So a wait that checks the token and then calls
// poll(2) on its descriptor and the wake descriptor cannot miss the request. No signal is sent.
//
// A stop callback is user code and never runs under M. Until it has returned, the worker is *held*
// (`canceller_active`): its item may end, but the worker does not reset the token or the descriptor
// and takes no other item. So a late request never reaches the wrong item.
//
// The second part of this file waits for items to finish. Two callers need that: quiesce(), which
// is called before exec(2) kills every other thread wherever it is, even in the middle of a write;
// and a pool's destructor that lets bound items run first. Both are rare and not urgent. So they
// poll the counts at intervals, and workers pay nothing for them.
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

/// One request to cancel. It lives on the stack of the calling thread, which may be any thread.
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
      unlink(asked, all_generations);  // its generation is that of its head, unknown here
    close();
  }

  /// Under M. Cancels every item for which `match` returns true. In each account it cancels the
  /// items that wait behind another of their key, then the ready items; at the end it cancels the
  /// running items. It also examines the items linked behind each of them.
  template <class Match>
  void add_all(Match&& match) {
    auto wanted = [&](item& one) noexcept -> bool { return match(work_access::from_item(one)); };
    for (account_type& account : pool_.accounts) {
      for (worker_type* one = account.workers.front(); one != nullptr; one = one->next)
        if (one->cur != nullptr && one->cur->keyed) dequeue_followers(*one->cur, wanted);
      for (auto& node_queue : account.node_queues)
        for (item *now = node_queue.ready.front(), *next = nullptr; now != nullptr; now = next) {
          next = now->next;  // a next_head takes the place of `now`, and is not examined again
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

  /// Without M. Finishes the dequeued items and stops the running ones. If there is no running
  /// item, the pool is not accessed after the last finished() was entered, because the pool may
  /// then be destroyed. A held worker keeps its item, so the pool still exists.
  cancel_outcome deliver() noexcept {
    pool_.run_deferred(todo_);
    dequeued_.finish();
    for (worker_type *one = held_, *next = nullptr; one != nullptr; one = next) {
      next = one->next_cancelled;
      Policy::pause(pause_point::held_stop);
      one->stop->request_stop();
      // acquire: pairs with the release in wake_descriptor(). The descriptor is open, and stays
      // open while the worker is held. If it is not open yet, the worker that opens it later makes
      // it readable.
      int const fd = one->wake_fd.load(std::memory_order_acquire);
      if (fd >= 0) Policy::wake_ring(fd);
      release(*one);
    }
    return outcome_;
  }

 private:
  /// The last step of add() and add_all(), under M.
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
  /// Cancels `linked`, which is linked behind another item, and all items behind it. Their
  /// generations are among `of`.
  void unlink(item& linked, generation_set of) noexcept {
    if (linked.predecessor == nullptr) {  // worker::later: the worker will finish it
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
    // In a batch it is not known which item currently runs with the token and the descriptor. Its
    // items are brief, so they do not need either.
    if (worker_thread.cur->next != nullptr) return;
    if (worker_thread.cancel_requested) return;  // another canceller has stopped it or will do so
    worker_thread.cancel_requested = worker_thread.canceller_active = true;
    worker_thread.next_cancelled = held_;
    held_ = &worker_thread;
  }
  void release(worker_type& worker_thread) noexcept {
    typename Policy::lock const lock = pool_.acquire();
    worker_thread.canceller_active = false;
    // relaxed: written under M. The wake is also made under M, because the worker may be gone after
    // M is released.
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

/// Without M. Finishes the items that a closed pool rejected. The pool still exists: the calling
/// thread is one that the destructor waits for, or the one that runs the destructor.
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

/// Under M. Whether every item of this generation was finished and its finished() has returned.
template <class Policy>
[[nodiscard]] bool is_quiet(const pool_state<Policy>& pool, std::uint64_t generation) noexcept {
  auto const slot = static_cast<unsigned>(generation % generation_slots);
  if (pool.finishers->any_inside(slot)) return false;
  for (auto const& account : pool.accounts) {
    if (account.unfinished[slot] != 0) return false;
    for (const worker<Policy>* one = account.workers.front(); one != nullptr; one = one->next)
      // acquire: pairs with the release in worker_thread, so the effects of finished() are visible.
      if ((one->finishing.load(std::memory_order_acquire) >> slot & 1) != 0) return false;
  }
  return true;
}

/// Under M. Ends the oldest generations that are quiet, but not the current one.
template <class Policy>
void end_quiet_generations(pool_state<Policy>& pool) noexcept {
  while (pool.oldest_generation < pool.generation && is_quiet(pool, pool.oldest_generation))
    ++pool.oldest_generation;
}

/// Calls `look` under M until it returns true, at intervals that grow from 50 us to 5 ms.
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

/// Without M. Returns when every item that was accepted before the call was finished and its
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

/// The first part of the destruction of a pool with `drain_bounded`. Rejects new items, cancels the
/// unbound items, and waits until the bound items have run. io-wq also cancels unbound work: it
/// might never end, and bound items may wait behind its key.
template <class Policy>
void drain_bound(pool_state<Policy>& pool) noexcept {
  cancellation<Policy> unbound{pool};
  {
    auto const held = pool.acquire();
    pool.closed = true;
    unbound.add_all([](const work& one) { return one.flags().unbound; });
  }
  (void)unbound.deliver();
  // Does not wait for finished() to return: the destructor joins the workers that call it.
  poll_under_lock(pool, [&] {
    auto const& unfinished = pool.accounts[0].unfinished;
    return std::all_of(std::begin(unfinished), std::end(unfinished),
                       [](unsigned items) { return items == 0; });
  });
}

}  // namespace iowq::inline v0::detail
