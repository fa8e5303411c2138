// SPDX-License-Identifier: BSL-1.0
// iowq/exec/route.hpp -- inline, ring or pool: the decision.
// Layer exec; needs ring. Next in the book: exec/evict.hpp.
#pragma once

#include <iowq/exec/call.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/exec/row.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::detail {

/// The route, first match wins: what the user forces; a key of the user's, which only the pool
/// keeps; the kernel's own workers instead of ours, if the policy says so; what the operation
/// itself chose. A form that is missing, or an opcode this kernel lacks, leaves the other one.
/// Where there is no ring, what has a call that never blocks goes by that, on the same way.
[[nodiscard]] inline route decide(const operation_row& row, placement chosen, const wish& wished,
                                  forms has, punt_policy policy,
                                  const ring_features& features) noexcept {
  bool ring_can = has.sqe && (row.opcode == operation_row::no_opcode || features.has(row.opcode));
  if (!features.open) ring_can = has.once || wished.has_way();  // on_ring() shall be told
  route way = chosen.way;
  if (policy == punt_policy::kernel && features.open && way == route::pool) way = route::ring;
  if (wished.has_key) way = route::pool;
  if (wished.has_way()) way = wished.way();
  if (way == route::ring && !ring_can && has.call) return route::pool;
  if (way != route::ring && !has.call) return route::ring;
  return way;
}

}  // namespace iowq::detail
