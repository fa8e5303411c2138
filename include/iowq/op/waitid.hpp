// SPDX-License-Identifier: BSL-1.0
// iowq/op/waitid.hpp -- waiting for what becomes of a child.
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
    // Where nothing tells, or it has told of an end that we were not given, a worker looks again.
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
    bool told = false;  // ... of an end that we were not given: a debugger comes first
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
  /// What becomes readable when it has happened; -1: nothing does, look again.
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

/// waitid(2): P_PID, P_PIDFD, P_PGID or P_ALL; WEXITED, WSTOPPED and so on in `options`. Yields
/// its siginfo_t; with WNOHANG its si_pid may be 0.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::waitid_call> waitid(
    ::idtype_t which, ::id_t id, int options,
    std::source_location at = std::source_location::current()) {
  return operation<detail::waitid_call>{at, detail::waitid_call{which, id, options}};
}

}  // namespace iowq::inline v0
