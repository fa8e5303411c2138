// SPDX-License-Identifier: BSL-1.0
// The policy under which the pool and the inbox run on fibers. All of iowq::detail::linux_policy
// and none of its system calls: threads are fibers, the clock is virtual, descriptors are numbers.
#pragma once

#include <cerrno>
#include <climits>
#include <cstdint>
#include <utility>

#include <iowq/base/policy.hpp>

#include "atomic.hpp"
#include "world.hpp"

namespace explore {

/// Orders what its holders do, and fails if somebody else unlocks it or it dies locked.
class mutex {
 public:
  mutex() noexcept = default;
  mutex(const mutex&) = delete;
  mutex& operator=(const mutex&) = delete;
  ~mutex() {
    if (free_ == 0) here.fail("a mutex is destroyed while %s holds it", here.of(owner_).name);
    if (!here.me().clock.covers(released_))
      here.fail("a mutex is destroyed while another thread may still use it");
  }

  void lock(const where& at = where::current()) {
    fiber& self = here.me();
    if (free_ == 0 && owner_ == self.id) here.fail("%s locks a mutex that it holds", self.name);
    (void)here.wait(free_, 1, "a mutex");
    free_ = 0;
    owner_ = self.id;
    self.clock.join(released_);
    (void)here.tick();
    here.happened(history_);
    here.trace("lock", 0, 0, at);
  }
  void unlock(const where& at = where::current()) {
    fiber& self = here.me();
    if (free_ != 0 || owner_ != self.id)
      here.fail("%s unlocks a mutex that it does not hold", self.name);
    here.trace("unlock", 0, 0, at);
    free_ = 1;
    (void)here.tick();
    here.happened(37);
    history_ = self.history;
    released_ = self.clock;
  }

 private:
  std::uint64_t free_ = 1;
  int owner_ = 0;
  std::uint64_t history_ = 41;
  clock_vector released_;
};

/// std::unique_lock, but it says where it was called from.
class holder {
 public:
  explicit holder(mutex& locked, const where& at = where::current())
      : mutex_{&locked}, owns_{true} {
    locked.lock(at);
  }
  holder(holder&& other) noexcept
      : mutex_{other.mutex_}, owns_{std::exchange(other.owns_, false)} {}
  holder& operator=(holder&& other) {
    if (owns_) unlock();
    mutex_ = other.mutex_;
    owns_ = std::exchange(other.owns_, false);
    return *this;
  }
  ~holder() {
    if (owns_) mutex_->unlock();
  }
  void lock(const where& at = where::current()) {
    if (owns_) here.fail("%s locks what it has locked", here.me().name);
    mutex_->lock(at);
    owns_ = true;
  }
  void unlock(const where& at = where::current()) {
    if (!owns_) here.fail("%s unlocks what it has not locked", here.me().name);
    owns_ = false;
    mutex_->unlock(at);
  }

 private:
  mutex* mutex_;
  bool owns_;
};

/// What a model says about the machine. As it is here before each execution.
struct machine {
  unsigned processors = 1;
  // Of the threads that the pool starts, from 0: these are not to be had.
  int refuse_from = 0;
  int refuse_count = 0;
  int refuse_error = EAGAIN;
  int descriptors = 16;      // to be had
  bool all_compute = false;  // whoever waits at a gate looks to the pool as if it computed

  // Counted.
  int threads_started = 0;
  int threads_refused = 0;
};
inline machine the_machine;

/// An eventfd that is read with poll(2).
struct descriptor {
  std::uint64_t cancel_requested = 0;
  bool open = false;
  std::uint64_t history = 0;
  clock_vector opened;  // what its opener knew
  int opener = 0;
  moment when = 0;
  accesses uses;
};
inline descriptor the_descriptors[16];

struct policy {
  template <class T>
  using atomic = explore::atomic<T>;
  template <class T>
  using guarded = explore::guarded<T>;
  using mutex = explore::mutex;
  using lock = holder;

  [[nodiscard]] static iowq::detail::time_point now() noexcept { return here.now(); }
  [[nodiscard]] static iowq::detail::time_point now_coarsely() noexcept { return here.now(); }
  static void relax() noexcept { here.relax(); }

  static bool futex_wait(atomic<std::uint32_t>& word, std::uint32_t expected,
                         iowq::detail::time_point deadline,
                         const where& at = where::current()) noexcept {
    return word.futex_wait(expected, deadline, at);
  }
  static void futex_wake(atomic<std::uint32_t>& word, int count,
                         const where& at = where::current()) noexcept {
    word.futex_wake(count, at);
  }

  [[nodiscard]] static int thread_id() noexcept { return here.me().id + 1; }
  [[nodiscard]] static bool is_thread(int id) noexcept { return thread_id() == id; }
  [[nodiscard]] static int process_id() noexcept { return 1; }

  // ---- Descriptors: each call is one step, and the numbers are not used twice ----

  [[nodiscard]] static int wake_open(const where& at = where::current()) noexcept {
    here.turn();
    here.happened(43);
    int fd = 0;
    while (fd < the_machine.descriptors && the_descriptors[fd].when != 0) ++fd;
    if (fd == the_machine.descriptors) return -EMFILE;
    descriptor& made = the_descriptors[fd];
    made.open = true;
    made.opener = here.me().id;
    made.when = here.tick();
    made.history = here.me().history;
    here.trace("open eventfd", 0, 0, at);
    return fd + first_fd;
  }
  static void wake_ring(int fd, const where& at = where::current()) noexcept {
    touch(fd, "ring eventfd", at).cancel_requested = 1;
  }
  static void wake_drain(int fd, const where& at = where::current()) noexcept {
    touch(fd, "drain eventfd", at).cancel_requested = 0;
  }
  static void wake_close(int fd, const where& at = where::current()) noexcept {
    descriptor& closed = touch(fd, "close eventfd", at);
    if (!here.me().clock.covers(closed.uses.writes))
      here.fail("an eventfd is closed while another thread may still use it");
    closed.open = false;
  }

  // ---- Threads ----

  using thread = int;

  [[nodiscard]] static int thread_start(thread& created, void* (*body)(void*), void* argument,
                                        std::size_t, const where& at = where::current()) noexcept {
    int const number = the_machine.threads_started + the_machine.threads_refused;
    if (number >= the_machine.refuse_from &&
        number < the_machine.refuse_from + the_machine.refuse_count) {
      ++the_machine.threads_refused;
      here.happened(47);
      here.trace("no thread to be had", 0, 0, at);
      return the_machine.refuse_error;
    }
    ++the_machine.threads_started;
    here.trace("start a thread", 0, 0, at);
    created = here.start(body, argument, "a new thread");
    return 0;
  }
  static void thread_join(thread joined, const where& at = where::current()) noexcept {
    here.join(joined, at);
  }
  [[nodiscard]] static bool thread_try_join(thread joined,
                                            const where& at = where::current()) noexcept {
    here.turn();
    bool const ended = here.of(joined).ended != 0;
    here.happened(ended ? 89 : 97);
    if (ended) here.join(joined, at);
    return ended;
  }
  static void thread_name(const char* name) noexcept {
    std::snprintf(here.me().name, sizeof here.me().name, "%s", name);
  }
  [[nodiscard]] static void*& this_worker() noexcept { return here.me().worker; }

  /// Sleeps is who could not go on if it were his turn: as with the kernel, in a mutex, too.
  class thread_probe {
   public:
    [[nodiscard]] iowq::detail::thread_state look(thread handle, int,
                                                  const where& at = where::current()) noexcept {
      here.turn();
      fiber const& other = here.of(handle);
      bool const sleeps = !other.ready() && !the_machine.all_compute;
      here.happened(other.ended != 0 ? 53 : sleeps ? 59 : 61);
      here.trace(sleeps ? "look: sleeps" : "look: runs", 0, 0, at);
      if (other.ended != 0) return iowq::detail::thread_state::unknown;
      return sleeps ? iowq::detail::thread_state::sleeping : iowq::detail::thread_state::running;
    }
    void close() noexcept {}
  };

  // ---- The machine's shape ----

  [[nodiscard]] static unsigned current_cpu() noexcept { return here.me().cpu; }
  static bool affinity(cpu_set_t& cpus) noexcept {
    CPU_ZERO(&cpus);
    for (unsigned cpu = 0; cpu < the_machine.processors; ++cpu) CPU_SET(cpu, &cpus);
    return true;
  }
  /// The lowest of them is where the thread goes.
  static bool set_affinity(const cpu_set_t& cpus) noexcept {
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &cpus)) {
        here.me().cpu = cpu;
        return true;
      }
    return false;
  }
  [[nodiscard]] static unsigned long max_threads() noexcept { return 64; }
  static int read_text(const char*, char*, std::size_t) noexcept { return -ENOENT; }
  static int read_link(const char*, char*, std::size_t) noexcept { return -ENOENT; }

  /// A turn, where a step follows that is not the policy's: the stop token's. Before all others
  /// a turn comes anyway, or nothing that could be seen.
  static void pause(iowq::detail::pause_point point) noexcept {
    if (point != iowq::detail::pause_point::held_stop) return;
    here.turn();
    (void)here.tick();
    here.happened(83);
  }

 private:
  static constexpr int first_fd = 100;

  static descriptor& touch(int fd, const char* what, const where& at) {
    if (fd < first_fd || fd >= first_fd + 16) here.fail("%d is no descriptor", fd);
    here.turn();
    descriptor& touched = the_descriptors[fd - first_fd];
    fiber& self = here.me();
    if (!touched.open) here.fail("%s uses an eventfd that is closed", self.name);
    if (self.clock.of[touched.opener] < touched.when)
      here.fail("%s uses an eventfd, and nothing orders that after its opening", self.name);
    touched.uses.add(self.id, here.tick(), true);
    here.happened(touched.history);
    touched.history = self.history;
    here.trace(what, 0, 0, at);
    return touched;
  }
};

/// poll(2) of one descriptor, without a wait.
[[nodiscard]] inline bool is_readable(int fd) {
  here.turn();
  (void)here.tick();
  here.happened(the_descriptors[fd - 100].history);
  return the_descriptors[fd - 100].cancel_requested != 0;
}

/// poll(2) of one descriptor, without end: the thread sleeps in it.
inline void wait_readable(int fd, const where& at = where::current()) {
  descriptor& polled = the_descriptors[fd - 100];
  here.trace("poll", 0, 0, at);
  (void)here.wait(polled.cancel_requested, 1, "a descriptor to become readable");
  (void)here.tick();
  here.happened(polled.history);
}

}  // namespace explore
