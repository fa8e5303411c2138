// SPDX-License-Identifier: BSL-1.0
// The samples of a benchmark, and its goals.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "machine.hpp"

namespace ratio {

/// The number of operations of a run, and counts of events during it: system calls, wakes, ...
struct tally {
  std::uint64_t operations = 0;
  std::map<std::string, std::uint64_t> counts = {};

  tally& operator+=(const tally& more) {
    operations += more.operations;
    for (const auto& [name, n] : more.counts) counts[name] += n;
    return *this;
  }
};

/// Whether the measured work crosses processors. `evenly`: half of the work runs with the caller on
/// one processor, and the other half with the caller on another, because processors are not equally
/// fast. So both processors have the same share in work that runs beside the caller, such as in its
/// pool, and in work that runs on the caller alone. No threads may be created during the
/// measurement.
enum class crosses { no, processors, evenly };

struct sample {
  double ns = 0;
  std::map<std::string, double> per_operation;
  double ping_before = 0, ping_after = 0;
  double others = 0;  // processors that other processes used

  [[nodiscard]] bool moved() const {
    return machine::is_far(ping_before) != machine::is_far(ping_after);
  }
  [[nodiscard]] bool dirty() const { return others > 0.1 && !machine::has_priority(); }
};

struct samples {
  std::string row, rival;
  std::vector<sample> all;
  std::vector<sample> chosen = {};
  bool disturbed = false;  // the chosen samples, by other processes

  [[nodiscard]] double quantile(double q) const {
    std::vector<double> sorted;
    for (const sample& s : chosen) sorted.push_back(s.ns);
    return of(std::move(sorted), q);
  }
  /// The median of the count `name`; negative if it was not counted.
  [[nodiscard]] double counted(const std::string& name) const {
    std::vector<double> sorted;
    for (const sample& s : chosen)
      if (auto const found = s.per_operation.find(name); found != s.per_operation.end())
        sorted.push_back(found->second);
    return sorted.empty() ? -1 : of(std::move(sorted), 0.5);
  }

 private:
  static double of(std::vector<double> values, double q) {
    std::sort(values.begin(), values.end());
    auto const last = static_cast<double>(values.size() - 1);
    return values[static_cast<std::size_t>(q * last + 0.5)];
  }
};

/// A goal. It is printed as met or missed; a missed goal fails nothing.
struct goal {
  enum class what { rate, time, count, same } of;
  std::string row, rival;
  double limit;                           // rate: at least; others: at most
  std::vector<std::string> against = {};  // rate: the fastest of these
  std::string counted = {}, also = {};    // count; same: the totals of these two
};

[[nodiscard]] inline std::vector<goal>& goals() {
  static std::vector<goal> all;
  return all;
}
/// `rival` reaches `limit` times the rate of the fastest of `against`.
inline void goal_rate(std::string row, std::string rival, double limit,
                      std::vector<std::string> against) {
  goals().push_back(
      {goal::what::rate, std::move(row), std::move(rival), limit, std::move(against)});
}
/// `rival` takes at most `ns`.
inline void goal_time(std::string row, std::string rival, double ns) {
  goals().push_back({goal::what::time, std::move(row), std::move(rival), ns});
}
/// At most `limit` of the count `counted` for each operation.
inline void goal_count(std::string row, std::string rival, std::string counted, double limit) {
  goals().push_back(
      {goal::what::count, std::move(row), std::move(rival), limit, {}, std::move(counted)});
}

/// The count `counted` equals the count `also`, over all samples.
inline void goal_same(std::string row, std::string rival, std::string counted, std::string also) {
  goals().push_back({goal::what::same,
                     std::move(row),
                     std::move(rival),
                     0,
                     {},
                     std::move(counted),
                     std::move(also)});
}

}  // namespace ratio
