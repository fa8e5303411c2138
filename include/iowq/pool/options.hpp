// SPDX-License-Identifier: BSL-1.0
// iowq/pool/options.hpp -- how to build a pool.
//
// Bound items occupy a processor or a disk: the kernel gives them min(entries, 4 x processors)
// workers, and so do we. Unbound ones wait for somebody else and need a thread each; the kernel
// lets them have RLIMIT_NPROC, which is no limit for root, so ours also respects what the pids
// cgroup has left, and 1024.
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

/// Workers of each class. When constructing, 0 is the default; when setting, 0 keeps what is.
struct worker_limits {
  unsigned bound = 0, unbound = 0;
  friend bool operator==(const worker_limits&, const worker_limits&) noexcept = default;
};

namespace detail {

/// How many more threads the pids cgroups of this process allow, its ancestors' included;
/// the largest number if none limits them. `root` stands before every path, for tests.
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
    for (;;) {  // up to the root of the hierarchy: the tightest of them binds
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

/// `asked` with its zeros filled in, for a pool on `cpus` processors.
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
}  // namespace iowq::inline v0

namespace iowq::inline v0 {

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
  context_check_mode check_drift = context_check_mode::automatic;
  drift_handler on_drift = {};
};

}  // namespace iowq::inline v0
