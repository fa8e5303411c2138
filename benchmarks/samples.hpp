// SPDX-License-Identifier: BSL-1.0
// What a benchmark measures, keeps, and hopes for.
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

/// What was done, and what was counted meanwhile: system calls, wakes, ...
struct tally {
  std::uint64_t operations = 0;
  std::map<std::string, std::uint64_t> counts = {};

  tally& operator+=(const tally& more) {
    operations += more.operations;
    for (const auto& [name, n] : more.counts) counts[name] += n;
    return *this;
  }
};

/// Does what is measured cross processors? `evenly`: one half of it is done with the caller on one
/// processor, the other half on another, for they are not equally fast; then what runs beside the
/// caller, as its pool does, has its share of both, and so has what runs on the caller alone. No
/// threads may be made meanwhile.
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
  bool disturbed = false;  // by others, in the chosen ones

  [[nodiscard]] double quantile(double q) const {
    std::vector<double> sorted;
    for (const sample& s : chosen) sorted.push_back(s.ns);
    return of(std::move(sorted), q);
  }
  /// The median of something counted; negative if it was not.
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

/// Something to reach. It is printed, met or missed, and fails nothing.
struct goal {
  enum class what { rate, time, count, same } of;
  std::string row, rival;
  double limit;                           // rate: at least; others: at most
  std::vector<std::string> against = {};  // rate: the fastest of these
  std::string counted = {}, also = {};    // count; same: of these two, in all
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
/// At most `limit` of what is counted as `counted` an operation.
inline void goal_count(std::string row, std::string rival, std::string counted, double limit) {
  goals().push_back(
      {goal::what::count, std::move(row), std::move(rival), limit, {}, std::move(counted)});
}

/// As many of the one as of the other, over all samples.
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
