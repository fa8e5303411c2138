// SPDX-License-Identifier: BSL-1.0
// iowq/base/policy.hpp -- the seam between our algorithms and the machine they run on.
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
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>

#include <iowq/base/assert.hpp>

namespace iowq::inline v0::detail {

/// Time as the library counts it: CLOCK_MONOTONIC, never set back.
using steady_clock = std::chrono::steady_clock;
using time_point = steady_clock::time_point;

/// Later than every deadline: "wait without limit".
inline constexpr time_point never = time_point::max();

/// Where the pool may be held by a test: between two steps that another thread could divide.
enum class pause_point : unsigned char {
  pop_execute,     // an item was taken, its execute() not yet called
  execute_finish,  // execute() returned, M not yet taken
  idle_wait,       // on the idle stack, not yet asleep
  decide_create,   // a reservation was made, the thread not yet created
  sample_apply,    // thread states were read, not yet acted upon
  held_stop,       // a worker is held for a canceller, its token not yet stopped
};

/// What a thread does, as far as another can tell.
enum class thread_state : unsigned char { running, sleeping, unknown };

/// A mutex that looks again for a moment before it sleeps: what it guards is held for less time
/// than a sleep and a wake take. glibc's adaptive kind, which std::mutex does not offer.
class brief_mutex {
 public:
  brief_mutex() noexcept = default;
  brief_mutex(const brief_mutex&) = delete;
  brief_mutex& operator=(const brief_mutex&) = delete;
  ~brief_mutex() { ::pthread_mutex_destroy(&native_); }

  void lock() noexcept { ::pthread_mutex_lock(&native_); }
  void unlock() noexcept { ::pthread_mutex_unlock(&native_); }

 private:
#if defined(PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP)
  pthread_mutex_t native_ = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
#else
  pthread_mutex_t native_ = PTHREAD_MUTEX_INITIALIZER;  // another C library
#endif
};

/// The real machine: C++ atomics, futexes, pthreads, /proc.
struct linux_policy {
  template <class T>
  using atomic = std::atomic<T>;
  /// Plain data that a protocol of atomics guards; the explorer looks whether it does.
  template <class T>
  using guarded = T;
  using mutex = brief_mutex;
  using lock = std::unique_lock<mutex>;

  [[nodiscard]] static time_point now() noexcept { return steady_clock::now(); }

  /// The same clock as of the last timer tick: a few milliseconds old, an eighth of the price.
  [[nodiscard]] static time_point now_coarsely() noexcept {
    timespec t{};
    ::clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return time_point{std::chrono::seconds{t.tv_sec} + std::chrono::nanoseconds{t.tv_nsec}};
  }

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
                             deadline == never ? nullptr : &until, nullptr, FUTEX_BITSET_MATCH_ANY);
    return r == 0 || errno != ETIMEDOUT;
  }

  /// futex(2): wakes up to `count` sleepers of `word`.
  static void futex_wake(atomic<std::uint32_t>& word, int count) noexcept {
    ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE | FUTEX_PRIVATE_FLAG,
              count);
  }

  /// gettid(2), asked once a thread.
  [[nodiscard]] static int thread_id() noexcept {
    if (known_id_ == 0) known_id_ = static_cast<int>(::syscall(SYS_gettid));
    return known_id_;
  }
  /// Has the caller that number, which thread_id() gave to somebody?
  [[nodiscard]] static bool is_thread(int id) noexcept { return known_id_ == id; }

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

  // ---- The pool's threads ----
  using thread = pthread_t;

  /// Creates a thread that runs `body(argument)`; 0 or an errno. It starts with every signal
  /// blocked but those a fault of its own raises. pthread_sigmask, not the raw call: glibc keeps
  /// SIGSETXID open in it, without which setuid() would wait for this thread for ever.
  [[nodiscard]] static int thread_start(thread& created, void* (*body)(void*), void* argument,
                                        std::size_t stack_size) noexcept {
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (int const fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT})
      sigdelset(&blocked, fault);
    pthread_attr_t attributes;
    if (int const error = ::pthread_attr_init(&attributes); error != 0) return error;
    // EINVAL (below the minimum) keeps the default; the page that guards it is the default's too.
    ::pthread_attr_setstacksize(&attributes, stack_size * (IOWQ_ASAN || IOWQ_TSAN ? 4 : 1));
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int error = ::pthread_create(&created, &attributes, body, argument);
    // The program's thread-local data lives on the stack as well and may need more than we asked.
    if (error == EINVAL) error = ::pthread_create(&created, nullptr, body, argument);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_attr_destroy(&attributes);
    return error;
  }
  static void thread_join(thread joined) noexcept { ::pthread_join(joined, nullptr); }
  /// Joins the thread if it has ended; false if it has not.
  [[nodiscard]] static bool thread_try_join(thread joined) noexcept {
    return ::pthread_tryjoin_np(joined, nullptr) == 0;
  }

  /// Names the calling thread; 15 bytes at most.
  static void thread_name(const char* name) noexcept {
    ::pthread_setname_np(::pthread_self(), name);
  }

  /// The pool's record of the calling thread, null off a worker. A coroutine may go on elsewhere,
  /// so the address is taken anew each time: never inlined.
  IOWQ_NOINLINE static void*& this_worker() noexcept {
    static thread_local constinit void* worker = nullptr;
    return worker;
  }

  /// Looks at one other thread. Asks /proc through a descriptor that it keeps; where that is not
  /// to be had, watches the thread's CPU clock, which shows no state, only progress.
  class thread_probe {
   public:
    explicit thread_probe(const char* tasks = "/proc/self/task") noexcept : tasks_{tasks} {}
    thread_probe(const thread_probe&) = delete;
    thread_probe& operator=(const thread_probe&) = delete;
    ~thread_probe() { close(); }

    [[nodiscard]] thread_state look(thread handle, int id) noexcept {
      if (fd_ == unopened) {
        char path[64];
        std::snprintf(path, sizeof path, "%s/%d/stat", tasks_, id);
        fd_ = ::open(path, O_RDONLY | O_CLOEXEC);
      }
      if (fd_ < 0) return by_clock(handle);
      char text[64];  // "TID (name) S ...": the name is ours and short
      ssize_t const n = ::pread(fd_, text, sizeof text - 1, 0);
      if (n <= 0) return thread_state::unknown;  // it has ended
      text[n] = 0;
      const char* const name_end = std::strrchr(text, ')');
      if (name_end == nullptr || name_end[1] == 0) return thread_state::unknown;
      char const letter = name_end[2];
      return letter == 'S' || letter == 'D' ? thread_state::sleeping : thread_state::running;
    }
    void close() noexcept {
      if (fd_ >= 0) ::close(fd_);
      fd_ = unopened;
      used_ = time_point::duration{-1};
    }

   private:
    static constexpr int unopened = -2;
    /// Asleep: used no time for so long that a preempted thread would have had its turn.
    thread_state by_clock(thread handle) noexcept {
      clockid_t clock;
      timespec read{};
      if (::pthread_getcpuclockid(handle, &clock) != 0 || ::clock_gettime(clock, &read) != 0)
        return thread_state::unknown;
      auto const used = std::chrono::seconds{read.tv_sec} + std::chrono::nanoseconds{read.tv_nsec};
      time_point const at = now();
      if (used != used_) since_ = at;
      used_ = used;
      return at - since_ >= std::chrono::milliseconds{20} ? thread_state::sleeping
                                                          : thread_state::running;
    }
    const char* tasks_;
    int fd_ = unopened;
    time_point::duration used_{-1};
    time_point since_{};
  };

  // ---- The machine's shape ----
  /// The processor that runs the caller: a hint, old as soon as it is known.
  [[nodiscard]] static unsigned current_cpu() noexcept {
    int const cpu = ::sched_getcpu();
    return cpu >= 0 ? static_cast<unsigned>(cpu) : 0;
  }
  /// The calling thread's processors; false where the kernel has more than the set can name.
  static bool affinity(cpu_set_t& cpus) noexcept {
    return ::sched_getaffinity(0, sizeof cpus, &cpus) == 0;
  }
  static bool set_affinity(const cpu_set_t& cpus) noexcept {
    return ::sched_setaffinity(0, sizeof cpus, &cpus) == 0;
  }
  /// RLIMIT_NPROC, the soft one.
  [[nodiscard]] static unsigned long max_threads() noexcept {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NPROC, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
  }
  /// The beginning of a small text file, terminated; its length, or -errno.
  static int read_text(const char* path, char* text, std::size_t size) noexcept {
    int const file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -errno;
    ssize_t const n = ::read(file, text, size - 1);
    int const answer = n < 0 ? -errno : static_cast<int>(n);
    text[answer < 0 ? 0 : answer] = 0;
    ::close(file);
    return answer;
  }
  /// What a symbolic link says, terminated; its length, or -errno.
  static int read_link(const char* path, char* text, std::size_t size) noexcept {
    ssize_t const n = ::readlink(path, text, size - 1);
    int const answer = n < 0 ? -errno : static_cast<int>(n);
    text[answer < 0 ? 0 : answer] = 0;
    return answer;
  }

  /// For tests: nothing happens here.
  static constexpr void pause(pause_point) noexcept {}
  /// Absolute CLOCK_MONOTONIC, saturated: a deadline before the epoch is the epoch.
  [[nodiscard]] static timespec to_timespec(time_point when) noexcept {
    auto const since = when.time_since_epoch();
    if (since <= time_point::duration::zero()) return {0, 0};
    auto const s = std::chrono::floor<std::chrono::seconds>(since);
    auto const ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since - s);
    return {static_cast<time_t>(s.count()), static_cast<long>(ns.count())};
  }

 private:
  static inline constinit thread_local int known_id_ = 0;
};

/// The atomic of code that is no part of the explored seam (stop tokens, the loop's flags).
template <class T>
using atomic = linux_policy::atomic<T>;

}  // namespace iowq::inline v0::detail
