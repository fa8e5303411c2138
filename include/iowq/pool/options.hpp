// SPDX-License-Identifier: BSL-1.0
// iowq/pool/options.hpp -- how to build a pool.
//
// Bound items occupy a processor or a disk. The kernel gives them min(entries, 4 x processors)
// workers; a pool has no ring, and gives them min(256, 4 x processors). Unbound items wait for
// another party and need a thread each. The kernel limits their workers to RLIMIT_NPROC, which does
// not bind root. So the default here is the smallest of RLIMIT_NPROC, the headroom of the pids
// cgroup, and 1024.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include <iowq/base/policy.hpp>
#include <iowq/pool/detail/context_check.hpp>
#include <iowq/pool/topology.hpp>

namespace iowq::inline v0 {

/// The greatest number of workers of each class. 0 means the default in pool_options, and keeps the
/// current limit in set_max_workers().
struct worker_limits {
  unsigned bound = 0, unbound = 0;
  friend bool operator==(const worker_limits&, const worker_limits&) noexcept = default;
};

namespace detail {

/// How many more threads the pids cgroup of this process and its ancestors allow; the largest
/// number if there is no limit. `root` is a prefix of every path, for tests.
template <class Policy>
[[nodiscard]] unsigned long pids_headroom(const std::string& root = {}) {
  static constexpr unsigned long unlimited = std::numeric_limits<unsigned long>::max();
  unsigned long least = unlimited;
  char text[4096];
  auto number = [](const std::string& file) {
    char value[32];
    if (Policy::read_text(file.c_str(), value, sizeof value) <= 0 || value[0] == 'm')  // "max"
      return unlimited;
    return std::strtoul(value, nullptr, 10);
  };
  auto look = [&](const std::string& mount, std::string group) {
    for (;;) {  // up to the root of the hierarchy: the tightest limit counts
      std::string const directory = root + mount + group;
      unsigned long const most = number(directory + "/pids.max");
      if (most != unlimited) {
        unsigned long const now = number(directory + "/pids.current");
        least = std::min(least, now < most ? most - now : 0);
      }
      if (group.empty()) return;
      group.erase(group.rfind('/'));
    }
  };
  if (Policy::read_text((root + "/proc/self/cgroup").c_str(), text, sizeof text) <= 0)
    return unlimited;
  for (char* line = text; line != nullptr && *line != 0;) {  // "ID:controllers:/group"
    char* const end = std::strchr(line, '\n');
    if (end != nullptr) *end = 0;
    char const* const controllers = std::strchr(line, ':');
    char const* const colon = controllers != nullptr ? std::strchr(controllers + 1, ':') : nullptr;
    if (colon != nullptr && colon[1] == '/') {
      std::string const group = colon[2] != 0 ? colon + 1 : "";
      std::string const names{controllers + 1, colon};
      if (names.empty())
        look("/sys/fs/cgroup", group);
      else if (("," + names + ",").find(",pids,") != std::string::npos)
        look("/sys/fs/cgroup/pids", group);
    }
    line = end != nullptr ? end + 1 : nullptr;
  }
  return least;
}

/// Returns `asked` with zeros replaced by the defaults for a pool on `cpus` processors.
template <class Policy>
[[nodiscard]] worker_limits with_defaults(worker_limits asked, unsigned cpus) {
  if (asked.bound == 0) asked.bound = std::clamp(4 * cpus, 1u, 256u);
  if (asked.unbound == 0) {
    unsigned long const most = std::min({1024ul, Policy::max_threads(), pids_headroom<Policy>()});
    asked.unbound = static_cast<unsigned>(std::max(most, 1ul));
  }
  return asked;
}

}  // namespace detail

/// How to build a pool.
struct pool_options {
  // 0: min(256, 4 x processors) bound workers, and min(1024, RLIMIT_NPROC, what the pids cgroup
  // allows) unbound ones.
  worker_limits max_workers = {};
  // A worker that had no item for this time exits, except the last worker of its class. Every value
  // works: 0 or less means at once, max() means never.
  std::chrono::milliseconds idle_timeout = std::chrono::seconds{5};
  topology nodes = topology::system();  // or topology::of({{0}, {1}}): one CPU list for each node
  cpu_set affinity = {};                // empty: the affinity of the constructing thread
  std::size_t stack_size = 256 * 1024;  // bytes, for each worker and the manager
  bool exit_on_idle = false;            // the last worker of a class also exits when idle
  bool drain_bounded = false;           // the destructor lets queued bound items run first
  // How long an idle worker spins for the next item before it sleeps. At most one worker spins at a
  // time, only while a processor is free for it, and only while spinning pays off. 0: never.
  std::chrono::nanoseconds spin = std::chrono::microseconds{5};
  // When enqueue() compares the owner's context with that of the workers, and the function that
  // receives the report of the differences. Without a function, the report goes to stderr.
  context_check_mode check_context = context_check_mode::automatic;
  context_mismatch_handler on_context_mismatch = {};
};

}  // namespace iowq::inline v0
