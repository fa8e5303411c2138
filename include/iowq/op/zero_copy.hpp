// SPDX-License-Identifier: BSL-1.0
// iowq/op/zero_copy.hpp -- zero-copy sends.
//
// The network card reads the program's own pages, and a retransmission may read them again. So the
// kernel posts two CQEs: one with the count, and a notification when it no longer needs the pages.
// Only the notification completes the operation and gives the buffer back to the caller. Where zero
// copy is unavailable (before 6.0, or for this kind of socket) the operation is an ordinary send.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/message.hpp>
#include <iowq/op/socket.hpp>

namespace iowq::inline v0 {

namespace detail {

/// Returns true if the running kernel has `opcode` and the socket supports zero copy.
[[nodiscard]] inline bool lends_pages(int socket, int opcode) noexcept {
  if (!loop::current().backend().features().has(opcode)) return false;
  int family = AF_UNSPEC;
  ::socklen_t size = sizeof family;
  if (::getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0) return false;
  return family == AF_INET || family == AF_INET6;
}

/// send(2) without a copy.
struct send_zc_call : send_call {
  static constexpr operation_row row{.name = "send_zc",
                                     .opcode = IORING_OP_SEND,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason =
                                         "SEND_ZC (47) where the kernel has it and the socket "
                                         "is IPv4 or IPv6, else as send; ends when the kernel "
                                         "no longer needs the bytes"};
  void prepare(io_uring_sqe& sqe) const noexcept {
    send_call::prepare(sqe);
    if (lends_pages(socket, IORING_OP_SEND_ZC)) sqe.opcode = IORING_OP_SEND_ZC;
  }
  /// Some sockets refuse zero copy only when they send (EOPNOTSUPP); send(2) then works.
  [[nodiscard]] static bool would_block(int answer) noexcept {
    return answer == -EAGAIN || answer == -EOPNOTSUPP;
  }
};

/// sendmsg(2) without a copy.
struct sendmsg_zc_call : sendmsg_call {
  static constexpr operation_row row{.name = "sendmsg_zc",
                                     .opcode = IORING_OP_SENDMSG,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "SENDMSG_ZC (48, 6.1), as send_zc"};
  void prepare(io_uring_sqe& sqe) const noexcept {
    sendmsg_call::prepare(sqe);
    if (lends_pages(socket, IORING_OP_SENDMSG_ZC)) sqe.opcode = IORING_OP_SENDMSG_ZC;
  }
  [[nodiscard]] static bool would_block(int answer) noexcept {
    return send_zc_call::would_block(answer);
  }
};

}  // namespace detail

/// send(2) without a copy, and without SIGPIPE. Yields the number of bytes that the kernel took,
/// and only once it no longer needs them: on TCP, when the peer has acknowledged them, however long
/// that takes. `bytes` is borrowed until then. A stop request does not shorten the wait for bytes
/// that were taken. Pays off for sends of about 10 KiB or more.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::send_zc_call> send_zc(
    descriptor socket, const_bytes bytes, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::send_zc_call>{
      at, detail::send_zc_call{{.socket = socket.get(), .bytes = bytes, .flags = flags}}};
}

/// sendmsg(2), as send_zc(). The msghdr is copied; the memory that it points at is borrowed until
/// the operation has completed.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::sendmsg_zc_call> sendmsg_zc(
    descriptor socket, const ::msghdr& message, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::sendmsg_zc_call>{
      at, detail::sendmsg_zc_call{{.socket = socket.get(), .message = message, .flags = flags}}};
}

}  // namespace iowq::inline v0
