// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/options.hpp>

#include <map>
#include <string>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include <doctest/doctest.h>

namespace {
using iowq::worker_limits;
using iowq::detail::pids_headroom;
using iowq::detail::with_defaults;

/// Files by name, and a thread limit.
struct paper_policy {
  static inline std::map<std::string, std::string> files;
  static inline unsigned long threads = 0;
  static int read_text(const char* path, char* text, std::size_t size) {
    auto const found = files.find(path);
    if (found == files.end()) return -ENOENT;
    std::size_t const length = found->second.copy(text, size - 1);
    text[length] = 0;
    return static_cast<int>(length);
  }
  static unsigned long max_threads() { return threads; }
};
constexpr unsigned long unlimited = ~0ul;
}  // namespace

TEST_SUITE("pool/options") {
  TEST_CASE("wq-7: bound workers by default are min(256, 4 x processors)") {
    paper_policy::files.clear();
    paper_policy::threads = unlimited;
    CHECK(with_defaults<paper_policy>({}, 2) == worker_limits{8, 1024});
    CHECK(with_defaults<paper_policy>({}, 64).bound == 256);
    CHECK(with_defaults<paper_policy>({}, 65).bound == 256);
    CHECK(with_defaults<paper_policy>({}, 0).bound == 1);
    CHECK(with_defaults<paper_policy>({3, 4}, 2) == worker_limits{3, 4});
  }

  TEST_CASE("unbound workers by default respect RLIMIT_NPROC and what the cgroup has left") {
    paper_policy::threads = 100;
    paper_policy::files = {{"/proc/self/cgroup", "0::/\n"}};
    CHECK(with_defaults<paper_policy>({}, 2).unbound == 100);
    paper_policy::files = {{"/proc/self/cgroup", "0::/\n"},
                           {"/sys/fs/cgroup/pids.max", "60\n"},
                           {"/sys/fs/cgroup/pids.current", "20\n"}};
    CHECK(with_defaults<paper_policy>({}, 2).unbound == 40);
    paper_policy::files["/sys/fs/cgroup/pids.current"] = "61\n";
    CHECK(with_defaults<paper_policy>({}, 2).unbound == 1);
  }

  TEST_CASE("the tightest cgroup on the way up binds, of version 2 and of version 1") {
    paper_policy::files = {{"/proc/self/cgroup", "0::/a/b\n"},
                           {"/sys/fs/cgroup/a/b/pids.max", "max\n"},
                           {"/sys/fs/cgroup/a/pids.max", "50\n"},
                           {"/sys/fs/cgroup/a/pids.current", "8\n"}};
    CHECK(pids_headroom<paper_policy>() == 42);
    paper_policy::files = {{"/proc/self/cgroup", "5:memory:/x\n4:cpu,pids:/c\n0::/\n"},
                           {"/sys/fs/cgroup/pids/c/pids.max", "9\n"},
                           {"/sys/fs/cgroup/pids/c/pids.current", "2\n"}};
    CHECK(pids_headroom<paper_policy>() == 7);
    paper_policy::files.clear();
    CHECK(pids_headroom<paper_policy>() == unlimited);
  }
}
