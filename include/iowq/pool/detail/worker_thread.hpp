// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/worker_thread.hpp -- the life of a worker thread.
//
// io_wq_worker() and io_worker_handle_work(). One critical section ends an item, and takes the
// next or goes idle; then, without M, the ended item is finished. In this order a caller that
// enqueues again from finished() finds this worker free. The kernel posts the completion first,
// so its caller finds nobody and a worker too many is made.
#pragma once

#include <cstdint>
#include <cstdio>
#include <optional>
#include <utility>

#include <iowq/base/policy.hpp>
#include <iowq/pool/detail/state.hpp>
#include <iowq/queue/intrusive_queue.hpp>

namespace iowq::inline v0::detail {

/// What a worker thread does. On that thread only.
template <class Policy>
class worker_thread {
  using state = pool_state<Policy>;
  using worker_type = worker<Policy>;
  using lock = typename Policy::lock;

 public:
  /// The thread's body; `record` is its worker.
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
    // relaxed, here and below: who changes the word has M, which we take next.
    while (self_.word.load(std::memory_order_relaxed) == worker_type::unborn)
      (void)Policy::futex_wait(self_.word, worker_type::unborn, never);
    lock held = pool_.acquire();
    pool_.worker_started_looking(self_);
    self_.tid = Policy::thread_id();
    item* ended = nullptr;                 // what has run, a batch or one
    intrusive_queue<&item::next> not_run;  // what the pool's end kept from running
    for (;;) {
      deferred_wakes<Policy> todo;
      finish_result after = ended != nullptr ? pool_.end(self_, todo) : finish_result{};
      // Somebody's successor waits in our hands until its predecessor is finished: stay for it.
      bool const leaves =
          after.next == nullptr && self_.later == nullptr && pool_.must_leave(self_);
      generation_set const departed = std::exchange(self_.departed, generation_set{});
      // quiesce() looks at the live workers, so a worker that leaves is counted elsewhere.
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
      // relaxed: read under M, which we have.
      if (departed != 0) self_.finishing.store(departed, std::memory_order_relaxed);
      held.unlock();
      pool_.run_deferred(todo);
      if (ended != nullptr) {
        finish(ended, false);
        finish(not_run.release(), true);
        finish(after.failed.release(), true);
        // release: pairs with is_quiet(); who finds us through also sees what finished() did.
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

  /// Runs what was taken and returns under M, with nobody but us knowing about it any more.
  void execute(item& first, intrusive_queue<&item::next>& not_run, lock& held) noexcept {
    bool const measured = (++self_.runs & measured_mask) == 0;
    time_point const began = measured ? Policy::now() : time_point{};
    Policy::pause(pause_point::pop_execute);
    item* last = &first;
    for (unsigned done = 1;; ++done, last = last->next) {
      self_.enter(phase::item);
      work_access::from_item(*last).execute(self_.stop->get_token());
      self_.enter(phase::pool);
      // relaxed: late is one brief item more.
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

  /// A chain by `next`, oldest first. finished() may free what it is called on.
  static void finish(item* chain, bool cancelled) noexcept {
    while (chain != nullptr) {
      item& one = *chain;
      chain = one.next;
      work_access::from_item(one).finished(cancelled);
    }
  }

  /// What was linked behind the item that is finished now has its turn, like any other item.
  void enqueue_successor(lock& held) noexcept {
    intrusive_queue<&item::next> failed;
    deferred_wakes<Policy> todo;
    held = pool_.acquire();
    pool_.enqueue_successor(self_, failed, todo);
    pool_.ensure_worker(todo);
    // relaxed: under M.
    self_.finishing.store(std::exchange(self_.departed, generation_set{}),
                          std::memory_order_relaxed);
    held.unlock();
    pool_.run_deferred(todo);
    finish(failed.release(), true);
    // release: pairs with is_quiet(), as in run().
    self_.finishing.store(0, std::memory_order_release);
    held = pool_.acquire();
  }

  /// The item was cancelled: waits for whoever still stops its token or rings its descriptor,
  /// then makes both new. What comes late cannot reach the next item.
  void end_cancellation(lock& held) noexcept {
    while (self_.canceller_active) {
      self_.word.store(worker_type::waits_for_canceller, std::memory_order_relaxed);
      // The canceller runs stop callbacks, which may take any time. The worker is still in its
      // item then, so the watch may find it asleep and replace it.
      self_.enter(phase::blocking_region);
      held.unlock();
      (void)Policy::futex_wait(self_.word, worker_type::waits_for_canceller, never);
      held.lock();
      self_.enter(phase::pool);
    }
    self_.word.store(worker_type::awake, std::memory_order_relaxed);
    // relaxed: we wrote it.
    if (int const fd = self_.wake_fd.load(std::memory_order_relaxed); fd >= 0)
      Policy::wake_drain(fd);
    self_.stop.emplace();
    self_.cancel_requested = false;
  }

  /// Sleeps on the idle stack. True: activated, and under M. False: its time was up, it has left.
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
        (void)pool_.activate(self_);  // nobody to wake but us
        pool_.worker_started_looking(self_);
        pool_.leave(self_, todo);
        held.unlock();
        pool_.run_deferred(todo);
        return false;
      }
      held.unlock();
      deadline = never;  // the last of its class: no call on the machine until there is work
    }
  }

  /// Looks out for an item for some microseconds: to be woken would take longer. Ends with the
  /// word at `awake`, or at `idle`, on which it then sleeps.
  void spin() noexcept {
    bool const found = pool_.spins.spin([this] {
      // relaxed: who changes the word has M, which we take next.
      return self_.word.load(std::memory_order_relaxed) != worker_type::spinning;
    });
    // relaxed: the word alone decides whether who activates us owes a wake.
    std::uint32_t expected = worker_type::spinning;
    if (!found)
      (void)self_.word.compare_exchange_strong(expected, worker_type::idle,
                                               std::memory_order_relaxed);
    // release: pairs with the acquire of whoever may spin next; our notes in `spins` are whole.
    pool_.spinning.store(false, std::memory_order_release);
  }

  /// Its node's processors, as far as it may have them. A hint: cpusets change, and refuse.
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
