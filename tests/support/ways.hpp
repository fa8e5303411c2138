// SPDX-License-Identifier: BSL-1.0
// Forces the route of an operation. An operation with several routes must behave the same on each.
//
//     for (way go : all_ways) {
//       CAPTURE(go);
//       iowq::run(reads_at_offsets(go));      // co_await as(go, iowq::pread(...))
//     }
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <ostream>
#include <string>
#include <utility>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/operation.hpp>

namespace iowq_test {

enum class way { usual, ring, pool };
inline constexpr way all_ways[] = {way::usual, way::ring, way::pool};

inline std::ostream& operator<<(std::ostream& out, way go) {
  return out << (go == way::usual ? "as it is routed" : go == way::ring ? "on_ring" : "on_pool");
}

/// Returns whether the current executor has a ring. Most tests also run without one
/// (tests/meson.build).
inline bool on_a_ring() {
  auto const* const here = iowq::detail::this_thread_loop;
  return here != nullptr && here->has_ring();
}

/// Returns whether executors of this run get a ring. For tests that test only the ring itself.
inline bool rings_allowed() { return iowq::executor{}.backend() == iowq::backend_kind::io_uring; }

/// Returns `op`, routed as `go` says. If `op` lacks that form, or the executor the ring, the usual
/// route is used.
template <class Call>
iowq::operation<Call> as(way go, iowq::operation<Call> op) {
  if constexpr (iowq::detail::has_sqe<Call>)
    if (go == way::ring && on_a_ring()) return iowq::on_ring(std::move(op));
  if constexpr (iowq::detail::has_call<Call>)
    if (go == way::pool) return iowq::on_pool(std::move(op));
  return op;
}

/// Returns how many operations unbound workers run, asleep or not. Owner thread only.
inline unsigned unbound_in_hand() {
  auto const pool = iowq::executor::current().stats().pool;
  return pool.unbound.running + pool.unbound.blocked;
}

/// A temporary directory. The destructor removes it and its contents.
class scratch {
 public:
  explicit scratch(const std::filesystem::path& in = std::filesystem::temp_directory_path()) {
    std::string name = in / "iowq-test-XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  ~scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + '/' + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// A pipe. The destructor closes both ends.
struct pipe_pair {
  explicit pipe_pair(int flags = O_CLOEXEC) {
    int ends[2];
    if (::pipe2(ends, flags) != 0) std::abort();
    in.reset(ends[0]);
    out.reset(ends[1]);
  }
  iowq::fd in, out;
};

}  // namespace iowq_test
