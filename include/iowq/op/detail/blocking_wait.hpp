// SPDX-License-Identifier: BSL-1.0
// iowq/op/detail/blocking_wait.hpp -- waits of a worker that a stop request can end.
//
// A worker is never sent a signal, so a system call that blocks could not be interrupted. For that
// reason no operation blocks in the kernel for an event that poll(2) reports. The worker checks the
// stop token, polls the operation's descriptor together with its own wake descriptor, and then
// tries the call without blocking. This order misses no stop request: a stop request sets the token
// first, and makes the wake descriptor readable afterwards.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include <iowq/base/result.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/pool/pool.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::inline v0::detail {

/// Waits until `fd` has one of `events`, an error or a hang-up. Returns the revents, -ECANCELED
/// after a stop request, or -errno. With `timeout_ms` >= 0 returns 0 when that time has passed.
[[nodiscard]] inline int wait_for_events(int fd, short events, const stop_token& stop,
                                         int timeout_ms = -1) noexcept {
  pollfd both[2] = {{.fd = fd, .events = events, .revents = 0},
                    {.fd = this_worker::wake_descriptor(), .events = POLLIN, .revents = 0}};
  for (;;) {
    if (stop.stop_requested()) return -ECANCELED;
    int const n = ::poll(both, 2, timeout_ms);
    if (n < 0 && errno != EINTR) return -errno;
    if (n == 0) return 0;
    if (n > 0 && both[0].revents != 0)
      return (both[0].revents & POLLNVAL) != 0 ? -EBADF : both[0].revents;
  }
}

/// Calls `attempt`, which returns a result or -errno and never blocks. Repeats the call whenever
/// `fd` is ready, until it returns anything but -EAGAIN. Returns that, or -ECANCELED after a stop
/// request, or the error of poll(2).
template <class Attempt>
[[nodiscard]] int until_ready(int fd, short events, const stop_token& stop,
                              Attempt&& attempt) noexcept {
  for (;;) {
    int const r = attempt();
    if (r == -EINTR) continue;
    if (r != -EAGAIN) return r;
    if (int const ready = wait_for_events(fd, events, stop); ready < 0) return ready;
  }
}

/// try_nonblocking() of the calls that only wait for `fd`, as a worker does in wait_for_events().
/// Returns the revents if `fd` has one of `events`, -EAGAIN if it has none yet, or -errno.
[[nodiscard]] inline int look_for_events(int fd, short events) noexcept {
  pollfd one{.fd = fd, .events = events, .revents = 0};
  int r;
  do r = or_errno(::poll(&one, 1, 0));
  while (r == -EINTR);
  if (r <= 0) return r < 0 ? r : -EAGAIN;
  return (one.revents & POLLNVAL) != 0 ? -EBADF : one.revents;
}

/// The blocking form of a call that has nothing to do beyond try_nonblocking(): repeats
/// try_nonblocking() whenever the descriptor of waits_for() is ready.
template <class Call>
[[nodiscard]] int until_once(Call& call, const stop_token& stop) noexcept {
  readiness const wanted = call.waits_for();
  if (wanted.events == 0) return call.try_nonblocking();
  return until_ready(wanted.file, wanted.events, stop, [&call] { return call.try_nonblocking(); });
}

/// False for a receive with MSG_WAITALL on an old kernel: when such a receive is cancelled, the
/// kernel loses the bytes that it has already received.
[[nodiscard]] inline bool ring_keeps(int flags, const ring_features& kernel) noexcept {
  return (flags & MSG_WAITALL) == 0 || kernel.keeps_parts();
}

/// True if a receive with these flags continues until the buffer is full. Datagram sockets ignore
/// MSG_WAITALL. With MSG_PEEK a repeated receive would count the same bytes again.
[[nodiscard]] inline bool waits_for_all(int socket, int flags) noexcept {
  if ((flags & MSG_WAITALL) == 0 || (flags & MSG_PEEK) != 0) return false;
  int type = 0;
  ::socklen_t size = sizeof type;
  return ::getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

}  // namespace iowq::inline v0::detail
