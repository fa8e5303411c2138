// SPDX-License-Identifier: BSL-1.0
// iowq/op/lock.hpp -- locks files.
//
// poll(2) does not report that a file lock is free, and only a signal interrupts a wait in
// flock(2), so a stop request could not end such a wait. The worker therefore retries at growing
// intervals, up to 50 ms. As a result it gets the lock up to one interval late, and another
// contender that tries at the right moment may get the lock first.
#pragma once

#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/blocking_wait.hpp>

namespace iowq::inline v0 {

namespace detail {

/// flock(2).
struct flock_call {
  static constexpr operation_row row{
      .name = "flock",
      .first = route::pool,
      .unbound = true,
      .reason =
          "waits for the holder of the lock, on some file systems for a server; has no opcode"};
  int file, how;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  int call(const stop_token& stop) const noexcept {
    constexpr int longest = 50;  // milliseconds
    for (int pause = 1;; pause = std::min(2 * pause, longest)) {
      int const r = or_errno(::flock(file, how | LOCK_NB));
      if (r == -EINTR) continue;
      if (r != -EWOULDBLOCK || (how & LOCK_NB) != 0) return r;
      if (int const slept = wait_for_events(-1, 0, stop, pause); slept < 0) return slept;
    }
  }
};

}  // namespace detail

/// flock(2): LOCK_SH, LOCK_EX or LOCK_UN on an open file. With LOCK_NB fails with EWOULDBLOCK
/// instead of waiting. The lock belongs to the open file, not to the thread or the coroutine. The
/// wait occupies a worker of the unbound account. A stop request ends the wait.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::flock_call> flock(
    descriptor file, int how, std::source_location at = std::source_location::current()) {
  return operation<detail::flock_call>{at, file.get(), how};
}

}  // namespace iowq::inline v0
