// SPDX-License-Identifier: BSL-1.0
// iowq/pool/manager.hpp -- forks workers, watches them when it matters, joins those that left.
// Layer pool; needs pool/runner, watch. Next in the book: pool/cancel.hpp.
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
#include <cstdio>
#include <new>
#include <utility>

#include <iowq/base/policy.hpp>
#include <iowq/pool/drift.hpp>
#include <iowq/pool/runner.hpp>
#include <iowq/pool/state.hpp>
#include <iowq/pool/watch.hpp>
#include <iowq/queue/fifo.hpp>

namespace iowq::detail {

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

  drift_watch<Policy> drift;  // the owner's: between its context and ours

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
    drift.expect_specimen();
    int const error = Policy::thread_start(thread_, &main, this, pool_.stack_size);
    if (error == 0) return true;
    drift.no_specimen();
    lock const held = pool_.acquire();
    pool_.manager_present = false;
    pool_.manager_error = error;
    ++pool_.create_failures;
    return false;
  }

  /// Owner's thread: ends the manager, if there is one. It is soon back from whatever it does.
  void stop() noexcept {
    {
      deeds<Policy> todo;
      lock const held = pool_.acquire();
      if (!pool_.manager_present) return;
      pool_.manager_retires = true;
      pool_.call_manager(true, todo);
      pool_.carry_out(todo);
    }
    drift.no_specimen();
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
                   deeds<Policy>& todo) noexcept {
    while (account.runnable > 0)  // the heir of a leader may be of a lane that was empty before
      for (auto& lane : account.lanes)
        while (item* const ready = lane.ready.front()) {
          failed.are_of(generation_of(*ready));
          pool_.withdraw(*ready, error, todo, [&](item& one) { failed.add(one); });
        }
  }
  /// Under M: there is no manager, so in each account without a worker everything fails.
  void fail_stranded(departures<Policy>& failed, deeds<Policy>& todo) noexcept {
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
    me.drift.specimen_is_here();
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
        tick = create(*account, held) ? first_tick : watch<Policy>::longest_tick;
      } else if (needs_watch(pool_.accounts[0]) || needs_watch(pool_.accounts[1])) {
        if (!std::exchange(watched, true)) {
          tick = first_tick;
          watch_.begin();
        }
        if (watch_.sample(held)) continue;
        if (wait(held, state::manager_ticking, watch_.next_look(Policy::now() + tick)))
          tick = first_tick;
        else
          tick = std::min(2 * tick, watch_.slowest());
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
    if (creation_is_stale(account) || watch_.some_sleeper_runs(account, held)) {
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
          Policy::thread_start(born->thread, &runner<Policy>::main, born, pool_.stack_size);
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
    born.node = watch<Policy>::waits_longest(account);
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
    deeds<Policy> todo;
    fail_queued(account, error, failed, todo);
    pool_.settle(todo);
    failed.announce(*pool_.finishers);
    held.unlock();
    pool_.carry_out(todo);
    failed.finish();
    held.lock();
    return false;
  }

  state& pool_;
  typename Policy::thread thread_{};
  watch<Policy> watch_{pool_};
  unsigned epoch_ = 0;
  duration join_pause_ = first_join;
  time_point join_at_{};  // when to try again to join the retired workers
};

}  // namespace iowq::detail
