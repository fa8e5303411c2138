// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/worker_thread.hpp -- the main loop of a worker thread.
//
// It corresponds to the kernel's io_wq_worker() and io_worker_handle_work(). In one critical
// section the worker ends its item, and takes the next item or goes idle. After it has released M,
// it calls finished() of the ended item. In this order, a caller that enqueues again from
// finished() finds this worker idle. The kernel posts the completion first, so a caller that reacts
// to it finds no idle worker, and a surplus worker is created.
#pragma once

#include <cstdint>
#include <cstdio>
#include <optional>
#include <utility>

#include <iowq/base/policy.hpp>
#include <iowq/pool/detail/state.hpp>
#include <iowq/queue/intrusive_queue.hpp>

namespace iowq::inline v0::detail {

/// The code of a worker thread. Only that thread uses it.
template <class Policy>
class worker_thread {
  using state = pool_state<Policy>;
  using worker_type = worker<Policy>;
  using lock = typename Policy::lock;

 public:
  /// The thread's entry point; `record` is its worker.
  static void* main(void* record) noexcept {
    auto& self = *static_cast<worker_type*>(record);
    char name[16];
    std::snprintf(name, sizeof name, "iow-wrk-%d", self.home->owner_tid);
    Policy::thread_name(name);
    Policy::this_worker() = record;
    worker_thread{self}.run();
    Policy::this_worker() = nullptr;
    return nullptr;
  }

 private:
  explicit worker_thread(worker_type& self) noexcept : self_{self}, pool_{*self.home} {}

  void run() noexcept {
    // relaxed: the manager changes the word under M, which this thread takes next.
    while (self_.word.load(std::memory_order_relaxed) == worker_type::unborn)
      (void)Policy::futex_wait(self_.word, worker_type::unborn, never);
    lock held = pool_.acquire();
    pool_.worker_started_looking(self_);
    self_.tid = Policy::thread_id();
    item* ended = nullptr;                 // the item, or chain of items, that has run
    intrusive_queue<&item::next> not_run;  // items of the batch that the pool's end cancelled
    for (;;) {
      deferred_wakes<Policy> todo;
      finish_result after = ended != nullptr ? pool_.end(self_, todo) : finish_result{};
      // A worker that keeps a successor must not leave before it has enqueued that item.
      bool const leaves =
          after.next == nullptr && self_.later == nullptr && pool_.must_leave(self_);
      generation_set const departed = std::exchange(self_.departed, generation_set{});
      // quiesce() reads `finishing` of the live workers only. A worker that leaves is counted in
      // finisher_counts instead.
      generation_set const leaves_with = leaves ? departed : generation_set{};
      if (leaves_with != 0) pool_.finishers->enter(leaves_with);
      if (leaves)
        pool_.leave(self_, todo);
      else if (after.next == nullptr && self_.later == nullptr &&
               (after.next = pool_.take(self_)) == nullptr)
        pool_.go_idle(self_);
      pool_.ensure_worker(todo);
      bool const repin = self_.affinity_seen != pool_.affinity_version;
      bool const keeps = self_.later != nullptr;
      // relaxed: quiesce() reads it under M, which this thread holds.
      if (departed != 0) self_.finishing.store(departed, std::memory_order_relaxed);
      held.unlock();
      pool_.run_deferred(todo);
      if (ended != nullptr) {
        finish(ended, false);
        finish(not_run.release(), true);
        finish(after.failed.release(), true);
        // release: pairs with the acquire in is_quiet(), so the effects of finished() happen before
        // quiesce() returns.
        self_.finishing.store(0, std::memory_order_release);
        if (leaves_with != 0) pool_.finishers->leave(leaves_with);
      }
      if (leaves) return;
      if (repin) apply_affinity();
      ended = after.next;
      if (ended != nullptr)
        execute(*ended, not_run, held);
      else if (keeps)
        enqueue_successor(held);
      else if (!wait_for_work(held))
        return;
    }
  }

  /// Runs the items that the worker took. Returns under M. No canceller uses the worker's token or
  /// descriptor any longer then.
  void execute(item& first, intrusive_queue<&item::next>& not_run, lock& held) noexcept {
    bool const measured = (++self_.runs & measured_mask) == 0;
    time_point const began = measured ? Policy::now() : time_point{};
    Policy::pause(pause_point::pop_execute);
    item* last = &first;
    for (unsigned done = 1;; ++done, last = last->next) {
      self_.enter(phase::item);
      work_access::from_item(*last).execute(self_.stop->get_token());
      self_.enter(phase::pool);
      // relaxed: a late read only means that one more brief item runs.
      if (last->next == nullptr || pool_.ending.load(std::memory_order_relaxed)) {
        time_point::duration took{};
        if (measured) took = (Policy::now() - began) / done;
        Policy::pause(pause_point::execute_finish);
        held = pool_.acquire();
        if (measured) pool_.account_of(self_.kind).measured(took);
        break;
      }
    }
    if (last->next != nullptr) pool_.abandon_rest(self_, *last, not_run);
    if (self_.cancel_requested) end_cancellation(held);
    // Last: end_cancellation() releases M, and then the manager or context_changed() may mark this
    // worker.
    if (self_.state == worker_state::sleeping) pool_.mark_running(self_);
  }

  /// Calls finished() of each item of a chain by `next`, oldest first. finished() may free its
  /// item.
  static void finish(item* chain, bool cancelled) noexcept {
    while (chain != nullptr) {
      item& one = *chain;
      chain = one.next;
      work_access::from_item(one).finished(cancelled);
    }
  }

  /// Enqueues the successor of the item that was just finished, like any other item.
  void enqueue_successor(lock& held) noexcept {
    intrusive_queue<&item::next> failed;
    deferred_wakes<Policy> todo;
    held = pool_.acquire();
    pool_.enqueue_successor(self_, failed, todo);
    pool_.ensure_worker(todo);
    // relaxed: written and read under M.
    self_.finishing.store(std::exchange(self_.departed, generation_set{}),
                          std::memory_order_relaxed);
    held.unlock();
    pool_.run_deferred(todo);
    finish(failed.release(), true);
    // release: pairs with is_quiet(), as in run().
    self_.finishing.store(0, std::memory_order_release);
    held = pool_.acquire();
  }

  /// Call under M when the item was cancelled. Waits until the canceller no longer uses the stop
  /// source and the wake descriptor, then resets both. So a late cancellation cannot reach the next
  /// item.
  void end_cancellation(lock& held) noexcept {
    while (self_.canceller_active) {
      self_.word.store(worker_type::waits_for_canceller, std::memory_order_relaxed);
      // The canceller runs stop callbacks, which may take any time. The worker counts as still in
      // its item during that time, so the manager can find it asleep and create another worker.
      self_.enter(phase::blocking_region);
      held.unlock();
      (void)Policy::futex_wait(self_.word, worker_type::waits_for_canceller, never);
      held.lock();
      self_.enter(phase::pool);
    }
    self_.word.store(worker_type::awake, std::memory_order_relaxed);
    // relaxed: this thread wrote it.
    if (int const fd = self_.wake_fd.load(std::memory_order_relaxed); fd >= 0)
      Policy::wake_drain(fd);
    self_.stop.emplace();
    self_.cancel_requested = false;
  }

  /// Sleeps on the idle stack. Returns true, under M, when the worker was activated. Returns false,
  /// without M, when the worker reached its idle time-out and has left.
  bool wait_for_work(lock& held) noexcept {
    Policy::pause(pause_point::idle_wait);
    if (self_.spins) spin();
    time_point deadline = pool_.idle_until(Policy::now());
    for (;;) {
      while (self_.word.load(std::memory_order_relaxed) == worker_type::idle)
        if (!Policy::futex_wait(self_.word, worker_type::idle, deadline)) break;
      held = pool_.acquire();
      if (self_.state != worker_state::idle) {  // D3
        pool_.worker_started_looking(self_);
        return true;
      }
      if (may_time_out(pool_.account_of(self_.kind), pool_.exit_on_idle)) {
        deferred_wakes<Policy> todo;
        (void)pool_.activate(self_);  // needs no wake: this is the worker's own thread
        pool_.worker_started_looking(self_);
        pool_.leave(self_, todo);
        held.unlock();
        pool_.run_deferred(todo);
        return false;
      }
      held.unlock();
      deadline = never;  // the last worker of its class sleeps without a time-out
    }
  }

  /// Spins for a few microseconds until the worker is activated, because a futex wake-up would take
  /// longer. Afterwards the word is `awake`, or it is `idle` and the worker must sleep.
  void spin() noexcept {
    bool const found = pool_.spins.spin([this] {
      // relaxed: the thread that changes the word holds M, which this thread takes next.
      return self_.word.load(std::memory_order_relaxed) != worker_type::spinning;
    });
    // relaxed: only the value of the word decides whether the activating thread must wake this one.
    std::uint32_t expected = worker_type::spinning;
    if (!found)
      (void)self_.word.compare_exchange_strong(expected, worker_type::idle,
                                               std::memory_order_relaxed);
    // release: pairs with the acquire in may_spin(), so the next user of `spins` sees it complete.
    pool_.spinning.store(false, std::memory_order_release);
  }

  /// Sets the thread's affinity to the processors of its node within the pool's affinity, or to the
  /// pool's affinity if that is empty. A failure is ignored: cpusets change, and may refuse the
  /// set.
  IOWQ_COLD void apply_affinity() noexcept {
    cpu_set wanted;
    {
      lock const held = pool_.acquire();
      self_.affinity_seen = pool_.affinity_version;
      wanted = pool_.nodes.cpus(self_.node) & pool_.affinity;
      if (wanted.empty()) wanted = pool_.affinity;
    }
    if (!wanted.empty()) Policy::set_affinity(wanted.native());
  }

  static constexpr unsigned measured_mask = 15;  // one run in sixteen

  worker_type& self_;
  state& pool_;
};

}  // namespace iowq::inline v0::detail
