// SPDX-License-Identifier: BSL-1.0
// The memory, threads and descriptors that an idle pool holds: for the pool itself, and for each
// worker after the pool has started 64. The floor is bare threads with stacks of the same size.
//
// Each case is measured in its own process, five times.
#include <dirent.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <latch>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <iowq/iowq.hpp>

#include "load.hpp"
#include "ratio.hpp"
#include "rivals.hpp"

namespace {

constexpr unsigned many = 64;

struct held {
  long kib = 0, threads = 0, descriptors = 0;
};

long entries(const char* directory) {
  long n = 0;
  DIR* const open = ::opendir(directory);
  while (open != nullptr && ::readdir(open) != nullptr) ++n;
  if (open != nullptr) ::closedir(open);
  return n;
}

held now() {
  std::this_thread::sleep_for(std::chrono::milliseconds{20});  // let new threads finish starting
  held all;
  // Private dirty pages: the memory that would be free if this process did not exist.
  if (std::FILE* const file = std::fopen("/proc/self/smaps_rollup", "re")) {
    char line[256];
    while (std::fgets(line, sizeof line, file) != nullptr)
      if (std::strncmp(line, "Private_Dirty:", 14) == 0) all.kib = std::atol(line + 14);
    std::fclose(file);
  }
  all.threads = entries("/proc/self/task");
  all.descriptors = entries("/proc/self/fd");
  return all;
}
held operator-(held a, held b) {
  return {a.kib - b.kib, a.threads - b.threads, a.descriptors - b.descriptors};
}

/// Keeps `many` threads busy at the same time: attend() blocks until all of them have called it.
struct meeting {
  std::latch there{many};
  std::atomic<unsigned> left{many};
  void attend() {
    there.arrive_and_wait();
    --left;
  }
  void wait() const {
    while (left != 0) std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
};

struct attendee final : iowq::work {
  attendee(meeting& m) : work{{.concurrent = true}}, all{m} {}
  void execute(const iowq::stop_token&) noexcept override { all.attend(); }
  void finished(bool) noexcept override {}
  meeting& all;
};

void meet(iowq::pool& pool) {
  meeting all;
  std::deque<attendee> items;
  for (unsigned i = 0; i < many; ++i) pool.enqueue(items.emplace_back(all));
  all.wait();
  while (pool.stats().bound.idle != many) std::this_thread::sleep_for(std::chrono::milliseconds{1});
}

// ---- The cases: each returns what it holds in addition to before ----

held bare_threads(unsigned n) {
  static std::atomic<std::uint32_t> never{0};
  held const before = now();
  for (unsigned i = 0; i < n; ++i) {
    pthread_t thread;
    (void)iowq::detail::linux_policy::thread_start(
        thread,
        [](void*) -> void* {
          for (;;) (void)iowq::detail::linux_policy::futex_wait(never, 0, iowq::detail::never);
        },
        nullptr, 256 * 1024);
  }
  return now() - before;
}
held one_thread() { return bare_threads(1); }
held many_threads() { return bare_threads(many); }

held idle_pool() {
  held const before = now();
  new iowq::pool{};  // not deleted: the process exits with it
  return now() - before;
}
held grown_pool() {
  held const before = now();
  meet(*new iowq::pool{bench::workers(many)});
  return now() - before;
}
held idle_executor() {
  held const before = now();
  (*new iowq::executor).run([]() -> iowq::task<> { co_return; }());
  return now() - before;
}
#if BENCH_ASIO
held asio_pool(unsigned n) {
  held const before = now();
  auto& pool = *new asio::thread_pool{n};
  if (n == many) {
    meeting all;
    for (unsigned i = 0; i < many; ++i) asio::post(pool, [&] { all.attend(); });
    all.wait();
  }
  return now() - before;
}
held asio_one() { return asio_pool(1); }
held asio_many() { return asio_pool(many); }
#endif

/// Measures in a separate process.
std::optional<held> apart(held (*what)()) {
  int pipe[2];
  if (::pipe(pipe) != 0) return {};
  std::fflush(stdout);
  pid_t const child = ::fork();
  if (child == 0) {
    held const result = what();
    _exit(::write(pipe[1], &result, sizeof result) == sizeof result ? 0 : 1);
  }
  ::close(pipe[1]);
  held result;
  bool const good = child > 0 && ::read(pipe[0], &result, sizeof result) == sizeof result;
  ::close(pipe[0]);
  if (child > 0) ::waitpid(child, nullptr, 0);
  if (!good) return {};
  return result;
}

void print(const char* name, held (*what)(), long divisor = 1) {
  std::vector<held> all;
  for (int i = 0; i < 5; ++i)
    if (auto const one = apart(what)) all.push_back(*one);
  if (all.empty()) {
    std::printf("  %-44s could not be measured\n", name);
    return;
  }
  std::sort(all.begin(), all.end(), [](const held& a, const held& b) { return a.kib < b.kib; });
  held const median = all[all.size() / 2];
  auto const per = static_cast<double>(divisor);
  std::printf("  %-44s %9.1f %9.2f %9.2f\n", name, static_cast<double>(median.kib) / per,
              static_cast<double>(median.threads) / per,
              static_cast<double>(median.descriptors) / per);
}

}  // namespace

int main() {
  ratio::print_machine();
  std::printf("%-46s %9s %9s %9s\n", "held while idle", "KiB", "threads", "files");
  print("a thread (floor)", one_thread);
  print("iowq::pool", idle_pool);
  print("iowq::executor, nothing punted", idle_executor);
#if BENCH_ASIO
  print("asio::thread_pool of 1", asio_one);
#endif
  std::printf("each of 64\n");
  print("threads (floor)", many_threads, many);
  print("workers of an iowq::pool", grown_pool, many);
#if BENCH_ASIO
  print("threads of an asio::thread_pool", asio_many, many);
#endif
}
