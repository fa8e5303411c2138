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
  std::uint64_t bounced = 0;     // included in punted_ops: the ring would block
  std::uint64_t cancelled = 0;   // on any route: ended by a stop request
};

namespace detail {

/// The slot where the search for a row begins: a hash of the row's name, computed at compile time.
[[nodiscard]] constexpr std::size_t counter_hint(const operation_row& row) noexcept {
  std::size_t hash = 0;
  for (char const c : std::string_view{row.name}) hash = hash * 31 + static_cast<unsigned char>(c);
  return hash;
}

/// The counters of one loop. Owner thread only. A hash table with open addressing: finding an entry
/// costs one comparison, and adding an operation to the library changes nothing here.
class operation_counters {
 public:
  template <const operation_row& Row>
  [[nodiscard]] IOWQ_ALWAYS_INLINE operation_stats& of() noexcept {
    constexpr std::size_t hint = counter_hint(Row) % table_size;
    if (slots_[hint].row == &Row) [[likely]]
      return slots_[hint].entry;
    return search(Row, hint);
  }
  /// Increments one counter. The usual case costs a comparison and an increment.
  template <const operation_row& Row>
  IOWQ_ALWAYS_INLINE void count(std::uint64_t operation_stats::* way) noexcept {
    constexpr std::size_t hint = counter_hint(Row) % table_size;
    if (slots_[hint].row == &Row) [[likely]]
      ++(slots_[hint].entry.*way);
    else
      ++(search(Row, hint).*way);
  }
  /// As of(), for a row that is not known at compile time.
  [[nodiscard]] operation_stats& of(const operation_row& row) noexcept {
    return search(row, counter_hint(row) % table_size);
  }

 private:
  IOWQ_NOINLINE operation_stats& search(const operation_row& row, std::size_t hint) noexcept {
    for (std::size_t i = hint;; ++i) {
      slot& here = slots_[i % table_size];
      if (here.row == &row) return here.entry;
      if (here.row == nullptr) {
        // The last free slot stays free, because it ends every search. The overflow shares one
        // line.
        if (used_ == table_size - 1) return other_;
        ++used_;
        here.row = &row;
        here.entry.name = row.name;
        return here.entry;
      }
    }
  }

 public:
  /// Returns a line for every operation that was used. Rows of one name (instances of a template)
  /// are added up.
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
    if (used_ == table_size - 1) add(other_);
    return all;
  }

 private:
  static constexpr std::size_t table_size = 128;
  struct alignas(64) slot {  // a power of two: finding one needs no multiplication
    const operation_row* row = nullptr;
    operation_stats entry;
  };
  std::array<slot, table_size> slots_{};
  operation_stats other_{.name = "(others)"};
  std::size_t used_ = 0;
};

}  // namespace detail
}  // namespace iowq::inline v0
