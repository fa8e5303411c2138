// SPDX-License-Identifier: BSL-1.0
// iowq/base/policy.hpp -- linux_policy: the pool's access to threads, clocks and system calls.
//
// The pool and the inbox reach other threads, the clock and the kernel only through one class, the
// policy. `linux_policy` is the real one and costs nothing. The schedule explorer and the
// fault-injection tests pass their own policy and run the same code. Therefore this is the only
// header that names std::atomic, std::mutex, a thread, a clock or a plain system call of the pool.
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

/// The clock of the library: CLOCK_MONOTONIC, which is never set back.
using steady_clock = std::chrono::steady_clock;
using time_point = steady_clock::time_point;

/// Later than every deadline; as a deadline it means "no time limit".
inline constexpr time_point never = time_point::max();

/// Places where a test can hold the pool: between two steps that another thread can interleave.
enum class pause_point : unsigned char {
  pop_execute,     // an item was taken; its execute() is not called yet
  execute_finish,  // execute() returned; the pool's mutex M is not taken yet
  idle_wait,       // the worker is on the idle stack and not asleep yet
  decide_create,   // a reservation was made; the thread is not created yet
  sample_apply,    // thread states were read and are not applied yet
  held_stop,       // a worker is held for a canceller; its token is not stopped yet
};

/// The state of a thread, as far as another thread can observe it.
enum class thread_state : unsigned char { running, sleeping, unknown };

/// A mutex that spins briefly before it sleeps, because its holders keep it for less time than a
/// sleep and a wake-up take. It is glibc's adaptive mutex, which std::mutex does not offer.
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
  pthread_mutex_t native_ = PTHREAD_MUTEX_INITIALIZER;  // a C library other than glibc
#endif
};

/// The real machine: C++ atomics, futexes, pthreads, /proc.
struct linux_policy {
  template <class T>
  using atomic = std::atomic<T>;
  /// Plain data that a protocol of atomics guards; the explorer checks that it does.
  template <class T>
  using guarded = T;
  using mutex = brief_mutex;
  using lock = std::unique_lock<mutex>;

  [[nodiscard]] static time_point now() noexcept { return steady_clock::now(); }

  /// The same clock as of the last timer tick: a few milliseconds old, at an eighth of the cost.
  [[nodiscard]] static time_point now_coarsely() noexcept {
    timespec t{};
    ::clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return time_point{std::chrono::seconds{t.tv_sec} + std::chrono::nanoseconds{t.tv_nsec}};
  }

  /// A hint to the processor in a short spin: the core's other hardware thread may run.
  static void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  /// futex(2): sleeps while `word` holds `expected`, at most until `deadline`. Spurious wake-ups
  /// are possible. Returns false if the deadline passed.
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

  /// futex(2): wakes at most `count` threads that sleep on `word`.
  static void futex_wake(atomic<std::uint32_t>& word, int count) noexcept {
    ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE | FUTEX_PRIVATE_FLAG,
              count);
  }

  /// gettid(2), called once per thread and cached.
  [[nodiscard]] static int thread_id() noexcept {
    if (known_id_ == 0) known_id_ = static_cast<int>(::syscall(SYS_gettid));
    return known_id_;
  }
  /// Returns true if thread_id() returned `id` on the calling thread.
  [[nodiscard]] static bool is_thread(int id) noexcept { return known_id_ == id; }

  [[nodiscard]] static int process_id() noexcept { return ::getpid(); }

  /// Creates an eventfd(2), which poll(2) reports readable after wake_ring(). Returns the
  /// descriptor or -errno.
  [[nodiscard]] static int wake_open() noexcept {
    int const fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd >= 0 ? fd : -errno;
  }
  /// Makes the eventfd readable. Async-signal-safe. EAGAIN, a full counter, is ignored: the
  /// descriptor is readable already.
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

  /// Creates a thread that runs `body(argument)`. Returns 0 or an errno value. The thread starts
  /// with all signals blocked except those that a fault of its own raises. This uses
  /// pthread_sigmask(), not the system call: glibc's function leaves SIGSETXID unblocked. If that
  /// signal were blocked, setuid() would wait for this thread without end.
  [[nodiscard]] static int thread_start(thread& created, void* (*body)(void*), void* argument,
                                        std::size_t stack_size) noexcept {
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (int const fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT})
      sigdelset(&blocked, fault);
    pthread_attr_t attributes;
    if (int const error = ::pthread_attr_init(&attributes); error != 0) return error;
    // On EINVAL (below the minimum) the default size stays. The guard page is the default's in
    // either case.
    ::pthread_attr_setstacksize(&attributes, stack_size * (IOWQ_ASAN || IOWQ_TSAN ? 4 : 1));
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int error = ::pthread_create(&created, &attributes, body, argument);
    // The program's thread-local data is also on the stack and may need more than `stack_size`:
    // retry with the default size.
    if (error == EINVAL) error = ::pthread_create(&created, nullptr, body, argument);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_attr_destroy(&attributes);
    return error;
  }
  static void thread_join(thread joined) noexcept { ::pthread_join(joined, nullptr); }
  /// Joins the thread if it has ended; otherwise returns false at once.
  [[nodiscard]] static bool thread_try_join(thread joined) noexcept {
    return ::pthread_tryjoin_np(joined, nullptr) == 0;
  }

  /// Names the calling thread; 15 bytes at most.
  static void thread_name(const char* name) noexcept {
    ::pthread_setname_np(::pthread_self(), name);
  }

  /// The pool's record of the calling thread; null if it is not a worker. Never inlined: a
  /// coroutine may resume on another thread, so each call must compute the address of the variable
  /// again.
  IOWQ_NOINLINE static void*& this_worker() noexcept {
    static thread_local constinit void* worker = nullptr;
    return worker;
  }

  /// Observes the state of one other thread. Reads it from /proc, through a descriptor that stays
  /// open. If /proc cannot be opened, observes the thread's CPU clock, which shows only progress,
  /// not the state.
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
      char text[64];  // "TID (name) S ...": the pool sets the name, and it is short
      ssize_t const n = ::pread(fd_, text, sizeof text - 1, 0);
      if (n <= 0) return thread_state::unknown;  // the thread has ended
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
    /// Reports `sleeping` if the thread used no processor time for 20 ms. In that time a thread
    /// that was only preempted would have run.
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

  // ---- Processors, limits, small files ----
  /// The processor that runs the caller. A hint: the caller may have moved when this returns.
  [[nodiscard]] static unsigned current_cpu() noexcept {
    int const cpu = ::sched_getcpu();
    return cpu >= 0 ? static_cast<unsigned>(cpu) : 0;
  }
  /// The processors of the calling thread. Returns false if the kernel has more processors than
  /// `cpus` can represent.
  static bool affinity(cpu_set_t& cpus) noexcept {
    return ::sched_getaffinity(0, sizeof cpus, &cpus) == 0;
  }
  static bool set_affinity(const cpu_set_t& cpus) noexcept {
    return ::sched_setaffinity(0, sizeof cpus, &cpus) == 0;
  }
  /// The soft limit RLIMIT_NPROC; RLIM_INFINITY if it cannot be read.
  [[nodiscard]] static unsigned long max_threads() noexcept {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NPROC, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
  }
  /// Reads the beginning of a small text file into `text` and terminates it. Returns the length
  /// read, or -errno.
  static int read_text(const char* path, char* text, std::size_t size) noexcept {
    int const file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -errno;
    ssize_t const n = ::read(file, text, size - 1);
    int const answer = n < 0 ? -errno : static_cast<int>(n);
    text[answer < 0 ? 0 : answer] = 0;
    ::close(file);
    return answer;
  }
  /// Reads the target of a symbolic link into `text` and terminates it. Returns its length, or
  /// -errno.
  static int read_link(const char* path, char* text, std::size_t size) noexcept {
    ssize_t const n = ::readlink(path, text, size - 1);
    int const answer = n < 0 ? -errno : static_cast<int>(n);
    text[answer < 0 ? 0 : answer] = 0;
    return answer;
  }

  /// A hook for the policies of tests. Does nothing here.
  static constexpr void pause(pause_point) noexcept {}
  /// Converts to absolute CLOCK_MONOTONIC time. A time before the epoch becomes the epoch.
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

/// The atomic type of code that the explorer does not instantiate with its own policy (stop tokens,
/// the flags of the loop).
template <class T>
using atomic = linux_policy::atomic<T>;

}  // namespace iowq::inline v0::detail
