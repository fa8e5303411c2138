// SPDX-License-Identifier: BSL-1.0
// iowq/op/message.hpp -- messages with addresses and ancillary data.
#pragma once

#include <limits.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <span>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/op/endpoint.hpp>

namespace iowq::inline v0 {

/// The result of recvfrom(): the number of bytes received, and the address of the sender.
struct datagram {
  std::size_t size = 0;
  endpoint from;
};

namespace detail {

/// The readiness that a call with these flags waits for; none with MSG_DONTWAIT.
[[nodiscard]] inline readiness message_waits_for(int socket, short events, int flags) noexcept {
  return (flags & MSG_DONTWAIT) != 0 ? readiness{} : readiness{socket, events};
}

[[nodiscard]] inline int send_message(int socket, const ::msghdr& message, int flags) noexcept {
  return static_cast<int>(
      or_errno(::sendmsg(socket, &message, flags | MSG_NOSIGNAL | MSG_DONTWAIT)));
}
/// Receives once, without blocking. Returns -EOPNOTSUPP for a receive with MSG_WAITALL, which may
/// take several rounds and is left to a worker.
[[nodiscard]] inline int receive_message(int socket, ::msghdr& message, int flags) noexcept {
  if ((flags & MSG_DONTWAIT) == 0 && waits_for_all(socket, flags)) return -EOPNOTSUPP;
  return static_cast<int>(
      or_errno(::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC | MSG_DONTWAIT)));
}

/// Removes the first `n` bytes from `parts`.
[[nodiscard]] inline std::span<::iovec> without(std::span<::iovec> parts, std::size_t n) noexcept {
  while (!parts.empty() && n >= parts.front().iov_len) {
    n -= parts.front().iov_len;
    parts = parts.subspan(1);
  }
  if (n != 0) {
    parts.front().iov_base = static_cast<char*>(parts.front().iov_base) + n;
    parts.front().iov_len -= n;
  }
  return parts;
}

[[nodiscard]] inline int receive_message(int socket, ::msghdr& message, int flags,
                                         const stop_token& stop) noexcept {
  auto const once = [&](::msghdr& into) {
    return static_cast<int>(
        or_errno(::recvmsg(socket, &into, flags | MSG_CMSG_CLOEXEC | MSG_DONTWAIT)));
  };
  if ((flags & MSG_DONTWAIT) != 0) return once(message);
  std::size_t const parts = message.msg_iovlen, ancillary = message.msg_controllen;
  int r = until_ready(socket, POLLIN, stop, [&] { return once(message); });
  if (r <= 0 || parts > IOV_MAX || !waits_for_all(socket, flags)) return r;
  // MSG_WAITALL may take several rounds. As in the kernel, ancillary data ends the rounds: it
  // belongs to the bytes received so far, and not to those that follow.
  ::iovec copy[IOV_MAX];
  std::copy_n(message.msg_iov, parts, copy);
  std::span<::iovec> rest = without({copy, parts}, static_cast<std::size_t>(r));
  int done = r;
  while (r > 0 && !rest.empty() && message.msg_controllen == 0) {
    ::msghdr more{};
    more.msg_iov = rest.data();
    more.msg_iovlen = rest.size();
    more.msg_control = message.msg_control;
    more.msg_controllen = ancillary;
    r = until_ready(socket, POLLIN, stop, [&] { return once(more); });
    if (r <= 0) break;
    message.msg_controllen = more.msg_controllen;
    message.msg_flags |= more.msg_flags;
    done += r;
    rest = without(rest, static_cast<std::size_t>(r));
  }
  return done;
}

/// sendmsg(2).
struct sendmsg_call {
  static constexpr operation_row row{.name = "sendmsg",
                                     .opcode = IORING_OP_SENDMSG,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "inline when there is room, else by poll"};
  int socket;
  ::msghdr message;
  int flags;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_SENDMSG;
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(&message);
    sqe.len = 1;
    sqe.msg_flags = static_cast<unsigned>(flags | MSG_NOSIGNAL);
  }
  int try_nonblocking() const noexcept { return send_message(socket, message, flags); }
  [[nodiscard]] readiness waits_for() const noexcept {
    return message_waits_for(socket, POLLOUT, flags);
  }
  int call(const stop_token& stop) const noexcept { return until_once(*this, stop); }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// recvmsg(2).
struct recvmsg_call {
  static constexpr operation_row row{.name = "recvmsg",
                                     .opcode = IORING_OP_RECVMSG,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "inline when data waits, else by poll"};
  int socket;
  ::msghdr* message;
  int flags;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  [[nodiscard]] bool supported_by(const ring_features& kernel) const noexcept {
    return ring_keeps(flags, kernel);
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_RECVMSG;
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(message);
    sqe.len = 1;
    sqe.msg_flags = static_cast<unsigned>(flags | MSG_CMSG_CLOEXEC);
  }
  int try_nonblocking() const noexcept { return receive_message(socket, *message, flags); }
  [[nodiscard]] readiness waits_for() const noexcept {
    return message_waits_for(socket, POLLIN, flags);
  }
  int call(const stop_token& stop) const noexcept {
    return receive_message(socket, *message, flags, stop);
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// sendto(2), which on the ring is a sendmsg of one part.
struct sendto_call {
  static constexpr operation_row row{.name = "sendto",
                                     .opcode = IORING_OP_SENDMSG,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "inline when there is room, else by poll"};
  sendto_call(int s, const_bytes b, const endpoint& to, int f) noexcept
      : socket{s}, bytes{b}, where{to}, flags{f} {}

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void prepare(io_uring_sqe& sqe) noexcept {
    fill();
    sqe.opcode = IORING_OP_SENDMSG;
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(&message);
    sqe.len = 1;
    sqe.msg_flags = static_cast<unsigned>(flags | MSG_NOSIGNAL);
  }
  int try_nonblocking() noexcept {
    fill();
    return send_message(socket, message, flags);
  }
  [[nodiscard]] readiness waits_for() const noexcept {
    return message_waits_for(socket, POLLOUT, flags);
  }
  int call(const stop_token& stop) noexcept { return until_once(*this, stop); }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }

  void fill() noexcept {
    part = {const_cast<void*>(bytes.data()), bytes.size()};
    message.msg_name = const_cast<::sockaddr*>(where.address());
    message.msg_namelen = where.size();
    message.msg_iov = &part;
    message.msg_iovlen = 1;
  }
  int socket;
  const_bytes bytes;
  endpoint where;
  int flags;
  ::iovec part{};
  ::msghdr message{};
};

/// recvfrom(2), which on the ring is a recvmsg of one part.
struct recvfrom_call {
  static constexpr operation_row row{.name = "recvfrom",
                                     .opcode = IORING_OP_RECVMSG,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "inline when data waits, else by poll"};
  recvfrom_call(int s, mutable_bytes b, int f) noexcept : socket{s}, bytes{b}, flags{f} {}

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  [[nodiscard]] bool supported_by(const ring_features& kernel) const noexcept {
    return ring_keeps(flags, kernel);
  }
  void prepare(io_uring_sqe& sqe) noexcept {
    fill();
    sqe.opcode = IORING_OP_RECVMSG;
    sqe.fd = socket;
    sqe.addr = reinterpret_cast<std::uintptr_t>(&message);
    sqe.len = 1;
    sqe.msg_flags = static_cast<unsigned>(flags);
  }
  int try_nonblocking() noexcept {
    fill();
    return receive_message(socket, message, flags);
  }
  [[nodiscard]] readiness waits_for() const noexcept {
    return message_waits_for(socket, POLLIN, flags);
  }
  int call(const stop_token& stop) noexcept {
    fill();
    return receive_message(socket, message, flags, stop);
  }
  [[nodiscard]] datagram value(int answer) const noexcept {
    return {static_cast<std::size_t>(answer),
            endpoint{reinterpret_cast<const ::sockaddr*>(&from), message.msg_namelen}};
  }

  void fill() noexcept {
    part = {bytes.data(), bytes.size()};
    message.msg_name = &from;
    message.msg_namelen = sizeof from;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
  }
  int socket;
  mutable_bytes bytes;
  int flags;
  ::iovec part{};
  ::msghdr message{};
  ::sockaddr_storage from{};
};

}  // namespace detail

/// sendmsg(2), without SIGPIPE. The msghdr is copied; the memory that it points at is borrowed
/// until the operation has completed. Yields the number of bytes that the kernel took.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::sendmsg_call> sendmsg(
    descriptor socket, const ::msghdr& message, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::sendmsg_call>{at, detail::sendmsg_call{socket.get(), message, flags}};
}

/// recvmsg(2). `message` is borrowed until the operation has completed; it then holds the address,
/// the ancillary data and the flags received. Received descriptors are close-on-exec. Yields the
/// number of bytes; 0 if the peer has shut its side down.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::recvmsg_call> recvmsg(
    descriptor socket, ::msghdr& message, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::recvmsg_call>{at, detail::recvmsg_call{socket.get(), &message, flags}};
}

/// sendto(2), without SIGPIPE. Copies `where`. Yields the number of bytes that the kernel took.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::sendto_call> sendto(
    descriptor socket, const_bytes bytes, const endpoint& where, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::sendto_call>{at, socket.get(), bytes, where, flags};
}

/// recvfrom(2). Yields a datagram: the number of bytes, and the address of the sender.
///
///     auto [size, from] = co_await iowq::recvfrom(socket, buffer);
template <class = void>
[[nodiscard("co_await it")]] operation<detail::recvfrom_call> recvfrom(
    descriptor socket, mutable_bytes bytes, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::recvfrom_call>{at, socket.get(), bytes, flags};
}

}  // namespace iowq::inline v0
