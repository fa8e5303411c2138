// SPDX-License-Identifier: BSL-1.0
// iowq/pool/blocking_region.hpp -- blocking_region, and the descriptor that wakes a blocked item.
#pragma once

#include <iowq/base/policy.hpp>
#include <iowq/pool/detail/state.hpp>
#include <iowq/pool/detail/worker.hpp>

namespace iowq::inline v0 {

/// Functions of the worker that runs the calling code.
namespace this_worker {

/// Returns a descriptor for poll(2) that becomes readable when the running item is cancelled or the
/// pool is being destroyed. Returns -1 if the calling thread is not a worker, or if no descriptor
/// could be opened. The pool owns the descriptor: do not read or close it. Check the stop token
/// after each return of poll(2).
[[nodiscard]] inline int wake_descriptor() noexcept {
  auto* const worker = detail::worker<detail::linux_policy>::current();
  return worker != nullptr ? worker->wake_descriptor() : -1;
}

}  // namespace this_worker

}  // namespace iowq::inline v0
