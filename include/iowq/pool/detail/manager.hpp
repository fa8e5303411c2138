// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/manager.hpp -- creates workers, samples running ones, joins those that left.
//
// Why a manager. io-wq had a manager until Linux 5.14. Since then it has none, because the kernel
// can make the owner create a worker whatever the owner is doing. A user-space pool cannot, and the
// thread that creates a worker determines what the worker inherits: credentials, seccomp filters,
// working directory. So the owner creates the manager, and the manager creates every worker. When
// the owner changes its context, it creates another manager. No other thread creates threads, and
// no event loop pays for the creation of a worker. The manager sleeps without a time-out, at no
// cost, unless an account needs a watch: see needs_watch().
//
// Sampling. The kernel's scheduler calls io_wq_worker_sleeping(); nothing calls it in user space.
// So the manager samples the running workers while an item is runnable, no worker is on its way to
// it, and another worker is available, idle or new. It reads their progress_counters after 50 us,
// and then at growing intervals, of at most half the reaction time. A progress_counter that has not
// moved between two samples belongs to one long item or region. Only then does the manager ask the
// kernel whether the thread waits or computes. A preempted thread counts as computing.
//
// A sleep shorter than a tick does not justify a thread, unless one such sleep follows another.
// Each flush of a fast disk takes less than a tick, but its worker sleeps nine tenths of the time.
// So while items are not short, the manager also asks the kernel about workers whose
// progress_counter did move. A worker that is found asleep repeatedly *dozes*. While items wait,
// each dozing worker justifies one more worker.
//
// While items are short, next_step() puts off the wake-up of an idle worker, because the running
// workers will be done sooner. But one of their items may compute for a second. So the manager
// marks the end of each queue. If the items before the mark have not been taken after 0.3 ms, it
// wakes idle workers in any case. A queue is marked within 0.7 ms (a tick), so an item waits at
// most 1 ms, unless the manager has to sample many workers and ticks more slowly.
//
// A worker that wakes up between the look and the mark is counted as sleeping until its region or
// item ends, or until the second look. At worst one surplus worker exists for that long.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <new>
#include <utility>

#include <iowq/base/policy.hpp>
#include <iowq/pool/detail/context_check.hpp>
#include <iowq/pool/detail/state.hpp>
#include <iowq/pool/detail/worker_thread.hpp>
#include <iowq/queue/intrusive_queue.hpp>

namespace iowq::inline v0::detail {

/// Finds running workers that are blocked. Manager only, under M. A query of the kernel releases M
/// and takes it again.
template <class Policy>
class worker_sampler {
  using state = pool_state<Policy>;
  using account_type = typename state::account_type;
  using worker_type = worker<Policy>;
  using lock = typename Policy::lock;

 public:
  using duration = time_point::duration;
  static constexpr duration usual_tick = std::chrono::microseconds{700};
  static constexpr duration longest_tick = std::chrono::milliseconds{10};

  explicit worker_sampler(state& pool) noexcept : pool_{pool} {}

  /// The longest tick: a look at one worker costs about 2.5 us, and all looks together must not
  /// cost more than 2 % of a processor.
  [[nodiscard]] duration slowest() const noexcept {
    return std::clamp<duration>(looks_ * std::chrono::microseconds{160}, usual_tick, longest_tick);
  }

  /// The time of the next sample: `wanted`, or earlier if an item is overdue before that.
  [[nodiscard]] time_point next_look(time_point wanted) const noexcept {
    return std::min(wanted, overdue_at_);
  }

  /// Call before the first sample after a pause. Removes the marks, because marks from before the
  /// pause do not show how long an item has waited.
  void begin() noexcept {
    for (account_type& account : pool_.accounts)
      for (auto& node_queue : account.node_queues) node_queue.is_marked = false;
  }

  /// Samples all running workers. Returns true if a worker was marked, woken or reserved.
  bool sample(lock& held) noexcept {
    bool const relieved = relieve_all();
    worker_type* looked = nullptr;
    looks_ = 0;
    for (account_type& account : pool_.accounts) {
      if (!needs_watch(account)) continue;
      for (worker_type* one = account.workers.front(); one != nullptr; one = one->next) {
        if (one->state != worker_state::running || one->cur == nullptr) continue;
        // relaxed: only a change matters, and a stale value only delays the detection of a change.
        std::uint64_t const progress_counter =
            one->progress_counter.load(std::memory_order_relaxed);
        // A worker in a blocking_region has declared that it may block, so the first sample
        // suffices.
        one->made_no_progress =
            progress_counter == one->progress_seen || one->at() == phase::blocking_region;
        one->progress_seen = progress_counter;
        if (one->at() == phase::pool || (!one->made_no_progress && account.quick())) continue;
        one->next_sample = looked;
        looked = one;
        ++looks_;
      }
    }
    if (looked != nullptr) look_at(looked, thread_state::sleeping, held);
    unsigned dozing[2] = {};
    bool acted = relieved;
    for (worker_type* one = looked; one != nullptr; one = one->next_sample) {
      one->times_seen_sleeping = one->sample_holds ? one->times_seen_sleeping + 1 : 0;
      if (!one->sample_holds || one->state != worker_state::running) continue;
      if (one->made_no_progress &&
          one->progress_counter.load(std::memory_order_relaxed) == one->progress_seen) {
        pool_.mark_sleeping(*one);
        ++pool_.sleeps;
        acted = true;
      } else if (one->times_seen_sleeping >= looks_to_doze) {
        ++dozing[static_cast<unsigned>(one->kind)];
      }
    }
    for (unsigned kind = 0; kind < 2; ++kind)
      acted |= add_workers(pool_.accounts[kind], dozing[kind]);
    return acted;
  }

  /// The node with the longest ready list.
  [[nodiscard]] static unsigned longest_queue(const account_type& account) noexcept {
    unsigned longest = 0;
    for (unsigned node = 1; node < account.node_queues.size(); ++node)
      if (account.node_queues[node].nr_ready > account.node_queues[longest].nr_ready)
        longest = node;
    return longest;
  }

  /// Looks again at a few sleeping workers before a thread is created. A worker that slept in its
  /// item without a blocking_region may have woken up and be computing. Returns true if one of them
  /// runs: it will take the next item.
  bool some_sleeper_runs(account_type& account, lock& held) noexcept {
    if (account.concurrent > 0) return false;
    worker_type* looked = nullptr;
    worker_type* last = account.workers.back();
    for (int looks = 0; looks < max_second_looks && last != nullptr; ++looks) {
      worker_type& first = *account.workers.front();
      account.workers.erase(first);  // rotates the list, so each call looks at other workers
      account.workers.push_back(first);
      if (pool_.can_mark_running(first)) {
        first.next_sample = looked;
        looked = &first;
      }
      if (&first == last) break;
    }
    if (looked == nullptr) return false;
    look_at(looked, thread_state::running, held);
    bool found = false;
    for (worker_type* one = looked; one != nullptr; one = one->next_sample)
      if (one->sample_holds && pool_.can_mark_running(*one)) {
        pool_.mark_running(*one);
        found = true;
      }
    return found;
  }

 private:
  static constexpr duration overdue = std::chrono::microseconds{300};  // since the mark was set
  static constexpr int max_second_looks = 8;
  static constexpr unsigned looks_to_doze = 2;  // consecutive samples; a single one may be chance

  /// Wakes an idle worker for each item that has waited too long behind running items. Returns true
  /// if a worker was woken.
  bool relieve_all() noexcept {
    time_point const now = Policy::now();
    overdue_at_ = never;
    deferred_wakes<Policy> todo;
    for (account_type& account : pool_.accounts)
      for (unsigned node = 0; node < account.node_queues.size(); ++node)
        relieve(account, node, now, todo);
    pool_.run_deferred(todo);
    return todo.woken() != nullptr;
  }
  void relieve(account_type& account, unsigned node, time_point now,
               deferred_wakes<Policy>& todo) noexcept {
    auto& node_queue = account.node_queues[node];
    // Modulo 2^32 on purpose: `taken` wraps.
    auto const before_mark = static_cast<int>(node_queue.mark - node_queue.taken);
    bool const waits = node_queue.is_marked && before_mark > 0 && node_queue.nr_ready > 0;
    if (waits && now - node_queue.marked_at >= overdue) {
      unsigned left = std::min(static_cast<unsigned>(before_mark), node_queue.nr_ready);
      for (; left > account.waking && account.idle > 0; --left)
        pool_.wake(*account.newest_idle(pool_.nodes.near(node)), todo);
    }
    if (!waits || now - node_queue.marked_at >= overdue) {
      node_queue.is_marked = node_queue.nr_ready > 0;
      node_queue.mark = node_queue.taken + node_queue.nr_ready;
      node_queue.marked_at = now;
    }
    if (node_queue.is_marked && account.idle > 0)
      overdue_at_ = std::min(overdue_at_, node_queue.marked_at + overdue);
  }

  /// Call after a sample. Takes the steps of next_step() for the items that are still unserved, and
  /// reserves one worker for each dozing worker while items are left for it. Returns true if a
  /// worker was woken or reserved.
  bool add_workers(account_type& account, unsigned dozing) noexcept {
    unsigned const before = account.waking + account.creating;
    deferred_wakes<Policy> todo;
    pool_.ensure_worker(account, longest_queue(account), account.concurrent > 0, todo);
    pool_.run_deferred(todo);
    for (; dozing > 0 && needs_watch(account) && account.idle == 0 &&
           account.runnable > account.waking + account.creating;
         --dozing)
      account.reserve();
    return account.waking + account.creating != before;
  }

  /// Asks the kernel, without M, whether each worker of the list is in the state `expected`.
  void look_at(worker_type* first, thread_state expected, lock& held) noexcept {
    held.unlock();
    for (worker_type* one = first; one != nullptr; one = one->next_sample)
      one->sample_holds = one->probe.look(one->thread, one->tid) == expected;
    Policy::pause(pause_point::sample_apply);
    held.lock();
  }

  state& pool_;
  int looks_ = 0;                  // workers examined in the last sample
  time_point overdue_at_ = never;  // when an item becomes overdue while a worker is idle
};

/// The manager thread of a pool, and the functions by which the owner controls it.
template <class Policy>
class manager {
  using state = pool_state<Policy>;
  using account_type = typename state::account_type;
  using worker_type = worker<Policy>;
  using lock = typename Policy::lock;
  using duration = time_point::duration;

  static constexpr duration first_tick = std::chrono::microseconds{50};
  static constexpr duration last_tick = std::chrono::microseconds{250};  // before it parks
  static constexpr duration retry_delay = std::chrono::milliseconds{5};
  static constexpr duration first_join = std::chrono::milliseconds{1};  // doubles at each attempt
  static constexpr duration last_join = std::chrono::milliseconds{250};
  static constexpr duration patience = std::chrono::seconds{10};
  static constexpr int max_retries = 3;

 public:
  explicit manager(state& pool) noexcept : pool_{pool} {}

  context_watch<Policy> context_check;  // used by the owner; compares its thread with the manager

  /// Owner's thread. Creates the manager unless it exists. If that fails, returns false and stores
  /// the errno in `manager_error`. Tries only once, so that the owner's thread does not sleep.
  bool start() noexcept {
    {
      lock const held = pool_.acquire();
      if (pool_.manager_present) return true;
      pool_.manager_present = true;
      pool_.manager_retires = false;
      pool_.manager_error = 0;
      epoch_ = pool_.epoch;
    }
    context_check.expect_specimen();
    int const error = Policy::thread_start(thread_, &main, this, pool_.stack_size);
    if (error == 0) return true;
    context_check.no_specimen();
    lock const held = pool_.acquire();
    pool_.manager_present = false;
    pool_.manager_error = error;
    ++pool_.create_failures;
    return false;
  }

  /// Owner's thread. Ends the manager, if it exists, and joins it. The wait is short: the manager
  /// makes no call that blocks for long.
  void stop() noexcept {
    {
      deferred_wakes<Policy> todo;
      lock const held = pool_.acquire();
      if (!pool_.manager_present) return;
      pool_.manager_retires = true;
      pool_.call_manager(true, todo);
      pool_.run_deferred(todo);
    }
    context_check.no_specimen();
    Policy::thread_join(thread_);
    lock const held = pool_.acquire();
    pool_.manager_present = false;
  }

  /// Owner's thread, in the destructor of the pool, after stop(). Joins every worker. A thread in
  /// an uninterruptible call cannot be ended, so a message on stderr tells the user every 10 s that
  /// the destructor still waits.
  void join_all() noexcept {
    lock held = pool_.acquire();
    for (account_type& account : pool_.accounts) account.creating = 0;  // no manager is left
    for (;;) {
      while (worker_type* const left = pool_.retired.pop_front()) {
        held.unlock();
        Policy::thread_join(left->thread);
        recycle(*left, held);
      }
      unsigned const left = pool_.accounts[0].live + pool_.accounts[1].live;
      if (left == 0) break;
      if (wait(held, state::manager_parked, Policy::now() + patience)) continue;
      std::fprintf(stderr, "iowq: the pool's end waits for %u running item%s\n", left,
                   left == 1 ? "" : "s");
    }
    while (worker_type* const record = pool_.spare.pop_front()) delete record;
  }

  /// Under M. Fails the queued items of an account that has no worker and cannot get one.
  void fail_queued(account_type& account, int error, departures<Policy>& failed,
                   deferred_wakes<Policy>& todo) noexcept {
    // Repeats, because a next_head may enter a node_queue that was empty before.
    while (account.runnable > 0)
      for (auto& node_queue : account.node_queues)
        while (item* const ready = node_queue.ready.front()) {
          failed.are_of(generation_of(*ready));
          pool_.dequeue_item(*ready, error, todo, [&](item& one) { failed.add(one); });
        }
  }
  /// Under M. If the manager could not be created, fails the items of each account that has no
  /// worker of the current epoch.
  void fail_stranded(departures<Policy>& failed, deferred_wakes<Policy>& todo) noexcept {
    bool again = pool_.manager_error != 0;
    while (std::exchange(again, false))  // a failed item may release its key to the other class
      for (account_type& account : pool_.accounts) {
        account.creating = 0;
        if (account.runnable == 0 || pool_.has_current_worker(account)) continue;
        fail_queued(account, pool_.manager_error, failed, todo);
        again = true;
      }
  }

 private:
  static void* main(void* self) noexcept {
    auto& me = *static_cast<manager*>(self);
    char name[16];
    std::snprintf(name, sizeof name, "iow-mgr-%d", me.pool_.owner_tid);
    Policy::thread_name(name);
    me.context_check.specimen_is_here();
    me.run();
    return nullptr;
  }

  void run() noexcept {
    duration tick = first_tick;
    bool watched = false;
    lock held = pool_.acquire();
    for (;;) {
      reap(held);  // releases M, so everything else is looked at afterwards
      if (pool_.manager_retires) return;
      if (account_type* const account = reserved(); account != nullptr) {
        tick = create(*account, held) ? first_tick : worker_sampler<Policy>::longest_tick;
      } else if (needs_watch(pool_.accounts[0]) || needs_watch(pool_.accounts[1])) {
        if (!std::exchange(watched, true)) {
          tick = first_tick;
          sampler_.begin();
        }
        if (sampler_.sample(held)) continue;
        if (wait(held, state::manager_ticking, sampler_.next_look(Policy::now() + tick)))
          tick = first_tick;
        else
          tick = std::min(2 * tick, sampler_.slowest());
      } else if (std::exchange(watched, false)) {
        // Under load an account needs a watch again and again. Stay ticking for a while, so that
        // enqueue() does not have to wake the manager each time.
        (void)wait(held, state::manager_ticking, Policy::now() + last_tick);
      } else {
        (void)wait(held, state::manager_parked, pool_.retired.empty() ? never : join_at_);
      }
    }
  }

  /// Sleeps without M until call_manager() or `deadline`. Returns false at the deadline.
  bool wait(lock& held, std::uint32_t how, time_point deadline) noexcept {
    // relaxed, all: the word changes only under M, and the futex call compares it once more.
    pool_.manager_word.store(how, std::memory_order_relaxed);
    held.unlock();
    bool timely = true;
    while (timely && pool_.manager_word.load(std::memory_order_relaxed) == how)
      timely = Policy::futex_wait(pool_.manager_word, how, deadline);
    held.lock();
    bool const called = pool_.manager_word.load(std::memory_order_relaxed) != how;
    pool_.manager_word.store(state::manager_busy, std::memory_order_relaxed);
    return called;
  }

  /// Joins the retired workers whose threads have ended. A retired worker may still be in a
  /// finished() or in destructors of thread-local objects, for any time. The manager does not wait
  /// for it, but tries again later.
  void reap(lock& held) noexcept {
    worker_type* const last = pool_.retired.back();
    if (last == nullptr || Policy::now() < join_at_) return;
    for (worker_type* left = nullptr; left != last;) {
      left = pool_.retired.pop_front();
      held.unlock();
      if (Policy::thread_try_join(left->thread)) {
        recycle(*left, held);
        join_pause_ = first_join;
        join_at_ = {};
      } else {
        held.lock();
        pool_.retired.push_back(*left);
      }
    }
    if (pool_.retired.empty()) return;
    join_at_ = Policy::now() + join_pause_;
    join_pause_ = std::min(2 * join_pause_, last_join);
  }
  /// Call without M; returns under M. Makes the record of a joined worker available for reuse.
  void recycle(worker_type& joined, lock& held) noexcept {
    joined.probe.close();
    // relaxed: only the worker's thread wrote it, and that thread has been joined.
    int const fd = joined.wake_fd.exchange(-1, std::memory_order_relaxed);
    if (fd >= 0) Policy::wake_close(fd);
    held.lock();
    pool_.spare.push_front(joined);
  }

  /// An account with a reservation, or null.
  account_type* reserved() noexcept {
    for (account_type& account : pool_.accounts)
      if (account.creating > 0) return &account;
    return nullptr;
  }

  /// Creates the worker of one reservation, or cancels the reservation if it is stale. Returns
  /// false if no thread could be created.
  bool create(account_type& account, lock& held) noexcept {
    if (creation_is_stale(account) || sampler_.some_sleeper_runs(account, held)) {
      --account.creating;
      return true;
    }
    worker_type* born = pool_.spare.pop_front();
    if (born == nullptr) born = new (std::nothrow) worker_type{pool_};
    if (born == nullptr) return give_up(account, nullptr, ENOMEM, held);
    prepare(*born, account);
    for (int attempt = 1;; ++attempt) {
      held.unlock();
      Policy::pause(pause_point::decide_create);
      int const error =
          Policy::thread_start(born->thread, &worker_thread<Policy>::main, born, pool_.stack_size);
      held.lock();
      if (error == 0) break;
      if (error != EAGAIN || attempt > max_retries) return give_up(account, born, error, held);
      time_point const again = Policy::now() + retry_delay * attempt;
      while (!pool_.manager_retires && wait(held, state::manager_ticking, again)) {
      }
      if (pool_.manager_retires || creation_is_stale(account)) {
        // If this manager is to end, the reservation stays for the next manager.
        if (!pool_.manager_retires) --account.creating;
        pool_.spare.push_front(*born);
        return true;
      }
    }
    ++pool_.created;
    account.add(*born);  // counted before it starts, so that no second worker is created for it
    born->state = worker_state::running;
    born->word.store(worker_type::awake,
                     std::memory_order_relaxed);  // relaxed: the worker takes M next
    Policy::futex_wake(born->word, 1);
    return true;
  }

  void prepare(worker_type& born, account_type& account) noexcept {
    born.kind = &account == &pool_.accounts[0] ? work_class::bound : work_class::unbound;
    born.node = worker_sampler<Policy>::longest_queue(account);
    born.epoch = epoch_;
    born.state = worker_state::creating;
    born.affinity_seen = 0;
    born.asleep.store(false, std::memory_order_relaxed);  // relaxed: its thread starts later
    born.word.store(worker_type::unborn, std::memory_order_relaxed);
  }

  /// Cancels a reservation after a final failure. If the account has no worker and no other
  /// reservation, fails its queued items with `error`. Releases M and takes it again.
  bool give_up(account_type& account, worker_type* unborn, int error, lock& held) noexcept {
    if (unborn != nullptr) pool_.spare.push_front(*unborn);
    --account.creating;
    ++pool_.create_failures;
    if (account.live + account.creating != 0) return false;
    departures<Policy> failed;
    deferred_wakes<Policy> todo;
    fail_queued(account, error, failed, todo);
    pool_.ensure_worker(todo);
    failed.announce(*pool_.finishers);
    held.unlock();
    pool_.run_deferred(todo);
    failed.finish();
    held.lock();
    return false;
  }

  state& pool_;
  typename Policy::thread thread_{};
  worker_sampler<Policy> sampler_{pool_};
  unsigned epoch_ = 0;
  duration join_pause_ = first_join;
  time_point join_at_{};  // time of the next attempt to join the retired workers
};

}  // namespace iowq::inline v0::detail
