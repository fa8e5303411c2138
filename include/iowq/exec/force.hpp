// SPDX-License-Identifier: BSL-1.0
// iowq/exec/force.hpp -- when the user knows better where an operation should run.
// Layer exec; needs nothing more. Next in the book: exec/report.hpp.
#pragma once

#include <cstdint>

#include <iowq/exec/await.hpp>

namespace iowq {

/// Forces an operation onto the pool: it runs as a system call on a worker.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> on_pool(operation<Call> op) {
  static_assert(detail::has_call<Call>, "this operation has no system-call form");
  op.wish_for(route::pool);
  return op;
}

/// Leaves an operation to the ring, whatever the policy.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> on_ring(operation<Call> op) {
  static_assert(detail::has_sqe<Call>, "this operation has no SQE form");
  op.wish_for(route::ring);
  return op;
}

/// Orders an operation by `key`: it never runs beside another of that key, and in the order
/// awaited. Runs on the pool, which keeps the order.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> hashed(std::uint64_t key, operation<Call> op) {
  static_assert(detail::has_call<Call>, "this operation has no system-call form");
  op.wish_for_key(key);
  return op;
}

}  // namespace iowq
