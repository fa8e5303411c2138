// SPDX-License-Identifier: BSL-1.0
// Measures how soon the pool notices that its workers sleep, and what its manager does when there
// is nothing to notice.
//
//     pool_growth [TRIALS]
//
// Reaction: the time from the moment when the last running worker falls asleep to the first
// instruction of the waiting work. The queue then has runnable work, and there is room for another
// worker. Goal: p99 below 2 ms. The floor is the time from the call that creates a thread to the
// thread's first instruction.
#include <sys/eventfd.h>
#include <unistd.h>

#include <dirent.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include <iowq/iowq.hpp>

#include "load.hpp"
#include "machine.hpp"
#include "ratio.hpp"

namespace {

using clock = machine::clock;

double us(clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

/// A random number between 0 and `below`, different for each call.
unsigned any(unsigned below) {
  static std::uint64_t state = 1;
  state = state * 6364136223846793005U + 1442695040888963407U;
  return static_cast<unsigned>(state >> 33) % below;
}

void compute(std::chrono::microseconds how_long) {
  for (auto const until = clock::now() + how_long; clock::now() < until;) {
  }
}

/// A descriptor that sleepers read. It has no data until open().
class barrier {
 public:
  barrier() : fd_{::eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC)} {}
  ~barrier() { ::close(fd_); }
  barrier(const barrier&) = delete;
  barrier& operator=(const barrier&) = delete;
  void pass() const {
    std::uint64_t one;
    (void)!::read(fd_, &one, sizeof one);
  }
  void open() const {
    std::uint64_t const many = 1U << 20;
    (void)!::write(fd_, &many, sizeof many);
  }

 private:
  int fd_;
};

/// An item that runs a function and reports when it is done.
class job final : public iowq::work {
 public:
  job(iowq::work_flags flags, std::function<void()> f) : work{flags}, function_{std::move(f)} {}
  void execute(const iowq::stop_token&) noexcept override {
    started = clock::now();
    function_();
  }
  void finished(bool) noexcept override { done_.release(); }
  void wait() { done_.acquire(); }
  clock::time_point started;

 private:
  std::function<void()> function_;
  std::binary_semaphore done_{0};
};

/// Returns one reaction in us. `sleepers` workers compute for up to 4 ms and fall asleep one after
/// the other, while one more item waits in the queue.
double reaction(unsigned sleepers, bool says_so) {
  barrier const wall;
  std::atomic<unsigned> running{0};
  std::vector<std::atomic<clock::time_point>> asleep(sleepers);
  std::atomic<bool> go{false};
  std::deque<job> jobs;
  for (unsigned i = 0; i < sleepers; ++i)
    jobs.emplace_back(iowq::work_flags{.concurrent = true}, [&, i, ms = any(4'000)] {
      ++running;
      while (!go) std::this_thread::yield();
      compute(std::chrono::microseconds{ms});
      std::optional<iowq::blocking_region> region;
      if (says_so) region.emplace();
      asleep[i] = clock::now();
      wall.pass();
    });
  job waits{{}, [] {}};
  iowq::pool pool{bench::workers(sleepers + 1)};
  for (job& one : jobs) pool.enqueue(one);
  while (running != sleepers) std::this_thread::sleep_for(std::chrono::microseconds{100});
  pool.enqueue(waits);
  go = true;
  waits.wait();
  wall.open();
  for (job& one : jobs) one.wait();
  clock::time_point last = asleep[0];
  for (auto& each : asleep) last = std::max<clock::time_point>(last, each);
  return std::max(0.0, us(waits.started - last));  // < 0: the pool thought it asleep too early
}

/// The same if the worker has been asleep for a long time when the work is enqueued.
double reaction_late() {
  barrier const wall;
  std::binary_semaphore runs{0};
  job sleeper{{}, [&] {
                runs.release();
                wall.pass();
              }};
  job waits{{}, [] {}};
  iowq::pool pool{bench::workers(2)};
  pool.enqueue(sleeper);
  runs.acquire();
  std::this_thread::sleep_for(std::chrono::milliseconds{3});
  auto const start = clock::now();
  pool.enqueue(waits);
  waits.wait();
  wall.open();
  sleeper.wait();
  return us(waits.started - start);
}

/// Returns the time from the enqueueing of many items that sleep until all of them sleep, each in
/// its own worker.
double burst(unsigned items, bool concurrent) {
  barrier const wall;
  std::atomic<unsigned> running{0};
  std::binary_semaphore all{0};
  std::deque<job> jobs;
  for (unsigned i = 0; i < items; ++i)
    jobs.emplace_back(iowq::work_flags{.concurrent = concurrent}, [&] {
      if (++running == items) all.release();
      wall.pass();
    });
  iowq::pool pool{bench::workers(items)};
  iowq::work_chain chain;
  for (job& one : jobs) chain.push_back(one);
  auto const start = clock::now();
  pool.enqueue(chain);
  all.acquire();
  double const took = us(clock::now() - start);
  wall.open();
  for (job& one : jobs) one.wait();
  return took;
}

double burst_of_threads(unsigned threads) {
  barrier const wall;
  std::atomic<unsigned> running{0};
  std::binary_semaphore all{0};
  std::vector<pthread_t> made(threads);
  std::function<void()> body = [&] {
    if (++running == threads) all.release();
    wall.pass();
  };
  auto const start = clock::now();
  for (pthread_t& one : made)
    (void)iowq::detail::linux_policy::thread_start(
        one,
        [](void* f) -> void* {
          (*static_cast<std::function<void()>*>(f))();
          return nullptr;
        },
        &body, 256 * 1024);
  all.acquire();
  double const took = us(clock::now() - start);
  wall.open();
  for (pthread_t const one : made) iowq::detail::linux_policy::thread_join(one);
  return took;
}

/// Prints the undisturbed trials if they are at least a quarter of all trials, else all trials.
void print(const char* what, const std::vector<double>& clean, std::vector<double> all,
           double goal) {
  bool const disturbed = 4 * clean.size() < all.size();
  if (!disturbed) all = clean;
  std::sort(all.begin(), all.end());
  auto const at = [&](double q) {
    return all[static_cast<std::size_t>(q * static_cast<double>(all.size() - 1) + 0.5)];
  };
  std::printf("  %-46s %6zu %8.0f %8.0f %8.0f %8.0f", what, all.size(), at(0), at(0.5), at(0.99),
              at(1));
  if (goal != 0) std::printf("   p99 <= %.0f: %s", goal, at(0.99) <= goal ? "met" : "MISSED");
  if (disturbed) std::printf("   disturbed by other processes");
  std::printf("\n");
}

// ---- The manager ----

/// Returns how often the threads with this name prefix gave up their processor. Each futex wait
/// that sleeps counts as one.
std::uint64_t switches_of(const std::string& name) {
  std::uint64_t sum = 0;
  DIR* const tasks = ::opendir("/proc/self/task");
  while (dirent const* const entry = tasks != nullptr ? ::readdir(tasks) : nullptr) {
    std::string const path = std::string{"/proc/self/task/"} + entry->d_name;
    std::string line;
    if (!std::getline(std::ifstream{path + "/comm"}, line) || line.rfind(name, 0) != 0) continue;
    for (std::ifstream status{path + "/status"}; std::getline(status, line);)
      if (line.rfind("voluntary_ctxt_switches:", 0) == 0)
        sum += std::strtoull(line.c_str() + line.find(':') + 1, nullptr, 10);
  }
  if (tasks != nullptr) ::closedir(tasks);
  return sum;
}

struct nothing_to_do {
  void operator()(unsigned) const noexcept {}
};
struct sleeps_shortly {
  void operator()(unsigned) const noexcept {
    std::this_thread::sleep_for(std::chrono::microseconds{100});
  }
};

template <class Load, class Run>
void print_manager(const char* what, Load& load, Run&& run) {
  std::this_thread::sleep_for(std::chrono::milliseconds{50});  // the manager parks
  std::uint64_t const before = switches_of("iow-mgr");
  std::uint64_t const unparks = load.pool().stats().unparks;
  auto const start = clock::now();
  std::uint64_t const items = run();
  double const seconds = machine::ns_since(start) / 1e9;
  auto const slept = static_cast<double>(switches_of("iow-mgr") - before);
  auto const woken = static_cast<double>(load.pool().stats().unparks - unparks);
  std::printf("  %-50s %9.0f %9.1f %9.1f\n", what, static_cast<double>(items) / seconds,
              slept / seconds, woken / seconds);
}

void manager() {
  std::printf("\n%-52s %9s %9s %9s\n", "the manager", "items/s", "sleeps/s", "unparks/s");
  bench::pool_load<nothing_to_do> alone{{.pool = bench::workers(4)}, 1, {}};
  bench::pool_load<nothing_to_do> many{{.pool = bench::workers(4)}, 64, {}};
  auto for_a_while = [](auto& load) {
    return [&load] {
      std::uint64_t n = 0;
      for (auto const until = clock::now() + std::chrono::milliseconds{500}; clock::now() < until;)
        n += load.run(1000).operations;
      return n;
    };
  };
  alone.run(1000);
  print_manager("idle (goal: no call)", alone, [] {
    std::this_thread::sleep_for(std::chrono::milliseconds{500});
    return std::uint64_t{0};
  });
  print_manager("keeps up: 1 in flight (goal: no call)", alone, for_a_while(alone));
  print_manager("64 short items in flight", many, for_a_while(many));
}

/// Measures whether the pool starts workers for items that each sleep for less than a tick.
void short_sleeps() {
  static constexpr std::uint64_t n = 6400;
  std::printf("\n%-52s %9s %9s\n", "64 items in flight that sleep 0.1 ms each", "items/s",
              "workers");
  auto print_rate = [](const char* what, std::uint64_t items, double ns, unsigned workers) {
    std::printf("  %-50s %9.0f %9u\n", what, static_cast<double>(items) / ns * 1e9, workers);
  };
  for (bool const all_there : {true, false}) {
    bench::pool_load<sleeps_shortly> load{
        {.pool = bench::workers(64), .flags = {.concurrent = all_there}}, 64, {}};
    load.run(n);
    auto const start = clock::now();
    load.run(n);
    print_rate(all_there ? "a worker for each, as asked for (concurrent)" : "as the pool grows", n,
               machine::ns_since(start), load.pool().stats().bound.workers);
  }
}

}  // namespace

int main(int argc, char** argv) {
  unsigned const trials = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 200;
  ratio::print_machine();
  machine::others const they;
  double const before = machine::ping_pong();
  struct {
    const char* name;
    double (*run)();
    double goal;
    bool rare = false;  // takes a long time
  } static constexpr ways[] = {
      {"a thread is created and runs (floor)", [] { return burst_of_threads(1); }, 0},
      {"one runs, then sleeps", [] { return reaction(1, false); }, 2000},
      {"one runs, then sleeps, in a blocking_region", [] { return reaction(1, true); }, 2000},
      {"four run, then sleep", [] { return reaction(4, false); }, 2000},
      {"four run, then sleep, in a blocking_region", [] { return reaction(4, true); }, 2000},
      {"one sleeps before the work comes", reaction_late, 2000},
      {"burst: 64 threads (floor)", [] { return burst_of_threads(64); }, 0, true},
      {"burst: 64 items that sleep", [] { return burst(64, false); }, 0, true},
      {"burst: 64 items that sleep, concurrent", [] { return burst(64, true); }, 0, true},
  };
  static constexpr std::size_t nr_ways = std::size(ways);
  // In blocks, so that blocks in which other processes used the machine can be left out.
  static constexpr unsigned block = 5;
  std::vector<double> clean[nr_ways], all[nr_ways];
  for (unsigned trial = 0; trial < trials; trial += block) {
    for (std::size_t i = 0; i < nr_ways; ++i) {
      machine::wait_for_quiet();
      machine::others const meanwhile;
      std::vector<double> times;
      for (unsigned k = 0; k < (ways[i].rare ? 1 : block); ++k) times.push_back(ways[i].run());
      all[i].insert(all[i].end(), times.begin(), times.end());
      if (meanwhile.share() < 0.1 || machine::has_priority())
        clean[i].insert(clean[i].end(), times.begin(), times.end());
    }
  }
  std::printf("placement %.0f ns before, %.0f ns after; others use %.2f processors\n", before,
              machine::ping_pong(), they.share());
  std::printf("\nreaction, us %37s %6s %8s %8s %8s %8s\n", "", "trials", "min", "median", "p99",
              "max");
  for (std::size_t i = 0; i < nr_ways; ++i) print(ways[i].name, clean[i], all[i], ways[i].goal);
  manager();
  short_sleeps();
}
