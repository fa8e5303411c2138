// SPDX-License-Identifier: BSL-1.0
// Google Benchmark, reported as ratios. Benchmarks are called "row/rival"; the first rival of a row
// is its floor. Repetitions are interleaved at random, so that a noisy minute affects all of them.
//
// Work that crosses processors is compared within one placement only, that of most samples. Samples
// during which other processes used the machine (see machine.hpp) are left out if enough others
// remain.
#pragma once

#include <benchmark/benchmark.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "machine.hpp"
#include "samples.hpp"

namespace ratio {

[[nodiscard]] inline const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

inline void print_machine() {
  utsname machine{};
  ::uname(&machine);
  std::printf("Linux %s, %zu processors, a system call takes %.0f ns, %s%s\n", machine.release,
              machine::processors().size(), machine::system_call(), compiler(),
              machine::has_priority() ? ", real-time threads" : "");
}

/// Keeps every repetition; prints the table at the end.
class reporter : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      std::string const name = run.run_name.function_name;
      std::size_t const slash = name.find('/');
      sample one;
      for (const auto& [counter, value] : run.counters) {
        if (counter == "ns")
          one.ns = value * 1e9;
        else if (counter == "ping before")
          one.ping_before = value;
        else if (counter == "ping after")
          one.ping_after = value;
        else if (counter == "others")
          one.others = value;
        else
          one.per_operation[counter] = value;
      }
      find(name.substr(0, slash), name.substr(slash + 1)).all.push_back(std::move(one));
    }
  }
  void Finalize() override {
    print_machine();
    print_head();
    for (std::size_t i = 0; i < all_.size();) {
      std::size_t end = i;
      while (end < all_.size() && all_[end].row == all_[i].row) ++end;
      print_row(i, end);
      i = end;
    }
    bool first = true;
    for (const goal& each : goals()) print_goal(each, first);
  }

  static std::vector<std::pair<std::string, std::string>>& order() {
    static std::vector<std::pair<std::string, std::string>> names;
    return names;
  }

 private:
  samples& find(const std::string& row, const std::string& rival) {
    // Interleaving reports them in any order: keep the order in which they were added.
    if (all_.empty())
      for (const auto& [known_row, known_rival] : order())
        all_.push_back({known_row, known_rival, {}});
    return *std::find_if(all_.begin(), all_.end(),
                         [&](const samples& s) { return s.row == row && s.rival == rival; });
  }

  void print_head() {
    for (const samples& s : all_)
      for (const sample& one : s.all)
        for (const auto& [name, value] : one.per_operation)
          if (std::find(columns_.begin(), columns_.end(), name) == columns_.end())
            columns_.push_back(name);
    std::sort(columns_.begin(), columns_.end());
    std::printf("%-22s %10s  %-21s  %-24s %6s", "", "ns/op", "(quartiles)", "x floor", "rate");
    for (const std::string& name : columns_) std::printf(" %9s", name.c_str());
    std::printf("\n");
  }

  using keep = std::function<bool(const sample&)>;

  /// Chooses the filter that leaves the most samples, and applies it to all rivals of the row. The
  /// rival with the fewest samples counts. Returns how many that rival has.
  std::size_t choose(std::size_t begin, std::size_t end, const std::vector<keep>& filters) {
    std::size_t best = 0;
    for (const keep& good : filters) {
      std::size_t fewest = SIZE_MAX;
      for (std::size_t i = begin; i < end; ++i)
        if (auto const& all = all_[i].all; !all.empty())  // else the user filtered it out
          fewest = std::min(fewest,
                            static_cast<std::size_t>(std::count_if(all.begin(), all.end(), good)));
      if (fewest == SIZE_MAX || fewest <= best) continue;
      best = fewest;
      for (std::size_t i = begin; i < end; ++i) {
        all_[i].chosen.clear();
        std::copy_if(all_[i].all.begin(), all_[i].all.end(), std::back_inserter(all_[i].chosen),
                     good);
      }
    }
    return best;
  }

  /// Chooses samples of one placement, and of a quiet machine if there are enough. Returns a
  /// description of the choice.
  std::string choose(std::size_t begin, std::size_t end) {
    static constexpr std::size_t enough = 5;
    auto one_place = [](bool far, bool dirty_too) {
      return [=](const sample& s) {
        return !s.moved() && machine::is_far(s.ping_before) == far && (dirty_too || !s.dirty());
      };
    };
    std::size_t fewest = choose(begin, end, {one_place(false, false), one_place(true, false)});
    if (fewest < enough)
      fewest =
          std::max(fewest, choose(begin, end, {one_place(false, true), one_place(true, true)}));
    bool const moved = fewest == 0;
    if (moved) fewest = choose(begin, end, {[](const sample&) { return true; }});
    std::size_t most = 0, n = 0;
    double pings = 0, others = 0;
    for (std::size_t i = begin; i < end; ++i) {
      most = std::max(most, all_[i].chosen.size());
      for (const sample& s : all_[i].chosen) ++n, pings += s.ping_before, others += s.others;
    }
    if (n == 0) return {};
    auto const count = static_cast<double>(n);
    for (std::size_t i = begin; i < end; ++i)
      all_[i].disturbed = others / count > 0.1 && !machine::has_priority();
    char text[128];
    if (pings == 0)
      std::snprintf(text, sizeof text, "%zu samples", fewest);
    else
      std::snprintf(text, sizeof text, "%s (%.0f ns), %zu..%zu samples, others use %.2f processors",
                    moved                            ? "placement changes"
                    : machine::is_far(pings / count) ? "far"
                                                     : "near",
                    pings / count, fewest, most, others / count);
    return text;
  }

  void print_row(std::size_t begin, std::size_t end) {
    std::string const what = choose(begin, end);
    if (what.empty()) return;
    std::printf("%s: %s\n", all_[begin].row.c_str(), what.c_str());
    const samples* floor = nullptr;
    for (std::size_t i = begin; i < end; ++i) {
      const samples& s = all_[i];
      if (s.chosen.empty()) continue;
      std::printf("  %-20s %10.1f  (%8.1f ..%8.1f)  ", s.rival.c_str(), s.quantile(0.5),
                  s.quantile(0.25), s.quantile(0.75));
      if (floor == nullptr) {
        floor = &s;
        std::printf("%24s %6s", "", "");
      } else {
        double const base = floor->quantile(0.5);
        char text[64];
        std::snprintf(text, sizeof text, "%7.4g (%.4g..%.4g)", s.quantile(0.5) / base,
                      s.quantile(0.25) / base, s.quantile(0.75) / base);
        std::printf("%-24s %6.3g", text, base / s.quantile(0.5));
      }
      for (const std::string& name : columns_)
        if (double const n = s.counted(name); n < 0)
          std::printf(" %9s", "");
        else
          std::printf(n >= 10 ? " %9.0f" : " %9.4f", n);
      std::printf("\n");
    }
  }

  const samples* known(const std::string& row, const std::string& rival) const {
    for (const samples& s : all_)
      if (s.row == row && s.rival == rival && !s.chosen.empty()) return &s;
    return nullptr;
  }

  void print_goal(const goal& each, bool& first) const {
    const samples* const ours = known(each.row, each.rival);
    if (ours == nullptr) return;
    std::string text = each.row + ", " + each.rival + ": ";
    bool met = false;
    char number[96];
    if (each.of == goal::what::rate) {
      const samples* best = nullptr;
      for (const std::string& name : each.against)
        if (const samples* const other = known(each.row, name);
            other != nullptr && (best == nullptr || other->quantile(0.5) < best->quantile(0.5)))
          best = other;
      if (best == nullptr) return;
      double const rate = best->quantile(0.5) / ours->quantile(0.5);
      met = rate >= each.limit;
      std::snprintf(number, sizeof number, "%.2f x the rate of %s, goal >= %g", rate,
                    best->rival.c_str(), each.limit);
    } else if (each.of == goal::what::time) {
      met = ours->quantile(0.5) <= each.limit;
      std::snprintf(number, sizeof number, "%.0f ns, goal <= %g ns", ours->quantile(0.5),
                    each.limit);
    } else if (each.of == goal::what::same) {
      double ones = 0, others = 0;
      for (const sample& s : ours->all) {
        ones += s.per_operation.at(each.counted);
        others += s.per_operation.at(each.also);
      }
      met = ones == others;
      std::snprintf(number, sizeof number, "goal: as many %s as %s", each.counted.c_str(),
                    each.also.c_str());
    } else {
      double const n = ours->counted(each.counted);
      if (n < 0) return;
      met = n <= each.limit;
      std::snprintf(number, sizeof number, "%.3f %s an operation, goal <= %g", n,
                    each.counted.c_str(), each.limit);
    }
    if (std::exchange(first, false)) std::printf("goals\n");
    std::printf("  %-6s  %s%s%s\n", met ? "met" : "MISSED", text.c_str(), number,
                ours->disturbed ? " (disturbed by other processes)" : "");
  }

  std::vector<samples> all_;
  std::vector<std::string> columns_;
};

/// Measures one sample: calls `run()` repeatedly; each call returns a tally. Call it once in a
/// benchmark.
template <class Run>
void measure(benchmark::State& state, crosses what, Run&& run) {
  tally all;
  if (what != crosses::no) {
    machine::wait_for_quiet();
    state.counters["ping before"] = machine::ping_pong();
  }
  machine::others const they;
  std::uint64_t untimed = 0;
  for (auto _ : state)
    if (what == crosses::evenly)
      for (int const cpu : machine::pair()) {
        state.PauseTiming();
        machine::pinned const here{cpu};
        untimed += run().operations;  // lets other threads leave this processor
        state.ResumeTiming();
        all += run();
      }
    else
      all += run();
  double const own = they.own_ns(), others = they.share();
  auto const n = static_cast<double>(all.operations);
  if (what != crosses::no) {
    state.counters["ping after"] = machine::ping_pong();
    state.counters["others"] = others;
    state.counters["cpu ns"] = own / (n + static_cast<double>(untimed));
  }
  state.counters["ns"] =
      benchmark::Counter(n, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  for (const auto& [name, count] : all.counts)
    state.counters[name] = static_cast<double>(count) / n;
}

/// Registers "row/rival".
inline void add(const std::string& name, std::function<void(benchmark::State&)> body) {
  std::size_t const slash = name.find('/');
  reporter::order().emplace_back(name.substr(0, slash), name.substr(slash + 1));
  benchmark::RegisterBenchmark(name.c_str(), [body = std::move(body)](benchmark::State& s) {
    body(s);
  })->UseRealTime();
}

/// Runs the benchmarks that match the command line. Without options, repetitions are interleaved.
inline int main(int argc, char** argv, unsigned repetitions = 21) {
  std::vector<std::string> arguments(argv, argv + argc);
  auto preset = [&](const std::string& option, const std::string& value) {
    for (const std::string& a : arguments)
      if (a.rfind(option, 0) == 0) return;
    arguments.push_back(option + "=" + value);
  };
  preset("--benchmark_repetitions", std::to_string(repetitions));
  preset("--benchmark_min_time", "0.02");
  preset("--benchmark_enable_random_interleaving", "true");
  std::vector<char*> pointers;
  for (std::string& a : arguments) pointers.push_back(a.data());
  int count = static_cast<int>(pointers.size());
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) return 2;
  reporter table;
  benchmark::RunSpecifiedBenchmarks(&table);
  benchmark::Shutdown();
  return 0;
}

}  // namespace ratio
