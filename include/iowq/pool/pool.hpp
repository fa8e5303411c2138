// SPDX-License-Identifier: BSL-1.0
// iowq/pool/pool.hpp -- io-wq in user space: the public face.
//
// Threads for what would block the caller, as many as really sleep plus one, no more. Read it
// beside io_uring/io-wq.c: the account is io_wq_acct, the worker io_worker, an item io_wq_work.
// One mutex, M, guards everything; under it items and workers move (state.hpp) and decisions are
// made (dispatch.hpp); wakes, completions and forks happen after it is free.
//
//   enqueue ---> ready list a node and class ---> worker: take, execute, end ---> finished
//        \---> behind its key ---/                   ^         |
//                                    manager: fork --+    asleep? (watch.hpp)
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

/// The thread that makes it is its *owner*: workers inherit that thread's context (credentials,
/// working directory, seccomp filters, affinity, ...), and it destroys the pool. Where no thread
/// can be had, items are finished with the errno, and the next ones of the owner try again.
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
  /// Starts the manager and, through it, one bound worker, and waits for neither.
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
    manager_.context_check.configure(options.check_drift, std::move(options.on_drift));
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

  /// Owner's thread. Rejects what comes, finishes what is queued as cancelled, stops what runs and
  /// waits for it. In a child of fork(), which has none of the threads, it only forgets them all.
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
      state_.ending.store(true, std::memory_order_relaxed);  // relaxed: see guarded.hpp
      everything.add_all([](const work&) { return true; });
      for (auto& account : state_.accounts) state_.wake_all_idle(account);
    }
    everything.deliver();
    manager_.stop();
    manager_.join_all();
  }

  /// Any thread. Keeps `item` until its finished() is called, once, whatever happens.
  void enqueue(work& item) noexcept {
    work_chain alone;
    alone.push_back(item);
    enqueue(alone);
  }

  /// Any thread. As enqueue() of each in order, in one step: `items` is empty afterwards.
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
      if (state_.closed) [[unlikely]]  // with all that is linked behind it
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

  /// Any thread. Running: its stop token was stopped and its worker's descriptor cancel_requested;
  /// the item still finishes by itself.
  cancel_outcome cancel(work& item) noexcept {
    detail::cancellation<Policy> request{state_};
    {
      lock const held = state_.acquire();
      request.add(detail::work_access::to_item(item));
    }
    return request.deliver();
  }

  /// Any thread. Cancels every item for which `match(const work&)` is true. `match` runs under
  /// the pool's mutex: it must not block, throw, nor call this pool. `running` if one of them
  /// runs, else `dequeued` if there was one.
  template <class Match>
  cancel_outcome cancel_all(Match match) {
    detail::cancellation<Policy> request{state_};
    {
      lock const held = state_.acquire();
      // relaxed: acquire() compares it with the calling thread, which is the only one to match.
      state_.matcher.store(Policy::thread_id(), std::memory_order_relaxed);
      request.add_all(match);
      state_.matcher.store(0, std::memory_order_relaxed);
    }
    return request.deliver();
  }

  /// Any thread. 0 keeps a limit; returns what was. Lowering retires who is idle at once, others
  /// after their item; raising starts workers if work waits.
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

  /// Any thread. Each worker follows before its next item; empty: its owner's.
  void set_affinity(const cpu_set& cpus) {
    lock const held = state_.acquire();
    state_.affinity = cpus.empty() ? inherited_ : cpus;
    ++state_.affinity_version;
    update_processors();
  }

  /// Owner's thread, after it changed its own context by a call that binds one thread only
  /// (setfsuid, capset, unshare, setns, seccomp, sched_setaffinity, ...): what is enqueued from
  /// here on runs on workers forked after this call, and on no older one. Before unshare(2) with
  /// CLONE_FILES, quiesce(): who still runs keeps the old descriptors, and is not cancelled well.
  void context_changed() {
    IOWQ_ASSERT(Policy::thread_id() == state_.owner_tid,
                "context_changed() was called off the thread that made the pool");
    {
      cpu_set const own = cpu_set::of_caller<Policy>();
      lock const held = state_.acquire();
      ++state_.epoch;
      if (state_.affinity == std::exchange(inherited_, own)) state_.affinity = own;
      update_processors();
      // In this very step: what the manager forks now would leave at once, and be forked again.
      state_.manager_retires = true;
      for (auto& account : state_.accounts) {
        // Who is in an item stays until its end, but takes no other: counted as asleep, it does
        // not keep its successor from being created.
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

  /// Any thread but a worker of this pool, and not from finished(). Returns when the finished() of
  /// every item that was accepted before the call has returned; items that are accepted later do
  /// not prolong it. Call it before exec(2), which ends other threads wherever they are.
  void quiesce() noexcept { detail::wait_until_quiet(state_); }

  /// Any thread.
  [[nodiscard]] pool_stats stats() const {
    lock const held = state_.acquire();
    return detail::snapshot(state_);
  }
  /// Any thread, for people: what each worker is at, what waits where. Holds everything up while
  /// it prints.
  void dump(std::ostream& out) const {
    lock const held = state_.acquire();
    detail::print(out, state_);
  }

 private:
  /// The queue of the processor that runs us.
  [[nodiscard]] std::uint8_t near_queue() const noexcept {
    if (state_.nodes.size() == 1) return 0;
    return static_cast<std::uint8_t>(state_.nodes.node_of(Policy::current_cpu()));
  }
  [[nodiscard]] std::uint8_t queue_of(const detail::item& item, std::uint8_t near) const noexcept {
    if (item.node == any_node) return near;
    auto const node = static_cast<unsigned>(item.node);  // NOLINT(bugprone-signed-char-misuse)
    return static_cast<std::uint8_t>(node < state_.nodes.size() ? node : 0);
  }

  /// Of the affinity, for the decisions. Under M, or before there is anybody else.
  unsigned update_processors() noexcept {
    unsigned const cpus = state_.affinity.count();  // 0: more than a set can name
    for (auto& account : state_.accounts) account.processors = cpus != 0 ? cpus : cpu_set::capacity;
    return state_.accounts[0].processors;
  }

  /// Owner's thread. There is no manager: creates one; if that fails, what has no worker fails.
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
