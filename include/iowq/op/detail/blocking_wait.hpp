// SPDX-License-Identifier: BSL-1.0
// iowq/op/detail/blocking_wait.hpp -- how a worker waits so that a cancel ends the wait.
//
// A worker is never sent a signal. So no call of ours sleeps in the kernel for something that
// poll(2) can announce: it asks for the token, polls its descriptor together with the worker's
// wake descriptor, and then tries without blocking. Token first, then poll, then try: a stop
// request sets the token and then rings, so nothing is missed.
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

/// Waits until `fd` has one of `events`, an error or a hang-up. The revents, or -ECANCELED, or
/// -errno. With `timeout_ms` >= 0: 0 when that has passed.
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

/// Calls `attempt` (answer or -errno, never blocking), and again whenever `fd` is ready, until it
/// says something else than "would block".
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

/// What try_nonblocking() of a call says where a worker could only wait the same way: `fd` has one
/// of `events` (revents), or not yet (-EAGAIN), or -errno.
[[nodiscard]] inline int look_for_events(int fd, short events) noexcept {
  pollfd one{.fd = fd, .events = events, .revents = 0};
  int r;
  do r = or_errno(::poll(&one, 1, 0));
  while (r == -EINTR);
  if (r <= 0) return r < 0 ? r : -EAGAIN;
  return (one.revents & POLLNVAL) != 0 ? -EBADF : one.revents;
}

/// The blocking form of a call whose try_nonblocking() is all there is to do.
template <class Call>
[[nodiscard]] int until_once(Call& call, const stop_token& stop) noexcept {
  readiness const wanted = call.waits_for();
  if (wanted.events == 0) return call.try_nonblocking();
  return until_ready(wanted.file, wanted.events, stop, [&call] { return call.try_nonblocking(); });
}

/// A receive with MSG_WAITALL: an old kernel forgets what has come when a cancel comes.
[[nodiscard]] inline bool ring_keeps(int flags, const ring_features& kernel) noexcept {
  return (flags & MSG_WAITALL) == 0 || kernel.keeps_parts();
}

/// Does a receive with these flags go on until the buffer is full? Datagrams know no
/// MSG_WAITALL, and what is only looked at would be counted again.
[[nodiscard]] inline bool waits_for_all(int socket, int flags) noexcept {
  if ((flags & MSG_WAITALL) == 0 || (flags & MSG_PEEK) != 0) return false;
  int type = 0;
  ::socklen_t size = sizeof type;
  return ::getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

}  // namespace iowq::inline v0::detail
