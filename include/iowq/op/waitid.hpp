// SPDX-License-Identifier: BSL-1.0
// iowq/op/waitid.hpp -- waits until a child process changes state.
#pragma once

#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/ring/detail/compat.hpp>

namespace iowq::inline v0 {

namespace detail {

/// waitid(2).
struct waitid_call {
  static constexpr operation_row row{.name = "waitid",
                                     .opcode = compat::op_waitid,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "the kernel's own wait queue, no thread"};
  ::idtype_t which;
  ::id_t id;
  int options;
  ::siginfo_t info{};

  void prepare(io_uring_sqe& sqe) noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_waitid);
    sqe.len = which;
    sqe.fd = static_cast<int>(id);
    sqe.file_index = static_cast<unsigned>(options);
    sqe.off = reinterpret_cast<std::uintptr_t>(&info);
  }
  int try_nonblocking() noexcept {
    info = {};
    int const r = or_errno(::waitid(which, id, &info, options | WNOHANG));
    if (r < 0 || info.si_pid != 0 || (options & WNOHANG) != 0) return r;
    // A worker polls instead if no descriptor announces the change, or if the pidfd is readable
    // but waitid(2) reports nothing yet (see call()).
    readiness const told = waits_for();
    return told.events != 0 && look_for_events(told.file, POLLIN) == -EAGAIN ? -EAGAIN
                                                                             : -EOPNOTSUPP;
  }
  [[nodiscard]] readiness waits_for() const noexcept {
    bool const tells = which == P_PIDFD && (options & (WSTOPPED | WCONTINUED)) == 0;
    return tells ? readiness{static_cast<int>(id), POLLIN} : readiness{};
  }
  int call(const stop_token& stop) noexcept {
    fd opened;
    // The last wait was for the pidfd. If waitid(2) still reports nothing, a debugger gets the
    // status first, and a readable pidfd no longer helps: the next wait is a pause.
    bool told = false;
    for (int pause = 1;; pause = std::min(2 * pause, 50)) {
      info = {};
      int const r = or_errno(::waitid(which, id, &info, options | WNOHANG));
      if (r == -EINTR) continue;
      if (r < 0 || info.si_pid != 0 || (options & WNOHANG) != 0) return r;
      int const handle = told ? -1 : announcer(opened);
      told = handle >= 0;
      int const waited =
          told ? wait_for_events(handle, POLLIN, stop) : wait_for_events(-1, 0, stop, pause);
      if (waited < 0) return waited;
    }
  }
  [[nodiscard]] ::siginfo_t value(int) const noexcept { return info; }

 private:
  /// A descriptor that becomes readable when the child has ended; without one, -1:
  /// call() then tries again after a pause.
  int announcer(fd& opened) const noexcept {
    if ((options & (WSTOPPED | WCONTINUED)) != 0) return -1;
    if (which == P_PIDFD) return static_cast<int>(id);
    if (which != P_PID) return -1;
    if (!opened)
      opened.reset(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<::pid_t>(id), 0)));
    return opened.get();
  }
};

}  // namespace detail

/// waitid(2). `which`: P_PID, P_PIDFD, P_PGID or P_ALL. `options`: WEXITED, WSTOPPED and so on.
/// Yields the siginfo_t; with WNOHANG its si_pid is 0 if no child has changed state.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::waitid_call> waitid(
    ::idtype_t which, ::id_t id, int options,
    std::source_location at = std::source_location::current()) {
  return operation<detail::waitid_call>{at, detail::waitid_call{which, id, options}};
}

}  // namespace iowq::inline v0
