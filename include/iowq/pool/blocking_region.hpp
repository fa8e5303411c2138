// SPDX-License-Identifier: BSL-1.0
// iowq/pool/blocking_region.hpp -- how code on a worker says that it may block.
#pragma once

#include <iowq/base/policy.hpp>
#include <iowq/pool/detail/state.hpp>
#include <iowq/pool/detail/worker.hpp>

namespace iowq::inline v0 {

/// The worker that runs the calling code.
namespace this_worker {

/// A descriptor for poll(2) that becomes readable when the running item is cancelled, or the pool
/// ends; -1 off a worker, or if no descriptor could be opened. The pool's: never read or close
/// it. Ask the stop token after each return of poll.
[[nodiscard]] inline int wake_descriptor() noexcept {
  auto* const worker = detail::worker<detail::linux_policy>::current();
  return worker != nullptr ? worker->wake_descriptor() : -1;
}

}  // namespace this_worker

}  // namespace iowq::inline v0
