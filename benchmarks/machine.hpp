// SPDX-License-Identifier: BSL-1.0
// Measures the load by other processes, and the distance between the processors.
//
// The processors of a virtual machine may be adjacent or on different chips, and the host moves
// them every few minutes without notice. Work that crosses processors then takes two to three times
// as long. So a benchmark of such work measures the distance before and after each sample, and
// compares only samples with the same distance. The same applies to the load by other processes.
// Processors are also not equally fast: if another virtual machine uses the other half of a core,
// all calls take a third longer.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace machine {

using clock = std::chrono::steady_clock;

[[nodiscard]] inline double ns_since(clock::time_point start) {
  return std::chrono::duration<double, std::nano>(clock::now() - start).count();
}

/// The processors that this thread may use.
[[nodiscard]] inline std::vector<int> processors() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  ::sched_getaffinity(0, sizeof mask, &mask);
  std::vector<int> all;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &mask)) all.push_back(cpu);
  return all;
}

/// Two of these processors, or the only one.
[[nodiscard]] inline std::vector<int> pair() {
  std::vector<int> two = processors();
  two.resize(std::min<std::size_t>(two.size(), 2));
  return two;
}

/// Pins the calling thread to one processor, and also all threads that it creates during this
/// object's lifetime.
class pinned {
 public:
  explicit pinned(int cpu) {
    CPU_ZERO(&before_);
    ::sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ::sched_setaffinity(0, sizeof one, &one);
  }
  pinned(const pinned&) = delete;
  pinned& operator=(const pinned&) = delete;
  ~pinned() { ::sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

/// The time of a cache line's transfer to another processor, in ns: the minimum. 0 if there is only
/// one processor.
[[nodiscard]] inline double ping_pong() {
  static constexpr unsigned batches = 20, trips = 50;
  std::vector<int> const cpus = pair();
  if (cpus.size() < 2) return 0;
  // Even: this thread's turn. acquire and release: each side continues from what the other wrote.
  alignas(64) std::atomic<unsigned> turn{0};
  pinned const here(cpus[0]);
  std::thread there([&] {
    pinned const across(cpus[1]);
    for (unsigned mine = 1; mine < 2 * batches * trips; mine += 2) {
      while (turn.load(std::memory_order_acquire) != mine) {
      }
      turn.store(mine + 1, std::memory_order_release);
    }
  });
  double best = 1e9;
  unsigned mine = 0;
  for (unsigned batch = 0; batch < batches; ++batch) {
    auto const start = clock::now();
    for (unsigned trip = 0; trip < trips; ++trip, mine += 2) {
      turn.store(mine + 1, std::memory_order_release);
      while (turn.load(std::memory_order_acquire) != mine + 2) {
      }
    }
    best = std::min(best, ns_since(start) / (2 * trips));
  }
  there.join();
  return best;
}

/// The time of the cheapest system call, in ns: the minimum that every call to the kernel costs.
[[nodiscard]] inline double system_call() {
  static constexpr unsigned batches = 20, calls = 500;
  double best = 1e9;
  for (unsigned batch = 0; batch < batches; ++batch) {
    auto const start = clock::now();
    for (unsigned i = 0; i < calls; ++i) ::syscall(SYS_getppid);
    best = std::min(best, ns_since(start) / calls);
  }
  return best;
}

/// Whether two processors are far apart. Measured: 55 ns if adjacent, and 400 ns if not.
[[nodiscard]] constexpr bool is_far(double ping) { return ping > 130; }

/// CPU time used so far, in ns.
struct cpu_time {
  double own = 0;  // this process, including the kernel's threads in it
  double all = 0;  // all processes; accurate to 10 ms unless cgroups report it

  [[nodiscard]] static cpu_time now() {
    timespec t{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    cpu_time both;
    both.own = static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
    char text[256];
    if (read("/sys/fs/cgroup/cpuacct/cpuacct.usage", text) ||
        read("/sys/fs/cgroup/cpuacct,cpu/cpuacct.usage", text)) {
      both.all = std::strtod(text, nullptr);
    } else if (read("/proc/stat", text)) {
      unsigned long long user, nice, system, idle, wait, irq, soft;
      if (std::sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
                      &wait, &irq, &soft) == 7)
        both.all = static_cast<double>(user + nice + system + irq + soft) * 1e9 /
                   static_cast<double>(::sysconf(_SC_CLK_TCK));
    }
    return both;
  }

 private:
  template <std::size_t N>
  static bool read(const char* path, char (&text)[N]) {
    int const file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    ssize_t const n = ::read(file, text, N - 1);
    ::close(file);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
  }
};

/// The CPU time that other processes use during this object's lifetime, in processors: 0.1 is a
/// tenth of one processor.
class others {
 public:
  [[nodiscard]] double share() const {
    cpu_time const now = cpu_time::now();
    double const theirs = (now.all - start_.all) - (now.own - start_.own);
    return std::max(0.0, theirs / ns_since(began_));
  }
  /// CPU time that this process has used since the construction.
  [[nodiscard]] double own_ns() const { return cpu_time::now().own - start_.own; }

 private:
  cpu_time start_ = cpu_time::now();
  clock::time_point began_ = clock::now();
};

/// Whether this process has real-time priority, as with `chrt -r 1`: other processes then run only
/// on processors that it leaves idle.
[[nodiscard]] inline bool has_priority() {
  int const policy = ::sched_getscheduler(0);
  return policy == SCHED_RR || policy == SCHED_FIFO;
}

/// Sleeps until other processes use little CPU time, for at most the patience of this process:
/// `BENCH_PATIENCE` seconds in all, or 20.
inline void wait_for_quiet() {
  static double left = [] {
    const char* const told = std::getenv("BENCH_PATIENCE");
    return 1e9 * (told != nullptr ? std::strtod(told, nullptr) : 20.0);
  }();
  while (left > 0 && !has_priority()) {
    others const they;
    std::this_thread::sleep_for(std::chrono::milliseconds{5});
    if (they.share() < 0.1) return;
    left -= 5e6;
  }
}

}  // namespace machine
