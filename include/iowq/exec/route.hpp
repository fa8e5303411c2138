// SPDX-License-Identifier: BSL-1.0
// iowq/exec/route.hpp -- inline, ring or pool: the decision.
// Layer exec; needs ring. Next in the book: exec/await.hpp.
#pragma once

#include <iowq/exec/operation.hpp>
#include <iowq/exec/row.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::detail {

/// What an operation can do at all.
struct forms {
  bool sqe;   // has an SQE form
  bool call;  // has a blocking system-call form
};

/// The route, first match wins: what the user forces; a key of the user's, which only the pool
/// keeps; the kernel's own workers instead of ours, if the policy says so; what the operation
/// itself chose. A form that is missing, or an opcode this kernel lacks, leaves the other one.
[[nodiscard]] inline route decide(const operation_row& row, placement chosen, const wish& wished,
                                  forms has, punt_policy policy,
                                  const ring_features& features) noexcept {
  bool const ring_can =
      has.sqe && (row.opcode == operation_row::no_opcode || features.has(row.opcode));
  route way = chosen.way;
  if (policy == punt_policy::kernel && way == route::pool) way = route::ring;
  if (wished.has_key) way = route::pool;
  if (wished.has_way()) way = wished.way();
  if (way == route::ring && !ring_can) return route::pool;
  if (way != route::ring && !has.call) return route::ring;
  return way;
}

}  // namespace iowq::detail
