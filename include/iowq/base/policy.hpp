// SPDX-License-Identifier: BSL-1.0
// iowq/base/policy.hpp -- the seam between our algorithms and the machine they run on.
// Layer base; needs assert. Next in the book: base/result.hpp.
//
// Everything that another thread, the clock or the kernel could do to the pool and the inbox goes
// through one class. `linux_policy` is the real one and costs nothing; a schedule explorer or a
// fault sweep passes its own and runs the very same lines. So this is the only header that names
// std::atomic, std::mutex, a thread, a clock or a plain system call of the pool.
#pragma once

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <mutex>

#include <iowq/base/assert.hpp>

namespace iowq {

/// Time as the library counts it: CLOCK_MONOTONIC, never set back.
using steady_clock = std::chrono::steady_clock;
using time_point = steady_clock::time_point;

/// Later than every deadline: "wait without limit".
inline constexpr time_point never = time_point::max();

/// The real machine: C++ atomics and mutexes, futexes, pthreads, /proc.
struct linux_policy {
  template <class T>
  using atomic = std::atomic<T>;
  using mutex = std::mutex;
  using lock = std::unique_lock<std::mutex>;

  [[nodiscard]] static time_point now() noexcept { return steady_clock::now(); }

  /// A hint in a short spin: another hardware thread may run meanwhile.
  static void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  /// futex(2): sleeps while `word` holds `expected`, at most until `deadline`. May return early
  /// for no reason; false means that the deadline passed.
  static bool futex_wait(atomic<std::uint32_t>& word, std::uint32_t expected,
                         time_point deadline) noexcept {
    timespec until{};
    if (deadline != never) until = to_timespec(deadline);
    // FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time, so a retry need not recompute it.
    long const r = ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word),
                             FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected,
                             deadline == never ? nullptr : &until, nullptr,
                             FUTEX_BITSET_MATCH_ANY);
    return r == 0 || errno != ETIMEDOUT;
  }

  /// futex(2): wakes up to `count` sleepers of `word`.
  static void futex_wake(atomic<std::uint32_t>& word, int count) noexcept {
    ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word),
              FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count);
  }

  /// gettid(2), asked once a thread.
  [[nodiscard]] static int thread_id() noexcept {
    static thread_local int const id = static_cast<int>(::syscall(SYS_gettid));
    return id;
  }

  [[nodiscard]] static int process_id() noexcept { return ::getpid(); }

  /// A descriptor that poll(2) sees readable once it was rung: eventfd(2).
  /// The descriptor, or -errno.
  [[nodiscard]] static int wake_open() noexcept {
    int const fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd >= 0 ? fd : -errno;
  }
  /// Async-signal-safe. A full counter (EAGAIN) is rung already.
  static void wake_ring(int fd) noexcept {
    std::uint64_t const one = 1;
    [[maybe_unused]] ssize_t const r = ::write(fd, &one, sizeof one);
  }
  static void wake_drain(int fd) noexcept {
    std::uint64_t count = 0;
    [[maybe_unused]] ssize_t const r = ::read(fd, &count, sizeof count);
  }
  static void wake_close(int fd) noexcept { ::close(fd); }

  /// Absolute CLOCK_MONOTONIC, saturated: a deadline before the epoch is the epoch.
  [[nodiscard]] static timespec to_timespec(time_point when) noexcept {
    auto const since = when.time_since_epoch();
    if (since <= time_point::duration::zero()) return {0, 0};
    auto const s = std::chrono::floor<std::chrono::seconds>(since);
    auto const ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since - s);
    return {static_cast<time_t>(s.count()), static_cast<long>(ns.count())};
  }
};

/// The atomic of code that is no part of the explored seam (stop tokens, the loop's flags).
template <class T>
using atomic = linux_policy::atomic<T>;

}  // namespace iowq
