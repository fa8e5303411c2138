// SPDX-License-Identifier: BSL-1.0
// Prints the table with which the examples end: which route the operations took.
#pragma once

#include <algorithm>
#include <iomanip>
#include <ostream>
#include <string_view>

#include <iowq/iowq.hpp>

namespace example {

/// Prints one line for each operation, their sum, and what the pool and the ring did for them.
inline void print_where_the_work_went(std::ostream& out, iowq::executor_stats stats) {
  auto const line = [&out](std::string_view name, const iowq::operation_stats& e) {
    out << std::left << std::setw(12) << name << std::right;
    for (auto const n : {e.inline_ops, e.ring_ops, e.punted_ops, e.bounced, e.cancelled})
      out << std::setw(11) << n;
    out << '\n';
  };
  std::sort(stats.operations.begin(), stats.operations.end(), [](const auto& a, const auto& b) {
    return std::string_view{a.name} < std::string_view{b.name};
  });
  out << "where the work went\n" << std::left << std::setw(12) << "operation" << std::right;
  for (std::string_view const head : {"inline", "ring", "punted", "(bounced)", "cancelled"})
    out << std::setw(11) << head;
  out << '\n';
  iowq::operation_stats all;
  for (const iowq::operation_stats& e : stats.operations) {
    line(e.name, e);
    all.inline_ops += e.inline_ops;
    all.ring_ops += e.ring_ops;
    all.punted_ops += e.punted_ops;
    all.bounced += e.bounced;
    all.cancelled += e.cancelled;
  }
  line("all", all);
  const iowq::pool_stats& pool = stats.pool;
  out << "workers: " << pool.created << " created, at most " << pool.bound.peak_workers
      << " bound and " << pool.unbound.peak_workers << " unbound at once, seen blocked "
      << pool.sleeps << " times\n"
      << "ring: " << stats.submitted << " submitted in " << stats.entered << " system calls\n";
}

}  // namespace example
