// SPDX-License-Identifier: BSL-1.0
// iowq/exec/stats.hpp -- an executor's counters, and the list of its operations in flight.
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string_view>
#include <vector>

#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/operation_counters.hpp>

namespace iowq::inline v0 {

/// The counters of an executor, from its construction to now.
struct executor_stats {
  std::uint64_t submitted = 0;   ///< SQEs; without a ring, waits for a descriptor
  std::uint64_t entered = 0;     ///< io_uring_enter calls; without a ring, epoll_wait
  std::uint64_t completed = 0;   ///< CQEs; without a ring, descriptors that became ready
  std::uint64_t inline_ops = 0;  ///< operations the owner finished itself
  std::uint64_t ring_ops = 0;    ///< operations the ring finished, or that waited for a descriptor
  std::uint64_t punted_ops = 0;  ///< operations the pool finished
  std::uint64_t resumed = 0;     ///< coroutines resumed by the loop
  pool_stats pool;
  std::vector<operation_stats> operations;  ///< the same counters, one line per operation
};

namespace detail {

[[nodiscard]] inline executor_stats collect(const loop& here) {
  executor_stats all;
  ring_stats const kernel = here.kernel_stats();
  all.submitted = kernel.submitted;
  all.entered = kernel.entered;
  all.completed = kernel.completed;
  class operation_counters finished = here.counts();
  // An untracked operation was counted as finished when it was submitted.
  here.backend().fast().for_each(
      [&](const operation_base& op) { --finished.of(op.row()).ring_ops; });
  all.operations = finished.lines();
  for (const operation_stats& line : all.operations) {
    all.inline_ops += line.inline_ops;
    all.ring_ops += line.ring_ops;
    all.punted_ops += line.punted_ops;
  }
  // A timer that fires is also an item of the ready queue, and is counted as inline.
  all.resumed = here.items_run() + all.ring_ops + all.punted_ops;
  if (auto const* pool = here.pool().if_started()) all.pool = pool->stats();
  all.pool.kicks = here.kicks();
  return all;
}

[[nodiscard]] constexpr std::string_view to_string(stage where) noexcept {
  constexpr std::string_view names[] = {
      "created", "completed", "waiting for an SQE",
      "ring",    "pool",      "poll",
      "timer",   "waiting",   "waiting for the users of its descriptor",
      "ready",   "stopping"};
  return names[static_cast<unsigned>(where)];
}

/// Writes a line for each operation in flight, grouped by descriptor, then the pool's report.
inline void write_in_flight(std::ostream& out, loop& here) {
  std::size_t count = 0;
  time_point const now = linux_policy::now();
  here.in_flight().for_each([&](const operation_base& op) {
    ++count;
    out << op.row().name;
    if (int const number = op.used_descriptor(); number >= 0)
      out << " fd " << number;
    else if (is_slot(number))
      out << " slot " << slot_number(number);
    if (op.key()) out << " key " << *op.key();
    out << ": " << to_string(op.where());
    auto const age = std::chrono::duration_cast<std::chrono::milliseconds>(now - op.since());
    out << ", " << age.count() << " ms, " << op.source().file_name() << ':' << op.source().line()
        << " in " << op.source().function_name() << '\n';
  });
  out << count << " in flight\n";
  if (auto* pool = here.pool().if_started()) pool->dump(out);
}

}  // namespace detail
}  // namespace iowq::inline v0
