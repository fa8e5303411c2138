// SPDX-License-Identifier: BSL-1.0
// Measures starvation: one coroutine pings, through the ring or a timer, while others keep the loop
// busy. Also measures the cost of a million timers and of a million stop registrations.
//
//     fairness [SECONDS]        for each row; default 1
//
// Goals:
// - Neither a yield storm nor a flood of completions delays a ping for longer than its share of two
//   turns (reliability: hazard 96).
// - With 100,000 operations in flight a timer is less than 5 ms late (hazard 101).
// - Each of a million timers, and each of a million registrations with a stop source, costs no more
//   than each of a thousand, except for cache misses.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <iowq/iowq.hpp>

#include "machine.hpp"
#include "ratio.hpp"

namespace {

using clock = machine::clock;
using iowq::task;

double us(clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

auto nop() {
  return iowq::raw([](io_uring_sqe& sqe) {
    sqe.opcode = IORING_OP_NOP;
    sqe.fd = -1;
  });
}

// ---- Pings ----

struct load {
  bool over = false;
  std::uint64_t steps = 0;
};
task<> yields(load& all) {
  for (; !all.over; ++all.steps) co_await iowq::yield();
}
task<> nops(load& all) {
  for (; !all.over; ++all.steps) co_await nop();
}

task<> ping(load& all, std::vector<double>& times, clock::duration length) {
  for (auto const end = clock::now() + length; clock::now() < end;) {
    auto const start = clock::now();
    co_await nop();
    times.push_back(us(clock::now() - start));
  }
  all.over = true;
}
/// Measures how late a sleep of one millisecond returns.
task<> timer(load& all, std::vector<double>& times, clock::duration length) {
  for (auto const end = clock::now() + length; clock::now() < end;) {
    auto const due = clock::now() + std::chrono::milliseconds{1};
    co_await iowq::sleep_until(due);
    times.push_back(us(clock::now() - due));
  }
  all.over = true;
}

using pinger = task<> (*)(load&, std::vector<double>&, clock::duration);
using loader = task<> (*)(load&);

void measure(const char* what, pinger pings, loader loads, unsigned how_many,
             clock::duration length, double goal) {
  load all;
  std::vector<double> times;
  iowq::executor here{{.entries = 4096}};
  for (unsigned i = 0; i < how_many; ++i) here.spawn(loads(all));
  machine::others const they;
  here.run(pings(all, times, length));
  std::sort(times.begin(), times.end());
  auto const at = [&](double q) {
    return times[static_cast<std::size_t>(q * static_cast<double>(times.size() - 1) + 0.5)];
  };
  std::printf("  %-52s %8zu %9.1f %9.1f %9.1f %9.2f", what, times.size(), at(0.5), at(0.99), at(1),
              static_cast<double>(all.steps) / us(length));
  if (goal != 0) std::printf("   p99 <= %.0f: %s", goal, at(0.99) <= goal ? "met" : "MISSED");
  if (they.share() > 0.1) std::printf("   others use %.2f processors", they.share());
  std::printf("\n");
}

// ---- A million of something ----

/// Nanoseconds for each of `n` timers: to arm it, in no order, and then to disarm or fire it.
struct cost {
  double begin, end;
};

std::vector<iowq::detail::time_point> deadlines(std::size_t n) {
  std::vector<iowq::detail::time_point> all;
  std::uint64_t state = 1;
  for (std::size_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    all.push_back(iowq::detail::time_point{} + std::chrono::nanoseconds{state >> 34});
  }
  return all;
}

double each(std::size_t n, const std::function<void()>& work) {
  auto const start = clock::now();
  work();
  return machine::ns_since(start) / static_cast<double>(n);
}

cost timers(std::size_t n, bool fire) {
  auto const when = deadlines(n);
  std::deque<iowq::detail::timer> nodes(n);
  iowq::detail::timer_heap all;
  double const arm = each(n, [&] {
    for (std::size_t i = 0; i < n; ++i) all.arm(nodes[i], when[i]);
  });
  double const end = each(n, [&] {
    if (fire)
      while (all.pop_due(iowq::detail::never) != nullptr) {
      }
    else
      for (iowq::detail::timer& one : nodes) all.disarm(one);
  });
  return {arm, end};
}

struct nothing {
  void operator()() const noexcept {}
};
cost registrations(std::size_t n, bool request) {
  iowq::stop_source source;
  std::deque<iowq::stop_callback<nothing>> all;
  double const begin = each(n, [&] {
    for (std::size_t i = 0; i < n; ++i) all.emplace_back(source.get_token(), nothing{});
  });
  double const end = each(n, [&] {
    if (request)
      source.request_stop();
    else
      all.clear();
  });
  return {begin, end};
}

/// The cost of coroutines that sleep and are then stopped.
cost sleepers(std::size_t n, bool) {
  iowq::executor here;
  double begin = 0;
  auto const start = clock::now();
  auto const sleep = []() -> task<> { co_await iowq::sleep_for(std::chrono::hours{1}); };
  auto const body = [&](auto f) -> task<> {
    iowq::task_group group;
    for (std::size_t i = 0; i < n; ++i) group.spawn(f());
    while (iowq::executor::current().stats().resumed < n) co_await iowq::yield();
    begin = machine::ns_since(start);
    group.request_stop();
    co_await group.join();
  };
  here.run(body(sleep));
  auto const size = static_cast<double>(n);
  return {begin / size, (machine::ns_since(start) - begin) / size};
}

void compare(const char* what, cost (*run)(std::size_t, bool), bool other) {
  std::printf("  %-52s", what);
  for (std::size_t const n : {std::size_t{1000}, std::size_t{1'000'000}}) {
    std::vector<double> begins, ends;
    for (int i = 0; i < 5; ++i) {
      cost const one = run(n, other);
      begins.push_back(one.begin);
      ends.push_back(one.end);
    }
    std::sort(begins.begin(), begins.end());
    std::sort(ends.begin(), ends.end());
    std::printf(" %9.1f %9.1f", begins[2], ends[2]);
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  std::chrono::milliseconds const length{argc > 1 ? static_cast<long>(1000 * std::atof(argv[1]))
                                                  : 1000L};
  ratio::print_machine();
  std::printf("\n%-54s %8s %9s %9s %9s %9s\n", "a ping, us", "pings", "median", "p99", "max",
              "others/us");
  measure("a NOP, alone (floor)", ping, yields, 0, length, 0);
  measure("a NOP, while 1,000 coroutines yield", ping, yields, 1000, length, 100);
  measure("a NOP, while 4,000 coroutines await NOPs", ping, nops, 4000, length, 1000);
  std::printf("\n%-54s %8s %9s %9s %9s %9s\n", "how late a timer is, us", "timers", "median", "p99",
              "max", "others/us");
  measure("alone (floor)", timer, yields, 0, length, 0);
  measure("while 1,000 coroutines yield", timer, yields, 1000, length, 1000);
  measure("while 100,000 NOPs are in flight", timer, nops, 100'000, length, 5000);

  std::printf("\n%-54s %19s %19s\n", "ns each, medians of 5", "of 1,000", "of 1,000,000");
  compare("timers: arm, then disarm", timers, false);
  compare("timers: arm, then fire in order", timers, true);
  compare("stop: register, then deregister", registrations, false);
  compare("stop: register, then request", registrations, true);
  compare("coroutines of a group: spawn and sleep, then stop", sleepers, false);
  return 0;
}
