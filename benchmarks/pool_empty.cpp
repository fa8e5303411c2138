// SPDX-License-Identifier: BSL-1.0
// The cost of running an empty function on another thread: one item there and back, many in flight,
// and many submitters. Rivals of the pool: asio::thread_pool with an io_context to return to,
// libuv's uv_queue_work, and std::async, each used as in its own examples. Four workers each.
//
// The floor for one in flight is two threads that pass a word back and forth by futex, which every
// hand-over between sleeping threads includes. The floor for many is a call that cannot be inlined.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <iowq/iowq.hpp>

#include "load.hpp"
#include "machine.hpp"
#include "ratio.hpp"
#include "rivals.hpp"

namespace {

constexpr unsigned nr_workers = 4;

__attribute__((noinline)) void nothing() { asm volatile(""); }
struct nothing_to_do {
  void operator()(unsigned) const noexcept { nothing(); }
};

// ---- Floors ----

struct plain_calls {
  ratio::tally run(std::uint64_t n) {
    for (std::uint64_t i = 0; i < n; ++i) nothing();
    return {n};
  }
};

class bare_hand_over {
 public:
  bare_hand_over() : other_{[this] { answer(); }} {}
  ~bare_hand_over() {
    send(there_, 2);
    other_.join();
  }
  ratio::tally run(std::uint64_t n) {
    for (std::uint64_t i = 0; i < n; ++i) {
      send(there_, 1);
      (void)receive(back_);
    }
    return {n};
  }

 private:
  using word = std::atomic<std::uint32_t>;
  static void send(word& to, std::uint32_t what) {
    to.store(what);
    iowq::detail::linux_policy::futex_wake(to, 1);
  }
  static std::uint32_t receive(word& from) {
    while (from.load() == 0)
      (void)iowq::detail::linux_policy::futex_wait(from, 0, iowq::detail::never);
    return from.exchange(0);
  }
  void answer() {
    while (receive(there_) != 2) {
      nothing();
      send(back_, 1);
    }
  }
  alignas(64) word there_{0};
  alignas(64) word back_{0};
  std::thread other_;
};

// ---- std::async ----

class std_async {
 public:
  explicit std_async(unsigned depth) : flying_(depth) {}
  ratio::tally run(std::uint64_t n) {
    for (std::uint64_t i = 0; i < n; ++i) {
      std::future<void>& slot = flying_[i % flying_.size()];
      if (slot.valid()) slot.get();
      slot = std::async(std::launch::async, nothing);
      if (flying_.size() == 1) slot.get();
    }
    for (auto& slot : flying_)
      if (slot.valid()) slot.get();
    return {n};
  }

 private:
  std::vector<std::future<void>> flying_;
};

// ---- Rows ----

using pool = bench::pool_load<nothing_to_do>;
#if BENCH_ASIO
using asio_pool = bench::asio_pool<nothing_to_do>;
#endif
#if BENCH_UV
using uv_pool = bench::uv_pool<nothing_to_do>;
#endif

auto through_the_pool(unsigned depth, bench::manner how) {
  return [=] { return std::make_unique<pool>(how, depth, nothing_to_do{}); };
}
auto through_the_executor(unsigned depth, iowq::pool_options options) {
  return [=] {
    auto punt = [](unsigned) { return iowq::punt(nothing); };
    return std::make_unique<bench::executor_load<decltype(punt)>>(options, depth, punt);
  };
}

void alone() {
  static constexpr std::uint64_t n = 1000;
  auto const options = bench::workers(nr_workers);
  auto const no_spin = bench::without_spin(options);
  bench::add("alone/futex hand-over", n, [] { return std::make_unique<bare_hand_over>(); });
  bench::add("alone/pool", n, through_the_pool(1, {.pool = options}));
  bench::add("alone/pool, no spin", n, through_the_pool(1, {.pool = no_spin}));
  bench::add("alone/executor", n, through_the_executor(1, options));
  bench::add("alone/executor, no spin", n, through_the_executor(1, no_spin));
#if BENCH_ASIO
  bench::add("alone/asio", n, [] { return std::make_unique<asio_pool>(nr_workers, 1, 1); });
#endif
#if BENCH_UV
  bench::add("alone/libuv", n, [] { return std::make_unique<uv_pool>(1, 1); });
#endif
  bench::add("alone/std::async", n / 4, [] { return std::make_unique<std_async>(1); });
  ratio::goal_time("alone", "pool", 3000);
  ratio::goal_time("alone", "executor", 3000);
  ratio::goal_same("alone", "pool, no spin", "kicks", "sleeps");
  ratio::goal_rate("alone", "pool", 1, {"pool, no spin"});
  ratio::goal_rate("alone", "executor", 1, {"executor, no spin"});
}

/// One item in flight, under conditions in which spinning cannot pay. `conditions` lives as long as
/// a sample.
template <class Conditions>
void alone_under(const std::string& row) {
  static constexpr std::uint64_t n = 1000;
  auto const options = bench::workers(nr_workers);
  auto const no_spin = bench::without_spin(options);
  auto add = [&row](const std::string& rival, auto make) {
    ratio::add(row + '/' + rival, [=](benchmark::State& state) {
      machine::wait_for_quiet();
      double const before = machine::ping_pong();
      {
        Conditions const conditions;
        auto way = make();
        way->run(n / 4);
        ratio::measure(state, ratio::crosses::processors, [&] { return way->run(n); });
      }
      state.counters["ping before"] = before;  // it would mean nothing under the conditions
      state.counters["ping after"] = machine::ping_pong();
    });
  };
  add("futex hand-over", [] { return std::make_unique<bare_hand_over>(); });
  add("pool", through_the_pool(1, {.pool = options}));
  add("pool, no spin", through_the_pool(1, {.pool = no_spin}));
  add("executor", through_the_executor(1, options));
  add("executor, no spin", through_the_executor(1, no_spin));
#if BENCH_ASIO
  add("asio", [] { return std::make_unique<asio_pool>(nr_workers, 1, 1); });
#endif
  ratio::goal_rate(row, "pool", 0.97, {"pool, no spin"});
  ratio::goal_rate(row, "executor", 0.97, {"executor, no spin"});
}

/// Everything on one processor. (libuv's threads exist already and would not move.)
struct one_processor {
  machine::pinned here{machine::processors().back()};
};

/// A thread that computes all the time, on the processor that the scheduler chooses.
class busy_neighbour {
 public:
  busy_neighbour()
      : thread_{[this] {
          while (!stop_) nothing();
        }} {}
  ~busy_neighbour() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

void many() {
  static constexpr std::uint64_t n = 25'600;
  auto const options = bench::workers(nr_workers);
  bench::add("256 in flight/plain call", 40 * n, [] { return std::make_unique<plain_calls>(); });
  bench::add("256 in flight/pool", n, through_the_pool(256, {.pool = options}));
  bench::add("256 in flight/pool, no chain", n,
             through_the_pool(256, {.pool = options, .chained = false}));
  bench::add("256 in flight/pool, not brief", n,
             through_the_pool(256, {.pool = options, .flags = {}}));
  bench::add("256 in flight/executor", n, through_the_executor(256, options));
#if BENCH_ASIO
  bench::add("256 in flight/asio", n,
             [] { return std::make_unique<asio_pool>(nr_workers, 256, 1); });
#endif
#if BENCH_UV
  bench::add("256 in flight/libuv", n, [] { return std::make_unique<uv_pool>(256, 1); });
#endif
  bench::add("256 in flight/std::async", n / 50, [] { return std::make_unique<std_async>(256); });
  for (const char* const ours : {"pool", "executor"})
    ratio::goal_rate("256 in flight", ours, 3, {"asio", "libuv"});
  ratio::goal_same("256 in flight", "pool", "kicks", "sleeps");
}

void many_submitters(unsigned submitters) {
  static constexpr std::uint64_t n = 25'600;
  auto const options = bench::workers(nr_workers);
  std::string const row = std::to_string(submitters) + " submitters/";
  bench::add(row + "plain call", 40 * n, [] { return std::make_unique<plain_calls>(); });
  bench::add(row + "pool", n, through_the_pool(256, {.pool = options, .submitters = submitters}));
  bench::add(row + "pool, no chain", n,
             through_the_pool(256, {.pool = options, .chained = false, .submitters = submitters}));
#if BENCH_ASIO
  bench::add(row + "asio", n,
             [=] { return std::make_unique<asio_pool>(nr_workers, 256, submitters); });
#endif
#if BENCH_UV
  bench::add(row + "libuv", n, [=] { return std::make_unique<uv_pool>(256, submitters); });
#endif
  ratio::goal_rate(row.substr(0, row.size() - 1), "pool", 1, {"asio", "libuv"});
}

}  // namespace

int main(int argc, char** argv) {
  bench::uv_workers(nr_workers);
  alone();
  if (machine::processors().size() > 1) {
    alone_under<one_processor>("alone, one processor");
    alone_under<busy_neighbour>("alone, busy neighbour");
  }
  many();
  for (unsigned const submitters : {2U, 4U, 8U}) many_submitters(submitters);
  bench::print_who_is_missing();
  return ratio::main(argc, argv);
}
