// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/select_backend.hpp -- chooses io_uring or epoll, and reports why.
//
// If io_uring is unavailable (a policy forbids it, the kernel lacks it, it gets no memory), the
// executor works without a ring. If the process has a fault (no free descriptor, a bad option),
// that is an error: the other backend would only hide it.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include <iowq/base/config.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/exec/detail/backend_poll.hpp>
#include <iowq/exec/detail/backend_ring.hpp>
#include <iowq/exec/operation_row.hpp>

namespace iowq::inline v0::detail {

/// The name of an errno of io_uring_setup and the like, as in a manual page.
[[nodiscard]] constexpr std::string_view errno_name(int error) noexcept {
  switch (error) {
    case EPERM:
      return "EPERM";
    case EACCES:
      return "EACCES";
    case ENOSYS:
      return "ENOSYS";
    case ENOMEM:
      return "ENOMEM";
    case EMFILE:
      return "EMFILE";
    case ENFILE:
      return "ENFILE";
    case EINVAL:
      return "EINVAL";
    default:
      return "an error";
  }
}

/// The reason why there is no ring, and the cure.
[[nodiscard]] inline std::string explain_ring_failure(int res) {
  std::string_view hint;
  switch (-res) {
    case EPERM:
    case EACCES:
      hint = "forbidden here: kernel.io_uring_disabled, or a container's seccomp filter";
      break;
    case ENOSYS:
      hint = "not in this kernel, which is older than 5.13, or hidden by a seccomp filter";
      break;
    case ENOMEM:
      hint = "RLIMIT_MEMLOCK is too small even for 8 entries: raise it (ulimit -l)";
      break;
    case EMFILE:
    case ENFILE:
      hint = "no free descriptor: raise RLIMIT_NOFILE (ulimit -n)";
      break;
    default:
      hint = "io_uring cannot be used";
  }
  return std::string{"io_uring_setup: "}.append(errno_name(-res)).append(" (").append(hint) + ")";
}

/// Returns true if this failure is a reason to work without a ring.
[[nodiscard]] constexpr bool is_refusal(int res) noexcept {
  return res == -EPERM || res == -EACCES || res == -ENOSYS || res == -ENOMEM;
}

/// IOWQ_BACKEND in the environment. It lets the user of a program decide, not only its author.
[[nodiscard]] inline backend_kind backend_of_environment() {
  const char* const set = std::getenv("IOWQ_BACKEND");
  std::string_view const word = set != nullptr ? set : "";
  if (word == "poll") return backend_kind::poll;
  if (word == "io_uring") return backend_kind::io_uring;
  if (word.empty() || word == "automatic") return backend_kind::automatic;
  throw_error(-EINVAL, "IOWQ_BACKEND (is neither io_uring, poll nor automatic)");
}

/// Reports the fallback, once per process: the program did not ask for it, and it costs
/// performance.
IOWQ_COLD inline void report_fallback(const std::string& reason) noexcept {
  static constinit atomic<bool> told{false};
  // relaxed: a flag that guards nothing else.
  if (!told.exchange(true, std::memory_order_relaxed))
    std::fprintf(stderr, "iowq: io_uring is not available, using epoll and threads: %s\n",
                 reason.c_str());
}

/// Opens one of the backends and returns the reason for that choice. Throws std::system_error if
/// none can be opened.
[[nodiscard]] inline std::string open_backend(backend_kind wanted, unsigned entries,
                                              punt_policy punt, ring_backend& uring,
                                              std::optional<poll_backend>& poll) {
  if (entries == 0) throw_error(-EINVAL, "executor (executor_options::entries is 0)");
  backend_kind const set = backend_of_environment();
  if (set == backend_kind::poll && wanted == backend_kind::io_uring)
    throw_error(-ENOTSUP, "executor (IOWQ_BACKEND=poll forbids backend_kind::io_uring)");
  bool const told = wanted != backend_kind::automatic;
  backend_kind const chosen = told ? wanted : set;
  std::string reason;
  if (chosen == backend_kind::poll) {
    reason = told ? "backend_kind::poll" : "IOWQ_BACKEND=poll";
  } else {
    int const r = uring.open(entries, punt);
    if (r >= 0) return "io_uring_setup: granted";
    reason = explain_ring_failure(r);
    if (chosen == backend_kind::io_uring || !is_refusal(r)) throw_error(r, reason.c_str());
    report_fallback(reason);
  }
  poll.emplace(uring.wake_descriptor());
  return reason;
}

}  // namespace iowq::inline v0::detail
