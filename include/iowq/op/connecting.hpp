// SPDX-License-Identifier: BSL-1.0
// iowq/op/connecting.hpp -- one attempt to connect a socket.
// Layer op; needs exec. Next in the book: op/socket.hpp.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/exec/await.hpp>
#include <iowq/op/blocking.hpp>
#include <iowq/op/endpoint.hpp>

namespace iowq {

namespace detail {

/// connect(2).
struct connect_call {
  static constexpr operation_row row{.name = "connect",
                                     .opcode = IORING_OP_CONNECT,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason =
                                         "by poll; a Unix socket's full backlog waits "
                                         "without end, but not for us"};
  int socket;
  endpoint where;
  bool under_way = false;  // by once()

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_CONNECT;
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(where.address());
    sqe.off = where.size();
  }
  int once() noexcept {
    if (under_way) return outcome();
    // Nothing else uses a socket that is being connected, so its mode is ours for a while.
    int const mode = ::fcntl(socket, F_GETFL);
    if (mode < 0) return -errno;
    ::fcntl(socket, F_SETFL, mode | O_NONBLOCK);
    int const r = or_errno(::connect(socket, where.address(), where.size()));
    ::fcntl(socket, F_SETFL, mode);
    under_way = r == -EINPROGRESS || r == -EINTR;
    if (under_way) return -EAGAIN;
    return r == -EAGAIN ? -EOPNOTSUPP : r;  // see call()
  }
  [[nodiscard]] readiness waits_for() const noexcept { return {socket, POLLOUT}; }
  int call(const stop_token& stop) noexcept {
    for (;;) {
      int const r = until_once(*this, stop);
      if (r != -EOPNOTSUPP) return r;
      // AF_UNIX: the backlog is full, and poll(2) does not tell when not.
      if (int const slept = wait_for_events(-1, 0, stop, 10); slept < 0) return slept;
    }
  }

 private:
  [[nodiscard]] int outcome() const noexcept {
    if (int const ready = look_for_events(socket, POLLOUT); ready < 0) return ready;
    int error = 0;
    ::socklen_t size = sizeof error;
    int const r = or_errno(::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size));
    return r < 0 ? r : -error;
  }
};

}  // namespace detail

/// connect(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::connect_call> connect(
    descriptor socket, const endpoint& where,
    std::source_location at = std::source_location::current()) {
  return operation<detail::connect_call>{at, socket.get(), where};
}

}  // namespace iowq
