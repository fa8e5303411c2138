// SPDX-License-Identifier: BSL-1.0
// iowq/op/socket.hpp -- sockets and connections.
//
// Every descriptor made here is close-on-exec, and no send raises SIGPIPE. On the pool, calls that
// wait use poll(2) and run on the unbound account.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/op/endpoint.hpp>
#include <iowq/op/file.hpp>
#include <iowq/ring/detail/compat.hpp>

namespace iowq::inline v0 {

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
  bool under_way = false;  // try_nonblocking() has started it

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_CONNECT;
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(where.address());
    sqe.off = where.size();
  }
  int try_nonblocking() noexcept {
    if (under_way) return outcome();
    // A socket that is being connected has no other users: its mode may change for a moment.
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
      // AF_UNIX: the backlog is full, and poll(2) does not report when it has room again. Try
      // every 10 ms.
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

/// connect(2). Copies `where`.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::connect_call> connect(
    descriptor socket, const endpoint& where,
    std::source_location at = std::source_location::current()) {
  return operation<detail::connect_call>{at, socket.get(), where};
}

namespace detail {

/// socket(2).
struct socket_call {
  static constexpr operation_row row{.name = "socket",
                                     .first = route::inline_,
                                     .late = discard::close_descriptor,
                                     .reason = "allocates, waits for nothing"};
  int domain, type, protocol;

  int call(const stop_token&) const noexcept {
    return or_errno(::socket(domain, type | SOCK_CLOEXEC, protocol));
  }
  static fd value(int answer) noexcept { return fd{answer}; }
};

/// bind(2).
struct bind_call {
  static constexpr operation_row row{
      .name = "bind",
      .opcode = compat::op_bind,
      .first = route::inline_,
      .reason = "waits for nothing; the name of a Unix socket is a file, made on the pool"};
  int socket;
  endpoint where;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void choose_placement(placement& go) const noexcept {
    if (where.family() == AF_UNIX) go.way = route::pool;
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_bind);
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(where.address());
    sqe.off = where.size();
    if (where.family() == AF_UNIX) sqe.flags = IOSQE_ASYNC;  // else the owner would make the file
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::bind(socket, where.address(), where.size()));
  }
};

/// listen(2).
struct listen_call {
  static constexpr operation_row row{.name = "listen",
                                     .opcode = compat::op_listen,
                                     .first = route::inline_,
                                     .reason = "waits for nothing"};
  int socket, backlog;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_listen);
    sqe.fd = socket;
    sqe.len = static_cast<unsigned>(backlog);
  }
  int call(const stop_token&) const noexcept { return or_errno(::listen(socket, backlog)); }
};

/// accept4(2).
struct accept_call {
  static constexpr operation_row row{.name = "accept",
                                     .opcode = IORING_OP_ACCEPT,
                                     .first = route::ring,
                                     .unbound = true,
                                     .late = discard::close_descriptor,
                                     .reason = "inline when a connection waits, else by poll"};
  int listener, flags;

  [[nodiscard]] int descriptor() const noexcept { return listener; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_ACCEPT;
    sqe.fd = listener;
    sqe.accept_flags = static_cast<unsigned>(flags | SOCK_CLOEXEC);
  }
  int try_nonblocking() const noexcept {
    // Another thread may take the connection between poll and accept. On a blocking listener this
    // thread would then block where no stop request reaches it.
    int const mode = ::fcntl(listener, F_GETFL);
    if (mode < 0) return -errno;
    if ((mode & O_NONBLOCK) == 0) ::fcntl(listener, F_SETFL, mode | O_NONBLOCK);
    return or_errno(::accept4(listener, nullptr, nullptr, flags | SOCK_CLOEXEC));
  }
  [[nodiscard]] readiness waits_for() const noexcept { return {listener, POLLIN}; }
  int call(const stop_token& stop) const noexcept { return until_once(*this, stop); }
  static fd value(int answer) noexcept { return fd{answer}; }
};

/// recv(2).
struct recv_call {
  static constexpr operation_row row{.name = "recv",
                                     .opcode = IORING_OP_RECV,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "inline when data waits, else by poll"};
  int socket;
  mutable_bytes bytes;
  int flags;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  [[nodiscard]] bool supported_by(const ring_features& kernel) const noexcept {
    return ring_keeps(flags, kernel);
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_RECV;
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(bytes.data());
    sqe.len = bytes.length();
    sqe.msg_flags = static_cast<unsigned>(flags);
  }
  int try_nonblocking() const noexcept {
    // MSG_WAITALL may take several rounds and must count what it received: left to a worker.
    return waits() && waits_for_all(socket, flags) ? -EOPNOTSUPP : receive(0);
  }
  [[nodiscard]] readiness waits_for() const noexcept {
    return waits() ? readiness{socket, POLLIN} : readiness{};
  }
  int call(const stop_token& stop) const noexcept {
    if (!waits()) return receive(0);
    std::size_t done = 0;  // received bytes are never lost
    for (;;) {
      int const r = until_ready(socket, POLLIN, stop, [&] { return receive(done); });
      if (r > 0) done += static_cast<std::size_t>(r);
      bool const whole = !waits_for_all(socket, flags) || done == bytes.length();
      if (r <= 0 || whole) return done != 0 ? static_cast<int>(done) : r;
    }
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }

 private:
  [[nodiscard]] bool waits() const noexcept { return (flags & MSG_DONTWAIT) == 0; }
  [[nodiscard]] int receive(std::size_t done) const noexcept {
    return static_cast<int>(or_errno(::recv(socket, static_cast<char*>(bytes.data()) + done,
                                            bytes.length() - done, flags | MSG_DONTWAIT)));
  }
};

/// send(2).
struct send_call {
  static constexpr operation_row row{.name = "send",
                                     .opcode = IORING_OP_SEND,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "inline when there is room, else by poll"};
  int socket;
  const_bytes bytes;
  int flags;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_SEND;
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(bytes.data());
    sqe.len = bytes.length();
    sqe.msg_flags = static_cast<unsigned>(flags | MSG_NOSIGNAL);
  }
  int try_nonblocking() const noexcept {
    return static_cast<int>(or_errno(
        ::send(socket, bytes.data(), bytes.length(), flags | MSG_NOSIGNAL | MSG_DONTWAIT)));
  }
  [[nodiscard]] readiness waits_for() const noexcept {
    return (flags & MSG_DONTWAIT) != 0 ? readiness{} : readiness{socket, POLLOUT};
  }
  int call(const stop_token& stop) const noexcept { return until_once(*this, stop); }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// shutdown(2).
struct shutdown_call {
  static constexpr operation_row row{.name = "shutdown",
                                     .opcode = IORING_OP_SHUTDOWN,
                                     .first = route::pool,
                                     .reason =
                                         "may wait for the socket's lock; the ring always "
                                         "punts it"};
  int socket, how;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_SHUTDOWN;
    sqe.fd = socket;
    sqe.len = static_cast<unsigned>(how);
  }
  int call(const stop_token&) const noexcept { return or_errno(::shutdown(socket, how)); }
};

}  // namespace detail

/// socket(2), close-on-exec. Yields an fd.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::socket_call> socket(
    int domain, int type, int protocol = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::socket_call>{at, domain, type, protocol};
}

/// bind(2). Copies `where`. The name of a Unix socket is a file, so that bind runs on the pool.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::bind_call> bind(
    descriptor socket, const endpoint& where,
    std::source_location at = std::source_location::current()) {
  return operation<detail::bind_call>{at, socket.get(), where};
}

/// listen(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::listen_call> listen(
    descriptor socket, int backlog = SOMAXCONN,
    std::source_location at = std::source_location::current()) {
  return operation<detail::listen_call>{at, socket.get(), backlog};
}

/// accept4(2), close-on-exec. Yields an fd; endpoint::peer_of() returns the peer's address.
/// `flags`: SOCK_NONBLOCK. On the pool, and without a ring, it leaves the listener O_NONBLOCK.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::accept_call> accept(
    descriptor listener, int flags = 0, std::source_location at = std::source_location::current()) {
  return operation<detail::accept_call>{at, listener.get(), flags};
}

/// recv(2). Yields the number of bytes; 0 if the peer has shut its side down. `bytes` is borrowed
/// until the operation has completed.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::recv_call> recv(
    descriptor socket, mutable_bytes bytes, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::recv_call>{at, socket.get(), bytes, flags};
}

/// send(2), without SIGPIPE: fails with EPIPE if the peer has closed. Yields the number of bytes
/// that the kernel took. `bytes` is borrowed until the operation has completed.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::send_call> send(
    descriptor socket, const_bytes bytes, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::send_call>{at, socket.get(), bytes, flags};
}

/// shutdown(2): SHUT_RD, SHUT_WR or SHUT_RDWR.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::shutdown_call> shutdown(
    descriptor socket, int how, std::source_location at = std::source_location::current()) {
  return operation<detail::shutdown_call>{at, socket.get(), how};
}

/// Sends all of `bytes`. Yields their number; fewer if a stop request arrived after some bytes were
/// sent.
template <class = void>
[[nodiscard("co_await it")]] task<std::size_t> send_all(descriptor socket, const_bytes bytes,
                                                        int flags = 0) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    auto const n = co_await as_result(send(socket, bytes.after(done), flags));
    if (!n && detail::keeps_part(n.error(), done)) break;
    if (!n) detail::throw_error(n.error(), "send_all");
    done += *n;
  }
  co_return done;
}

}  // namespace iowq::inline v0
