// SPDX-License-Identifier: BSL-1.0
// What happened before what. Each fiber counts its steps and knows, of every other fiber, the last
// step that happened before its own next one: by a mutex, by the start or the join of a thread, or
// by an acquire that read from a release. Nothing else orders anything.
#pragma once

#include <algorithm>
#include <cstdint>

namespace explore {

inline constexpr int max_fibers = 16;  // in one execution, those that have ended included

using moment = std::uint16_t;  // a step of one fiber, from 1; 0: none

struct clock_vector {
  moment of[max_fibers] = {};

  void join(const clock_vector& other) noexcept {
    for (int i = 0; i < max_fibers; ++i) of[i] = std::max(of[i], other.of[i]);
  }
  /// Whether all that `other` knows is known here.
  [[nodiscard]] bool covers(const clock_vector& other) const noexcept {
    bool all = true;
    for (int i = 0; i < max_fibers; ++i) all &= of[i] >= other.of[i];
    return all;
  }
};

/// A step of the splitmix64 generator: spreads what is nearly alike.
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Who accessed a place when, to tell which accesses nothing orders.
struct accesses {
  clock_vector reads, writes;

  /// Whether every earlier access that conflicts with this one happened before it.
  [[nodiscard]] bool ordered(const clock_vector& now, bool write) const noexcept {
    return now.covers(writes) && (!write || now.covers(reads));
  }
  void add(int fiber, moment when, bool write) noexcept {
    (write ? writes : reads).of[fiber] = when;
  }
};

}  // namespace explore
