// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/operation_counters.hpp -- how often each operation took which route.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <iowq/base/config.hpp>
#include <iowq/exec/operation_row.hpp>

namespace iowq::inline v0 {

/// One line of executor_stats::operations.
struct operation_stats {
  const char* name = nullptr;
  std::uint64_t inline_ops = 0;  // finished by the owner itself
  std::uint64_t ring_ops = 0;    // finished by the ring
  std::uint64_t punted_ops = 0;  // finished by the pool
  std::uint64_t bounced = 0;     // of those: came back from the ring with "would block"
  std::uint64_t cancelled = 0;   // of all: ended by a stop request
};

namespace detail {

/// Where the search for a row begins: a hash of its name, which the compiler knows.
[[nodiscard]] constexpr std::size_t counter_hint(const operation_row& row) noexcept {
  std::size_t hash = 0;
  for (char const c : std::string_view{row.name}) hash = hash * 31 + static_cast<unsigned char>(c);
  return hash;
}

/// The counts of one loop. Owner thread only. Open addressing: finding an entry is a compare, and
/// adding an operation to the library touches nothing here.
class operation_counters {
 public:
  template <const operation_row& Row>
  [[nodiscard]] IOWQ_ALWAYS_INLINE operation_stats& of() noexcept {
    constexpr std::size_t hint = counter_hint(Row) % slots;
    if (slots_[hint].row == &Row) [[likely]]
      return slots_[hint].entry;
    return search(Row, hint);
  }
  /// Counts one more; the rule costs a compare and an increment.
  template <const operation_row& Row>
  IOWQ_ALWAYS_INLINE void count(std::uint64_t operation_stats::* way) noexcept {
    constexpr std::size_t hint = counter_hint(Row) % slots;
    if (slots_[hint].row == &Row) [[likely]]
      ++(slots_[hint].entry.*way);
    else
      ++(search(Row, hint).*way);
  }
  /// of() for a row that is only known now.
  [[nodiscard]] operation_stats& of(const operation_row& row) noexcept {
    return search(row, counter_hint(row) % slots);
  }

 private:
  IOWQ_NOINLINE operation_stats& search(const operation_row& row, std::size_t hint) noexcept {
    for (std::size_t i = hint;; ++i) {
      slot& here = slots_[i % slots];
      if (here.row == &row) return here.entry;
      if (here.row == nullptr) {
        // The last free slot stays free, as the end of every search; the overflow is one line.
        if (used_ == slots - 1) return other_;
        ++used_;
        here.row = &row;
        here.entry.name = row.name;
        return here.entry;
      }
    }
  }

 public:
  /// Every operation that was used, those of one name (a template's instances) added up.
  [[nodiscard]] std::vector<operation_stats> lines() const {
    std::vector<operation_stats> all;
    auto add = [&all](const operation_stats& e) {
      for (operation_stats& line : all)
        if (std::string_view{line.name} == e.name) {
          line.inline_ops += e.inline_ops;
          line.ring_ops += e.ring_ops;
          line.punted_ops += e.punted_ops;
          line.bounced += e.bounced;
          line.cancelled += e.cancelled;
          return;
        }
      all.push_back(e);
    };
    for (const slot& s : slots_)
      if (s.row != nullptr) add(s.entry);
    if (used_ == slots - 1) add(other_);
    return all;
  }

 private:
  static constexpr std::size_t slots = 128;
  struct alignas(64) slot {  // a power of two: finding one needs no multiplication
    const operation_row* row = nullptr;
    operation_stats entry;
  };
  std::array<slot, slots> slots_{};
  operation_stats other_{.name = "(others)"};
  std::size_t used_ = 0;
};

}  // namespace detail
}  // namespace iowq::inline v0
