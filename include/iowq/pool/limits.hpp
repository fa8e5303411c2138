// SPDX-License-Identifier: BSL-1.0
// iowq/pool/limits.hpp -- how many workers are enough, if nobody says.
// Layer pool; needs base. Next in the book: pool/drift.hpp.
//
// Bound items occupy a processor or a disk: the kernel gives them min(entries, 4 x processors)
// workers, and so do we. Unbound ones wait for somebody else and need a thread each; the kernel
// lets them have RLIMIT_NPROC, which is no limit for root, so ours also respects what the pids
// cgroup has left, and 1024.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include <iowq/base/policy.hpp>

namespace iowq {

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
}  // namespace iowq
