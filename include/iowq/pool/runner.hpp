// SPDX-License-Identifier: BSL-1.0
// iowq/pool/runner.hpp -- a worker's life.
// Layer pool; needs pool/state. Next in the book: pool/watch.hpp.
//
// io_wq_worker() and io_worker_handle_work(). One critical section ends an item, and takes the
// next or goes idle; then, without M, the ended item is finished. In this order a caller that
// enqueues again from finished() finds this worker free. The kernel posts the completion first,
// so its caller finds nobody and a worker too many is made.
#pragma once

#include <cstdio>
#include <optional>

#include <iowq/base/policy.hpp>
#include <iowq/pool/state.hpp>

namespace iowq::detail {

/// What a worker thread does. On that thread only.
template <class Policy>
class runner {
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
    runner{self}.run();
    Policy::this_worker() = nullptr;
    return nullptr;
  }

 private:
  explicit runner(worker_type& self) noexcept : self_{self}, pool_{*self.home} {}

  void run() noexcept {
    // relaxed, here and below: who changes the word has M, which we take next.
    while (self_.word.load(std::memory_order_relaxed) == worker_type::unborn)
      (void)Policy::futex_wait(self_.word, worker_type::unborn, never);
    lock held = pool_.acquire();
    pool_.arrive(self_);
    self_.tid = Policy::thread_id();
    item* ended = nullptr;
    item* next = nullptr;  // not null here: the chain of `ended` goes on
    for (;;) {
      deeds<Policy> todo;
      if (ended != nullptr) next = pool_.end(self_, todo);
      bool const leaves = next == nullptr && pool_.must_leave(self_);
      if (leaves)
        pool_.leave(self_, todo);
      else if (next == nullptr && (next = pool_.take(self_)) == nullptr)
        pool_.go_idle(self_);
      bool const repin = self_.affinity_seen != pool_.affinity_version;
      held.unlock();
      pool_.carry_out(todo);
      if (ended != nullptr) door::out(*ended).finished(false);
      if (leaves) return;
      if (repin) apply_affinity();
      ended = next;
      if (next != nullptr)
        execute(*next, held);
      else if (!wait_for_work(held))
        return;
      next = nullptr;
    }
  }

  /// Runs an item and returns under M, with nobody but us knowing about it any more.
  void execute(item& now, lock& held) noexcept {
    Policy::pause(pause_point::pop_execute);
    self_.enter(phase::item);
    door::out(now).execute(self_.stop->get_token());
    self_.enter(phase::pool);
    Policy::pause(pause_point::execute_finish);
    held = pool_.acquire();
    if (self_.state == worker_state::sleeping) pool_.mark_running(self_);
    if (self_.rung) let_go(held);
  }

  /// The item was cancelled: waits for whoever still stops its token or rings its descriptor,
  /// then makes both new. What comes late cannot reach the next item.
  void let_go(lock& held) noexcept {
    while (self_.held) {
      self_.word.store(worker_type::waits_for_holder, std::memory_order_relaxed);
      held.unlock();
      (void)Policy::futex_wait(self_.word, worker_type::waits_for_holder, never);
      held.lock();
    }
    self_.word.store(worker_type::awake, std::memory_order_relaxed);
    // relaxed: we wrote it.
    if (int const fd = self_.wake_fd.load(std::memory_order_relaxed); fd >= 0)
      Policy::wake_drain(fd);
    self_.stop.emplace();
    self_.rung = false;
  }

  /// Sleeps on the idle stack. True: activated, and under M. False: its time was up, it has left.
  bool wait_for_work(lock& held) noexcept {
    Policy::pause(pause_point::idle_wait);
    time_point deadline = Policy::now() + pool_.idle_timeout;
    for (;;) {
      while (self_.word.load(std::memory_order_relaxed) == worker_type::idle)
        if (!Policy::futex_wait(self_.word, worker_type::idle, deadline)) break;
      held = pool_.acquire();
      if (self_.state != worker_state::idle) {  // D3
        pool_.arrive(self_);
        return true;
      }
      if (may_time_out(pool_.account_of(self_.kind), pool_.exit_on_idle)) {
        deeds<Policy> todo;
        pool_.activate(self_);
        pool_.arrive(self_);
        pool_.leave(self_, todo);
        held.unlock();
        pool_.carry_out(todo);
        return false;
      }
      held.unlock();
      deadline = never;  // the last of its class: no call on the machine until there is work
    }
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

  worker_type& self_;
  state& pool_;
};

}  // namespace iowq::detail
