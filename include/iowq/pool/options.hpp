// SPDX-License-Identifier: BSL-1.0
// iowq/pool/options.hpp -- how to build a pool.
// Layer pool; needs pool/drift, limits, topology. Next in the book: pool/work.hpp.
#pragma once

#include <chrono>
#include <cstddef>

#include <iowq/pool/drift.hpp>
#include <iowq/pool/limits.hpp>
#include <iowq/pool/topology.hpp>

namespace iowq {

/// How to build a pool.
struct pool_options {
  worker_limits max_workers = {};  // 0: min(256, 4 x processors) bound; see limits.hpp for unbound
  // A worker leaves after this time without an item, but for the last of its class. Any value: at
  // most 0 means at once, max() never.
  std::chrono::milliseconds idle_timeout = std::chrono::seconds{5};
  topology nodes = topology::system();  // or topology::of({{0}, {1}}): processors, a list a node
  cpu_set affinity = {};                // empty: the creating thread's
  std::size_t stack_size = 256 * 1024;  // of each worker
  bool exit_on_idle = false;            // the last worker of a class leaves as well
  bool drain_bounded = false;           // the pool's end lets queued bound work run first
  // How long an idle worker looks out for the next item before it sleeps: at most one does, only
  // while a processor is free for it, and only while it pays. 0: never.
  std::chrono::nanoseconds spin = std::chrono::microseconds{5};
  // Whether enqueue() looks if the owner's context is still the workers', and who is told what
  // differs; nobody: stderr.
  drift_check check_drift = drift_check::automatic;
  drift_handler on_drift = {};
};

}  // namespace iowq
