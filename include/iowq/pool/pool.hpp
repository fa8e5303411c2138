// SPDX-License-Identifier: BSL-1.0
// iowq/pool/pool.hpp -- io-wq in user space: the public face.
//
// The pool runs calls that would block their caller. It has as many worker threads as there are
// items asleep in a system call, plus one. Read it beside the kernel's io_uring/io-wq.c: an account
// is an io_wq_acct, a worker an io_worker, an item an io_wq_work.
//
// One mutex, M, guards everything. Items and workers change state under M (detail/state.hpp), and
// decisions are made under M (detail/account.hpp). The pool wakes threads, completes items and
// creates threads after it has released M.
//
//   enqueue ---> ready list of a node and class ---> worker: take, execute, end ---> finished
//        \---> behind its key ---/                      ^         |
//                                       manager: fork --+    asleep? (detail/manager.hpp)
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/pool/blocking_region.hpp>
#include <iowq/pool/detail/cancellation.hpp>
#include <iowq/pool/detail/generation.hpp>
#include <iowq/pool/detail/manager.hpp>
#include <iowq/pool/detail/state.hpp>
#include <iowq/pool/detail/worker.hpp>
#include <iowq/pool/options.hpp>
#include <iowq/pool/stats.hpp>
#include <iowq/pool/work.hpp>

namespace iowq::inline v0 {

/// A pool of worker threads. The thread that constructs the pool is its *owner*: the workers
/// inherit the owner's context (credentials, working directory, seccomp filters, affinity, ...),
/// and the owner must destroy the pool. If no thread can be created, the pool finishes the queued
/// items with that errno; the owner's next enqueue() tries again to create one.
///
///     struct sync final : iowq::work {
///       void execute(const iowq::stop_token&) noexcept override { ::sync(); }
///       void finished(bool cancelled) noexcept override { done.release(); }
///       std::binary_semaphore done{0};
///     };
///     iowq::pool pool;
///     sync item;
///     pool.enqueue(item);
///     item.done.acquire();
template <class Policy>
class basic_pool {
  using lock = typename Policy::lock;
  using state = detail::pool_state<Policy>;
  using deferred_wakes = detail::deferred_wakes<Policy>;

 public:
  /// Starts the manager thread, which creates one bound worker. Waits for neither. If the manager
  /// cannot be created, the owner's next enqueue() tries again.
  explicit basic_pool(pool_options options = {}) : process_{Policy::process_id()} {
    inherited_ = cpu_set::of_caller<Policy>();
    state_.affinity = options.affinity.empty() ? inherited_ : options.affinity;
    state_.nodes = options.nodes.template resolve<Policy>();
    if (state_.nodes.size() > 1 || !options.affinity.empty()) state_.affinity_version = 1;
    state_.idle_timeout = options.idle_timeout;
    state_.stack_size = options.stack_size;
    state_.exit_on_idle = options.exit_on_idle;
    state_.drain_bounded = options.drain_bounded;
    unsigned const cpus = update_processors();
    if (cpus > 1) state_.spins.length(options.spin);
    state_.owner_tid = Policy::thread_id();
    manager_.context_check.configure(options.check_context, std::move(options.on_context_mismatch));
    worker_limits const limits = detail::with_defaults<Policy>(options.max_workers, cpus);
    state_.accounts[0].max_workers = limits.bound;
    state_.accounts[1].max_workers = limits.unbound;
    for (auto& account : state_.accounts)
      account.node_queues = decltype(account.node_queues)(state_.nodes.size());
    state_.accounts[0].reserve();
    if (!manager_.start()) state_.accounts[0].creating = 0;
  }
  basic_pool(const basic_pool&) = delete;
  basic_pool& operator=(const basic_pool&) = delete;

  /// Owner's thread. Rejects new items, finishes the queued items as cancelled, stops the tokens of
  /// the running items, and waits until they have finished. With pool_options::drain_bounded, the
  /// queued bound items run first. In a child of fork(), which has none of the threads, the
  /// destructor abandons all items and workers and returns at once.
  ~basic_pool() {
    if (Policy::process_id() != process_) {
      state_.abandon();
      return;
    }
    IOWQ_ASSERT(detail::worker<Policy>::current() == nullptr ||
                    detail::worker<Policy>::current()->home != &state_,
                "a pool was destroyed on one of its own workers");
    if (state_.drain_bounded) detail::drain_bound(state_);
    detail::cancellation<Policy> everything{state_};
    {
      lock const held = state_.acquire();
      state_.closed = state_.exit = true;
      state_.ending.store(true, std::memory_order_relaxed);  // relaxed: see its declaration
      everything.add_all([](const work&) { return true; });
      for (auto& account : state_.accounts) state_.wake_all_idle(account);
    }
    everything.deliver();
    manager_.stop();
    manager_.join_all();
  }

  /// Any thread. The caller keeps `item` alive until its finished() is called. That happens exactly
  /// once per enqueue(), in every case. Allocates nothing for the item.
  void enqueue(work& item) noexcept {
    work_chain alone;
    alone.push_back(item);
    enqueue(alone);
  }

  /// Any thread. Enqueues all items in order, in one critical section. `items` is empty afterwards.
  void enqueue(work_chain& items) noexcept {
    if (items.empty()) return;
    if (manager_.context_check.on() && Policy::is_thread(state_.owner_tid))
      manager_.context_check.look();
    std::uint8_t const near = near_queue();
    bool const on_owner = Policy::is_thread(state_.owner_tid);
    deferred_wakes todo;
    detail::departures<Policy> rejected, failed;
    lock held = state_.acquire();
    while (work* const one = items.pop_front()) {
      detail::item& fresh = detail::work_access::to_item(*one);
      fresh.node_queue = queue_of(fresh, near);
      fresh.error = 0;
      if (state_.closed) [[unlikely]]  // rejects the item and its linked successors
        state_.cancel_chain(&fresh, ECANCELED, [&](detail::item& each) { rejected.add(each); });
      else
        state_.insert(fresh, todo);
    }
    bool const stranded = state_.manager_error != 0;
    if (stranded && !on_owner) [[unlikely]]
      manager_.fail_stranded(failed, todo);
    state_.ensure_worker(todo);
    failed.announce(*state_.finishers);
    held.unlock();
    state_.run_deferred(todo);
    if (stranded && on_owner) [[unlikely]]
      rescue();
    failed.finish();
    if (!rejected.empty()) [[unlikely]]
      detail::finish_rejected(state_, rejected);
  }

  /// Any thread. A queued item, and every item linked behind it, is finished as cancelled before
  /// the call returns. For a running item the call stops its stop token and makes its worker's wake
  /// descriptor readable; the item then finishes by itself. A running item of a batch (see
  /// work_flags::brief) gets no such request.
  cancel_outcome cancel(work& item) noexcept {
    detail::cancellation<Policy> request{state_};
    {
      lock const held = state_.acquire();
      request.add(detail::work_access::to_item(item));
    }
    return request.deliver();
  }

  /// Any thread. Cancels every item for which `match(const work&)` returns true. `match` runs under
  /// the pool's mutex: it must not block, throw or call this pool. Returns `running` if at least
  /// one matching item is running, else `dequeued` if at least one was queued, else `not_found`.
  template <class Match>
  cancel_outcome cancel_all(Match match) {
    detail::cancellation<Policy> request{state_};
    {
      lock const held = state_.acquire();
      // relaxed: acquire() compares it with the id of its own thread, and only the thread that
      // wrote the value can find its own id there.
      state_.matcher.store(Policy::thread_id(), std::memory_order_relaxed);
      request.add_all(match);
      state_.matcher.store(0, std::memory_order_relaxed);
    }
    return request.deliver();
  }

  /// Any thread. Sets the limits and returns the previous ones; 0 keeps a limit. Lowering a limit
  /// retires surplus idle workers at once and other surplus workers after their current item.
  /// Raising it starts workers if items are waiting.
  worker_limits set_max_workers(worker_limits limits) {
    deferred_wakes todo[2];
    worker_limits const before = [&] {
      lock const held = state_.acquire();
      return worker_limits{change_limit(0, limits.bound, todo[0]),
                           change_limit(1, limits.unbound, todo[1])};
    }();
    for (const deferred_wakes& each : todo) state_.run_deferred(each);
    return before;
  }

  /// Any thread. Sets the processors of the workers; an empty set means the owner's affinity. Each
  /// worker applies the new set before its next item.
  void set_affinity(const cpu_set& cpus) {
    lock const held = state_.acquire();
    state_.affinity = cpus.empty() ? inherited_ : cpus;
    ++state_.affinity_version;
    update_processors();
  }

  /// Owner's thread. Call it after the owner changed its own context by a call that affects only
  /// one thread (setfsuid, capset, unshare, setns, seccomp, sched_setaffinity, ...). Items that are
  /// enqueued afterwards run only on workers that were created after this call. Call quiesce()
  /// before unshare(2) with CLONE_FILES: a worker that is still in an item keeps the old descriptor
  /// table, and cancelling that item is then unreliable.
  void context_changed() {
    IOWQ_ASSERT(Policy::thread_id() == state_.owner_tid,
                "context_changed() was called off the thread that made the pool");
    {
      cpu_set const own = cpu_set::of_caller<Policy>();
      lock const held = state_.acquire();
      ++state_.epoch;
      if (state_.affinity == std::exchange(inherited_, own)) state_.affinity = own;
      update_processors();
      // Set in the same critical section as the epoch: a worker that this manager creates from now
      // on has the old epoch, so it would leave at once and have to be created again.
      state_.manager_retires = true;
      for (auto& account : state_.accounts) {
        // A worker that is in an item stays until the item ends, but takes no other item. It is
        // counted as sleeping so that it does not prevent the creation of its replacement.
        for (auto* worker = account.workers.front(); worker != nullptr; worker = worker->next)
          if (worker->state == detail::worker_state::running && worker->cur != nullptr)
            state_.mark_sleeping(*worker);
        state_.wake_all_idle(account);
      }
    }
    manager_.stop();
    deferred_wakes todo[2];
    {
      lock const held = state_.acquire();
      for (unsigned kind = 0; kind < 2; ++kind)
        state_.ensure_worker(state_.accounts[kind], 0, false, todo[kind]);
    }
    for (const deferred_wakes& each : todo) state_.run_deferred(each);
    rescue();
  }

  /// Any thread except a worker of this pool, and not from finished(). Returns when the finished()
  /// of every item that was accepted before the call has returned. Items that are accepted later do
  /// not prolong the wait. Call it before exec(2), which kills all other threads wherever they are.
  void quiesce() noexcept { detail::wait_until_quiet(state_); }

  /// Any thread. A consistent snapshot of all counters.
  [[nodiscard]] pool_stats stats() const {
    lock const held = state_.acquire();
    return detail::snapshot(state_);
  }
  /// Any thread. Prints, for a human reader, the state of each worker and the queued items. Holds
  /// the pool's mutex while it prints, so all workers and callers of the pool may block.
  void dump(std::ostream& out) const {
    lock const held = state_.acquire();
    detail::print(out, state_);
  }

 private:
  /// The node of the processor on which the calling thread runs.
  [[nodiscard]] std::uint8_t near_queue() const noexcept {
    if (state_.nodes.size() == 1) return 0;
    return static_cast<std::uint8_t>(state_.nodes.node_of(Policy::current_cpu()));
  }
  [[nodiscard]] std::uint8_t queue_of(const detail::item& item, std::uint8_t near) const noexcept {
    if (item.node == any_node) return near;
    auto const node = static_cast<unsigned>(item.node);  // NOLINT(bugprone-signed-char-misuse)
    return static_cast<std::uint8_t>(node < state_.nodes.size() ? node : 0);
  }

  /// Counts the processors of the affinity mask, for the decisions of the accounts. Under M, or in
  /// the constructor.
  unsigned update_processors() noexcept {
    unsigned const cpus = state_.affinity.count();  // 0: more than a set can name
    for (auto& account : state_.accounts) account.processors = cpus != 0 ? cpus : cpu_set::capacity;
    return state_.accounts[0].processors;
  }

  /// Owner's thread. Creates the manager unless it exists. If that fails, fails the queued items of
  /// each account that has no worker.
  IOWQ_COLD void rescue() noexcept {
    if (manager_.start()) return;
    deferred_wakes todo;
    detail::departures<Policy> failed;
    {
      lock const held = state_.acquire();
      manager_.fail_stranded(failed, todo);
      state_.ensure_worker(todo);
      failed.announce(*state_.finishers);
    }
    state_.run_deferred(todo);
    failed.finish();
  }

  unsigned change_limit(unsigned kind, unsigned limit, deferred_wakes& todo) noexcept {
    auto& account = state_.accounts[kind];
    unsigned const before = account.max_workers;
    if (limit != 0) account.max_workers = limit;
    if (account.live > account.max_workers) state_.wake_all_idle(account);
    state_.ensure_worker(account, 0, account.concurrent > 0, todo);
    return before;
  }

  int const process_;
  cpu_set inherited_;
  mutable state state_;
  detail::manager<Policy> manager_{state_};
};

using pool = basic_pool<detail::linux_policy>;

}  // namespace iowq::inline v0
