// SPDX-License-Identifier: BSL-1.0
// iowq/op/signal.hpp -- waiting for a signal.
//
// Why a handler and no signalfd(2): that needs the signal blocked in every thread, the program's
// own and those of libraries as well, or the one that has it open dies of it; and it gives each
// signal to one reader, where several executors may wait for it. The handler notes it and rings
// the eventfd of every wait, which is polled like any descriptor. Which thread the kernel chooses
// does not matter, as long as one has it open: workers have none, so the one that awaits opens it.
//
// A program that awaits signals in a loop must not die of one that comes between two awaits. So
// from an executor's first await on a signal is caught until its run() ends, and what nobody
// awaited is given to the next await. The last executor to end puts back what was there before.
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

/// What the handler writes to. In its list from link() to unlink().
class signal_slot {
 public:
  signal_slot() noexcept = default;
  signal_slot(const signal_slot&) = delete;
  signal_slot& operator=(const signal_slot&) = delete;

  /// The lowest of `wanted` that was caught, and it is forgotten; 0: none.
  [[nodiscard]] int take(signal_bits wanted) noexcept {
    // acquire: pairs with the handler's release.
    signal_bits const found = caught_.load(std::memory_order_acquire) & wanted;
    if (found == 0) return 0;
    forget(std::countr_zero(found) + 1);
    return std::countr_zero(found) + 1;
  }
  void forget(int number) noexcept {
    // relaxed: nothing is published by it.
    caught_.fetch_and(~(signal_bits{1} << (number - 1)), std::memory_order_relaxed);
  }

 protected:
  friend class signal_handlers;
  atomic<signal_bits> wanted_{0};
  atomic<signal_bits> caught_{0};
  atomic<signal_slot*> next_{nullptr};
  int event_fd_ = -1;  // an eventfd
};

/// The process's handlers of ours, and the notes that they write to. Handlers are the process's,
/// so this is, too. Any thread; only on_signal() is called by a handler, and takes no lock.
class signal_handlers {
  using lock = linux_policy::lock;

 public:
  /// Puts a note where it is found: an executor's before those of waits, so that a wait that was
  /// rung finds its signal noted there.
  static void link(signal_slot& note, bool first) noexcept {
    lock const held{mutex_};
    atomic<signal_slot*>* place = &first_;
    while (!first && place->load(std::memory_order_relaxed) != nullptr)  // relaxed: under the lock
      place = &place->load(std::memory_order_relaxed)->next_;
    note.next_.store(place->load(std::memory_order_relaxed), std::memory_order_relaxed);
    place->store(&note, std::memory_order_seq_cst);  // the handler's loads find the whole note
  }
  /// Returns when no handler is at it any more.
  static void unlink(signal_slot& note) noexcept {
    lock const held{mutex_};
    atomic<signal_slot*>* place = &first_;
    while (place->load(std::memory_order_relaxed) != &note)  // relaxed: under the lock
      place = &place->load(std::memory_order_relaxed)->next_;
    // seq_cst, both: a handler that does not see this store has been counted before the load.
    place->store(note.next_.load(std::memory_order_relaxed), std::memory_order_seq_cst);
    while (inside_.load(std::memory_order_seq_cst) != 0) ::sched_yield();
  }

  /// One more wants `number`. 0 or -errno.
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
  static void drop(int number) noexcept {
    lock const held{mutex_};
    use& one = uses_[number - 1];
    if (--one.count != 0) return;
    struct sigaction now{};
    ::sigaction(number, nullptr, &now);
    // Who has set another one meanwhile keeps it.
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
      // relaxed: who wants it set the bit before the handler was there, or comes a moment later.
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

/// What an executor's coroutines have awaited in this run, and what came while none did.
class pending_signals final : public signal_slot, end_of_run {
 public:
  /// Those of the calling thread's executor, `wanted` among them. Throws.
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
      wanted_.fetch_or(bit, std::memory_order_relaxed);  // relaxed: before there is a handler
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

/// A wait's own note, with a bell.
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
  // It may have come before the bell was there.
  if (int const number = all.take(wanted); number != 0) co_return number;
  co_await poll(bell.descriptor(), POLLIN);
  int const number = bell.take(wanted);
  all.forget(number);
  co_return number;
}

}  // namespace detail

/// Signals by their numbers: `{SIGINT, SIGTERM}`. No std::initializer_list, of which g++ 12 makes
/// nothing inside a co_await expression.
class signal_set {
 public:
  template <std::convertible_to<int>... Numbers>
  constexpr signal_set(Numbers... numbers) noexcept {
    (add(numbers), ...);
  }
  /// None if one of them is none that can be awaited.
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

/// Waits until the process gets one of these signals, and yields its number. Every executor that
/// awaits it is told. From here until the executor's run() ends they do nothing else: one that
/// comes while nobody awaits it is yielded by the next await, and a second SIGTERM does not kill a
/// program that is putting things in order. Then what was there before is put back. A signal that
/// cannot be caught, or that a fault raises (SIGSEGV), is invalid_argument. Where the calling
/// thread blocks them, it does not until then.
///
///     int const why = co_await iowq::until_signal({SIGINT, SIGTERM});
template <class = void>
[[nodiscard("co_await it")]] task<int> until_signal(signal_set which) {
  return detail::await_signal(which.bits());
}

}  // namespace iowq::inline v0
