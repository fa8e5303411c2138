// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/manager.hpp -- creates workers, samples running ones, joins those that left.
//
// io_wq_worker_sleeping(), which the kernel's scheduler calls, and nobody calls here. While
// something is runnable that nobody is on the way to, and another worker could be had, idle or
// new, the manager looks at the stamps of those that run: first after 50 us, then ever more
// slowly, but so that two looks are never further apart than half a reaction. A progress_counter
// that stood still in between is one item, or one region, that takes its time: then, and only then,
// the kernel is asked whether the thread computes (or was preempted, which is no sleep) or waits.
//
// A sleep shorter than a tick is not worth a thread, unless there is one after the other: flushes
// of a fast disk take less than a tick each, and their worker sleeps nine tenths of the time. So
// while items are not short, those whose progress_counter did move are looked at, too. Who is found
// asleep time and again *dozes*, and where work waits, each that does is worth another worker.
//
// While items are short, dispatch.hpp puts off the wake of an idle worker: those that run will be
// done sooner. It cannot know that one of them computes for a second this time. So the manager
// marks the end of each queue, and where what was before the mark has not been taken after 0.3 ms,
// it wakes idle workers in any case. A queue is marked within 0.7 ms (a tick), so an item waits
// 1 ms at most, unless the manager has many workers to look at and ticks more slowly.
//
// A worker that wakes up between the look and the mark is counted asleep until the end of its
// region or item, or until the second look: at worst there is one worker too many for as long.
//
// io-wq had a manager until 5.14, then none: the kernel can fork from a task that is not there.
// We cannot, and who forks decides what a worker inherits: credentials, seccomp filters, working
// directory. So the owner forks the manager, the manager forks every worker, and when the owner
// changes its context it forks another manager. No other thread forks, and nobody's loop pays.
//
// The manager sleeps without a limit, at no cost, unless an account needs a watch (watch.hpp).
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

/// The manager's eyes. Manager only, under M, which a look gives up for its duration.
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

  /// How slow the ticks may become: a look costs about 2.5 us, and many of them must not cost
  /// more than two parts in a hundred of a processor.
  [[nodiscard]] duration slowest() const noexcept {
    return std::clamp<duration>(looks_ * std::chrono::microseconds{160}, usual_tick, longest_tick);
  }

  /// How long the manager may sleep before the next sample, if it would sleep until `wanted`.
  [[nodiscard]] time_point next_look(time_point wanted) const noexcept {
    return std::min(wanted, overdue_at_);
  }

  /// Before the first sample after a pause: how long an item has waited since is not known.
  void begin() noexcept {
    for (account_type& account : pool_.accounts)
      for (auto& node_queue : account.node_queues) node_queue.is_marked = false;
  }

  /// One look at all that run. True: something came of it.
  bool sample(lock& held) noexcept {
    bool const relieved = relieve_all();
    worker_type* looked = nullptr;
    looks_ = 0;
    for (account_type& account : pool_.accounts) {
      if (!needs_watch(account)) continue;
      for (worker_type* one = account.workers.front(); one != nullptr; one = one->next) {
        if (one->state != worker_state::running || one->cur == nullptr) continue;
        // relaxed: only a change counts, and an old value is a change not yet seen.
        std::uint64_t const progress_counter =
            one->progress_counter.load(std::memory_order_relaxed);
        // Who is in a region said itself that it may block, so the first look is believed.
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

  /// The node whose queue is the longest.
  [[nodiscard]] static unsigned longest_queue(const account_type& account) noexcept {
    unsigned longest = 0;
    for (unsigned node = 1; node < account.node_queues.size(); ++node)
      if (account.node_queues[node].nr_ready > account.node_queues[longest].nr_ready)
        longest = node;
    return longest;
  }

  /// A worker that slept in its item without saying so may have woken up, and compute: before a
  /// thread is made, look at a few of them again. True: one of them runs, and takes the next.
  bool some_sleeper_runs(account_type& account, lock& held) noexcept {
    if (account.concurrent > 0) return false;
    worker_type* looked = nullptr;
    worker_type* last = account.workers.back();
    for (int looks = 0; looks < max_second_looks && last != nullptr; ++looks) {
      worker_type& first = *account.workers.front();
      account.workers.erase(first);  // round and round, a few at a time
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
  static constexpr duration overdue = std::chrono::microseconds{300};  // since it was marked
  static constexpr int max_second_looks = 8;
  static constexpr unsigned looks_to_doze = 2;  // in a row; once may be chance

  /// Wakes an idle worker for each item that has waited too long behind running ones. True: one
  /// was woken.
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

  /// After a sample: what is still unserved gets an idle worker, or a new one, as ever; and one
  /// for each that dozes, while there is something for it to do. True: something was done.
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

  /// Asks the kernel, without M, whether each of these is in the state `expected`.
  void look_at(worker_type* first, thread_state expected, lock& held) noexcept {
    held.unlock();
    for (worker_type* one = first; one != nullptr; one = one->next_sample)
      one->sample_holds = one->probe.look(one->thread, one->tid) == expected;
    Policy::pause(pause_point::sample_apply);
    held.lock();
  }

  state& pool_;
  int looks_ = 0;                  // at workers, in the last sample
  time_point overdue_at_ = never;  // when an item may have waited too long beside an idle worker
};

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

  context_watch<Policy> context_check;  // the owner's: between its context and ours

  /// Owner's thread: forks the manager if there is none. False: it could not, and why is in the
  /// state. Tries once; the owner's thread does not sleep.
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

  /// Owner's thread: ends the manager, if there is one. It is soon back from whatever it does.
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

  /// Owner's thread, at the pool's end, after stop(): joins every worker. A thread in an
  /// uninterruptible call cannot be ended; who waits for it learns about it.
  void join_all() noexcept {
    lock held = pool_.acquire();
    for (account_type& account : pool_.accounts) account.creating = 0;  // nobody will
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

  /// Under M: fails what is queued in an account that has no worker and can get none.
  void fail_queued(account_type& account, int error, departures<Policy>& failed,
                   deferred_wakes<Policy>& todo) noexcept {
    while (account.runnable >
           0)  // the next_head of a key_head may be of a node_queue that was empty before
      for (auto& node_queue : account.node_queues)
        while (item* const ready = node_queue.ready.front()) {
          failed.are_of(generation_of(*ready));
          pool_.dequeue_item(*ready, error, todo, [&](item& one) { failed.add(one); });
        }
  }
  /// Under M: there is no manager, so in each account without a worker everything fails.
  void fail_stranded(departures<Policy>& failed, deferred_wakes<Policy>& todo) noexcept {
    bool again = pool_.manager_error != 0;
    while (std::exchange(again, false))  // what fails may pass its key on to the other class
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
        // What needs a watch now and then, under load, should not pay for waking us each time.
        (void)wait(held, state::manager_ticking, Policy::now() + last_tick);
      } else {
        (void)wait(held, state::manager_parked, pool_.retired.empty() ? never : join_at_);
      }
    }
  }

  /// Sleeps without M until called, or until `deadline`: then false.
  bool wait(lock& held, std::uint32_t how, time_point deadline) noexcept {
    // relaxed, all three: the word changes under M only; the futex compares it once more.
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

  /// Joins the workers that have left and whose threads have ended. A thread that has left may
  /// still be in a finished() or in destructors of thread-local objects, for any time: the manager
  /// does not wait for it, but looks again later.
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
  /// Without M, which it takes: `joined` may become another thread's.
  void recycle(worker_type& joined, lock& held) noexcept {
    joined.probe.close();
    // relaxed: its thread wrote it, and has been joined.
    int const fd = joined.wake_fd.exchange(-1, std::memory_order_relaxed);
    if (fd >= 0) Policy::wake_close(fd);
    held.lock();
    pool_.spare.push_front(joined);
  }

  account_type* reserved() noexcept {
    for (account_type& account : pool_.accounts)
      if (account.creating > 0) return &account;
    return nullptr;
  }

  /// Makes one reservation true, or gives it back. False: no thread was to be had.
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
        // A successor finds the reservation and goes on.
        if (!pool_.manager_retires) --account.creating;
        pool_.spare.push_front(*born);
        return true;
      }
    }
    ++pool_.created;
    account.add(*born);  // counted before it moves, so that nobody creates another for it
    born->state = worker_state::running;
    born->word.store(worker_type::awake, std::memory_order_relaxed);  // relaxed: it takes M next
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
  time_point join_at_{};  // when to try again to join the retired workers
};

}  // namespace iowq::inline v0::detail
