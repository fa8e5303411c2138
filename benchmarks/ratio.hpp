// SPDX-License-Identifier: BSL-1.0
// Google Benchmark, reported as ratios. Benchmarks are called "row/rival"; the first rival of a
// row is its floor. Repetitions are interleaved at random, so that a noisy minute hits them all.
#pragma once

#include <benchmark/benchmark.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace ratio {

struct samples {
  std::string row, rival;
  std::vector<double> ns;
  double system_calls = 0;

  [[nodiscard]] double quantile(double q) const {
    std::vector<double> sorted = ns;
    std::sort(sorted.begin(), sorted.end());
    auto const last = static_cast<double>(sorted.size() - 1);
    return sorted[static_cast<std::size_t>(q * last + 0.5)];
  }
};

/// Keeps every repetition; prints the table at the end.
class reporter : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      std::string const name = run.run_name.function_name;
      std::size_t const slash = name.find('/');
      samples& s = find(name.substr(0, slash), name.substr(slash + 1));
      s.ns.push_back(run.counters.at("ns") * 1e9);
      s.system_calls = run.counters.at("syscalls");
    }
  }
  void Finalize() override {
    utsname machine{};
    ::uname(&machine);
    std::printf("Linux %s, %s, medians of %zu interleaved samples (quartiles)\n", machine.release,
                compiler(), all_.empty() ? 0 : all_.front().ns.size());
    std::printf("%-12s %-12s %10s %19s %7s %13s %9s\n", "", "", "ns/op", "", "ratio", "",
                "calls/op");
    const samples* floor = nullptr;
    for (const samples& s : all_) {
      if (s.ns.empty()) continue;  // filtered out
      bool const first = floor == nullptr || floor->row != s.row;
      if (first) floor = &s;
      double const base = floor->quantile(0.5);
      std::printf("%-12s %-12s %10.1f (%7.1f ..%7.1f)", first ? s.row.c_str() : "", s.rival.c_str(),
                  s.quantile(0.5), s.quantile(0.25), s.quantile(0.75));
      if (first)
        std::printf("%21s", "");
      else
        std::printf(" %6.3f (%.3f..%.3f)", s.quantile(0.5) / base, s.quantile(0.25) / base,
                    s.quantile(0.75) / base);
      std::printf(" %9.4f\n", s.system_calls);
    }
  }

 private:
  static const char* compiler() {
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "g++ " __VERSION__;
#endif
  }
  samples& find(const std::string& row, const std::string& rival) {
    for (samples& s : all_)
      if (s.row == row && s.rival == rival) return s;
    // Interleaving brings them in any order: keep the order in which they were added.
    for (const auto& [known_row, known_rival] : order())
      if (!has(known_row, known_rival)) all_.push_back({known_row, known_rival, {}, 0});
    return find(row, rival);
  }
  [[nodiscard]] bool has(const std::string& row, const std::string& rival) const {
    return std::any_of(all_.begin(), all_.end(),
                       [&](const samples& s) { return s.row == row && s.rival == rival; });
  }
  std::vector<samples> all_;

 public:
  static std::vector<std::pair<std::string, std::string>>& order() {
    static std::vector<std::pair<std::string, std::string>> names;
    return names;
  }
};

/// Registers "row/rival".
inline void add(const std::string& name, std::function<void(benchmark::State&)> body) {
  std::size_t const slash = name.find('/');
  reporter::order().emplace_back(name.substr(0, slash), name.substr(slash + 1));
  benchmark::RegisterBenchmark(name.c_str(), [body = std::move(body)](benchmark::State& s) {
    body(s);
  })->UseRealTime();
}

/// Runs what matches the command line; without options of its own, 21 interleaved repetitions.
inline int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv, argv + argc);
  auto preset = [&](const std::string& option, const std::string& value) {
    for (const std::string& a : arguments)
      if (a.rfind(option, 0) == 0) return;
    arguments.push_back(option + "=" + value);
  };
  preset("--benchmark_repetitions", "21");
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
