// SPDX-License-Identifier: BSL-1.0
// iowq/op/signal.hpp -- waits for a signal.
//
// A handler is used, and not signalfd(2), for two reasons. A signalfd needs the signal blocked in
// every thread of the program and of its libraries: delivered to a thread that does not block it,
// the signal takes its default action and kills the process. And a signalfd gives each signal to
// one reader, although several executors may wait for it. The handler records the signal and writes
// to the eventfd of every wait, which is polled like any descriptor. The kernel may deliver the
// signal to any thread that does not block it. Workers block all signals, so the awaiting thread
// unblocks it.
//
// A program that awaits signals in a loop must not be killed by one that arrives between two
// awaits. So a signal is caught from an executor's first await until that executor's run() ends,
// and a signal that arrives while no coroutine waits is given to the next await. The last executor
// to end restores the previous action.
#pragma once

#include <poll.h>
#include <sched.h>
#include <signal.h>

#include <bit>
#include <cerrno>
#include <concepts>
#include <cstdint>

#include <iowq/base/fd.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/poll.hpp>

namespace iowq::inline v0 {

namespace detail {

/// Signals as bits: number 1 is bit 0.
using signal_bits = std::uint64_t;

/// Where the handler records signals. In the list of signal_handlers from link() to unlink().
class signal_slot {
 public:
  signal_slot() noexcept = default;
  signal_slot(const signal_slot&) = delete;
  signal_slot& operator=(const signal_slot&) = delete;

  /// Removes and returns the lowest signal of `wanted` that was caught; 0 if none was.
  [[nodiscard]] int take(signal_bits wanted) noexcept {
    // acquire: pairs with the handler's release.
    signal_bits const found = caught_.load(std::memory_order_acquire) & wanted;
    if (found == 0) return 0;
    forget(std::countr_zero(found) + 1);
    return std::countr_zero(found) + 1;
  }
  void forget(int number) noexcept {
    // relaxed: it publishes nothing.
    caught_.fetch_and(~(signal_bits{1} << (number - 1)), std::memory_order_relaxed);
  }

 protected:
  friend class signal_handlers;
  atomic<signal_bits> wanted_{0};
  atomic<signal_bits> caught_{0};
  atomic<signal_slot*> next_{nullptr};
  int event_fd_ = -1;  // an eventfd that the handler writes to; -1: none
};

/// The signal handlers that the library has installed, and the slots that they write to. Handlers
/// belong to the process, so this state is static. Any thread may call it. The handler only runs
/// on_signal(), which takes no lock.
class signal_handlers {
  using lock = linux_policy::lock;

 public:
  /// Adds a slot to the list. The slots of executors (`first`) come before those of waits: when a
  /// wait's eventfd is written, the signal is already recorded in the executor's slot.
  static void link(signal_slot& note, bool first) noexcept {
    lock const held{mutex_};
    atomic<signal_slot*>* place = &first_;
    while (!first && place->load(std::memory_order_relaxed) != nullptr)  // relaxed: under the lock
      place = &place->load(std::memory_order_relaxed)->next_;
    note.next_.store(place->load(std::memory_order_relaxed), std::memory_order_relaxed);
    place->store(&note, std::memory_order_seq_cst);  // pairs with on_signal(): it sees a whole slot
  }
  /// Removes a slot from the list. Returns when no handler uses it any longer.
  static void unlink(signal_slot& note) noexcept {
    lock const held{mutex_};
    atomic<signal_slot*>* place = &first_;
    while (place->load(std::memory_order_relaxed) != &note)  // relaxed: under the lock
      place = &place->load(std::memory_order_relaxed)->next_;
    // seq_cst, both: a handler that does not see this store has incremented inside_ before the
    // load.
    place->store(note.next_.load(std::memory_order_relaxed), std::memory_order_seq_cst);
    while (inside_.load(std::memory_order_seq_cst) != 0) ::sched_yield();
  }

  /// Counts one more user of signal `number`; the first installs the handler. Returns 0 or -errno.
  static int add(int number) noexcept {
    lock const held{mutex_};
    use& one = uses_[number - 1];
    if (one.count == 0) {
      struct sigaction ours{};
      ours.sa_handler = &on_signal;
      ours.sa_flags = SA_RESTART;
      if (::sigaction(number, &ours, &one.before) != 0) return -errno;
    }
    ++one.count;
    return 0;
  }
  /// Counts one user less; the last restores the previous action.
  static void drop(int number) noexcept {
    lock const held{mutex_};
    use& one = uses_[number - 1];
    if (--one.count != 0) return;
    struct sigaction now{};
    ::sigaction(number, nullptr, &now);
    // If the program has installed another handler since, that one stays.
    if (now.sa_handler == &on_signal) ::sigaction(number, &one.before, nullptr);
  }

 private:
  struct use {
    unsigned count;
    struct sigaction before;
  };

  static void on_signal(int number) noexcept {
    int const saved = errno;
    signal_bits const bit = signal_bits{1} << (number - 1);
    inside_.fetch_add(1, std::memory_order_seq_cst);  // see unlink()
    for (signal_slot* note = first_.load(std::memory_order_seq_cst); note != nullptr;
         note = note->next_.load(std::memory_order_seq_cst)) {
      // relaxed: either the bit was set before the handler was installed, or the wait may count as
      // one that began after the signal.
      if ((note->wanted_.load(std::memory_order_relaxed) & bit) == 0) continue;
      // release: pairs with take().
      note->caught_.fetch_or(bit, std::memory_order_release);
      if (note->event_fd_ >= 0) linux_policy::wake_ring(note->event_fd_);
    }
    inside_.fetch_sub(1, std::memory_order_seq_cst);
    errno = saved;
  }

  static inline constinit linux_policy::mutex mutex_;
  static inline constinit use uses_[64]{};  // under the lock
  static inline constinit atomic<signal_slot*> first_{nullptr};
  static inline constinit atomic<unsigned> inside_{0};
};

/// The signals that an executor's coroutines have awaited in this run, and those that arrived while
/// no coroutine waited.
class pending_signals final : public signal_slot, end_of_run {
 public:
  /// Returns the object of the calling thread's executor, with `wanted` added to it. Throws.
  static pending_signals& of(signal_bits wanted) {
    executor& here = executor::current();
    auto* all = static_cast<pending_signals*>(find(here, &ended));
    if (all == nullptr) all = new pending_signals{here};
    all->want(wanted);
    return *all;
  }

 private:
  explicit pending_signals(executor& here) noexcept : end_of_run{here, &ended} {
    ::sigemptyset(&were_blocked_);
    signal_handlers::link(*this, true);
  }
  ~pending_signals() {
    for_each(mine_, &signal_handlers::drop);
    signal_handlers::unlink(*this);
    ::pthread_sigmask(SIG_BLOCK, &were_blocked_, nullptr);
  }

  void want(signal_bits wanted) {
    int error = 0;
    for_each(wanted & ~mine_, [&](int number) {
      signal_bits const bit = signal_bits{1} << (number - 1);
      wanted_.fetch_or(bit, std::memory_order_relaxed);  // relaxed: there is no handler yet
      if (int const r = signal_handlers::add(number); r < 0) {
        wanted_.fetch_and(~bit, std::memory_order_relaxed);
        error = r;
        return;
      }
      mine_ |= bit;
      sigset_t one, before;
      ::sigemptyset(&one);
      ::sigaddset(&one, number);
      ::pthread_sigmask(SIG_UNBLOCK, &one, &before);
      if (::sigismember(&before, number) == 1) ::sigaddset(&were_blocked_, number);
    });
    if (error != 0) throw_error(error, "until_signal (sigaction)");
  }
  template <class F>
  static void for_each(signal_bits bits, F&& f) {
    for (; bits != 0; bits &= bits - 1) f(std::countr_zero(bits) + 1);
  }
  static void ended(end_of_run* self) noexcept { delete static_cast<pending_signals*>(self); }

  // Owner thread only.
  signal_bits mine_ = 0;
  sigset_t were_blocked_;
};

/// The slot of one wait, with an eventfd.
class signal_event final : public signal_slot {
 public:
  explicit signal_event(signal_bits wanted) {
    int const r = linux_policy::wake_open();
    if (r < 0) throw_error(r, "until_signal (eventfd)");
    file_.reset(event_fd_ = r);
    wanted_.store(wanted, std::memory_order_relaxed);  // relaxed: link() publishes it
    signal_handlers::link(*this, false);
  }
  ~signal_event() { signal_handlers::unlink(*this); }
  [[nodiscard]] const fd& descriptor() const noexcept { return file_; }

 private:
  fd file_;
};

template <class = void>
task<int> await_signal(signal_bits wanted) {
  if (wanted == 0) throw_error(-EINVAL, "until_signal");
  pending_signals& all = pending_signals::of(wanted);
  if (int const number = all.take(wanted); number != 0) co_return number;
  signal_event bell{wanted};
  // The signal may have arrived before the eventfd was in the list.
  if (int const number = all.take(wanted); number != 0) co_return number;
  co_await poll(bell.descriptor(), POLLIN);
  int const number = bell.take(wanted);
  all.forget(number);
  co_return number;
}

}  // namespace detail

/// Signals by their numbers: `{SIGINT, SIGTERM}`. The constructor is a template and takes no
/// std::initializer_list, which g++ 12 does not handle inside a co_await expression.
class signal_set {
 public:
  template <std::convertible_to<int>... Numbers>
  constexpr signal_set(Numbers... numbers) noexcept {
    (add(numbers), ...);
  }
  /// The signals as bits; 0 if one of them cannot be awaited.
  [[nodiscard]] constexpr detail::signal_bits bits() const noexcept { return valid_ ? bits_ : 0; }

 private:
  constexpr void add(int number) noexcept {
    bool const fault = number == SIGSEGV || number == SIGBUS || number == SIGFPE ||
                       number == SIGILL || number == SIGTRAP || number == SIGSYS;
    valid_ = valid_ && number >= 1 && number <= 64 && !fault;
    if (valid_) bits_ |= detail::signal_bits{1} << (number - 1);
  }
  detail::signal_bits bits_ = 0;
  bool valid_ = true;
};

/// Waits until the process receives one of these signals, and yields its number. Every executor
/// that awaits the signal receives it. From the first await until the executor's run() ends, these
/// signals have no other effect. A signal that arrives while no coroutine awaits it is yielded by
/// the next await, so a second SIGTERM does not kill a program that is shutting down. Then the
/// previous actions are restored. If the calling thread blocks these signals, they are unblocked
/// for the same time. Fails with invalid_argument for a signal that cannot be caught or that a
/// fault raises (such as SIGSEGV).
///
///     int const why = co_await iowq::until_signal({SIGINT, SIGTERM});
template <class = void>
[[nodiscard("co_await it")]] task<int> until_signal(signal_set which) {
  return detail::await_signal(which.bits());
}

}  // namespace iowq::inline v0
