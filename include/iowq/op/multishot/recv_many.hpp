// SPDX-License-Identifier: BSL-1.0
// iowq/op/multishot/recv_many.hpp -- the data that a socket receives, as a stream.
//
// Where the kernel supports it (6.0), one multishot request receives until it is cancelled. The
// kernel takes a buffer when data has arrived, and the data that waits to be read is a linked list
// through the buffers. Elsewhere each receive is tried without blocking; if it would block, the
// stream polls the socket and holds no buffer while it waits.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/stream.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/detail/multishot_request.hpp>
#include <iowq/op/multishot/buffer_ring.hpp>
#include <iowq/op/poll.hpp>

namespace iowq::inline v0 {

namespace detail {

/// recv(2), multishot, into buffers that the kernel chooses.
struct recv_many_call {
  static constexpr operation_row row{.name = "recv_many",
                                     .opcode = IORING_OP_RECV,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason =
                                         "one request for all; without multishot it is tried, "
                                         "and waited for by poll"};
  static constexpr std::uint16_t none = buffer_group::none;

  recv_many_call(int from, buffer_pool& pool, bool bundles) noexcept
      : socket{from}, bundle{bundles}, buffers{pool} {
    buffers.join();
  }
  recv_many_call(const recv_many_call&) = delete;
  recv_many_call& operator=(const recv_many_call&) = delete;
  ~recv_many_call() {
    drop_all();
    buffers.leave();
  }

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_RECV;
    sqe.fd = socket;
    sqe.ioprio =
        static_cast<std::uint16_t>(IORING_RECV_MULTISHOT | (bundle ? compat::recvsend_bundle : 0));
    sqe.flags = IOSQE_BUFFER_SELECT;
    sqe.buf_group = buffers.group();
  }
  bool keep(int res, std::uint32_t flags) noexcept {
    if ((flags & IORING_CQE_F_BUFFER) == 0) return false;
    auto id = static_cast<std::uint16_t>(flags >> IORING_CQE_BUFFER_SHIFT);
    if (res <= 0) {  // the kernel picked a buffer and did not fill it
      buffers.mark_taken(id);
      buffers.give_back(id);
      return false;
    }
    for (auto left = static_cast<std::size_t>(res);; id = buffers.next_in_ring(id)) {
      std::size_t const n = std::min(left, buffers.size());
      buffers.mark_taken(id);
      buffers.length(id) = static_cast<std::uint32_t>(n);
      buffers.next(id) = none;
      (first != none ? buffers.next(last) : first) = id;
      last = id;
      if ((left -= n) == 0) return true;
    }
  }
  [[nodiscard]] bool empty() const noexcept { return first == none; }
  [[nodiscard]] static bool full() noexcept { return false; }  // the buffers are the bound
  [[nodiscard]] buffer_view take() noexcept {
    std::uint16_t const id = std::exchange(first, buffers.next(first));
    return {buffers, id, buffers.length(id)};
  }
  void drop_all() noexcept {
    while (!empty()) take().reset();
  }

  int socket;
  bool bundle;
  buffer_pool& buffers;
  std::uint16_t first = none, last = none;
};

/// Returns true if a receive of 0 bytes means the end of the stream. On a datagram socket it is an
/// empty datagram.
[[nodiscard]] inline bool ends_with_nothing(int socket) noexcept {
  int type = SOCK_STREAM;
  ::socklen_t size = sizeof type;
  static_cast<void>(::getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size));
  return type == SOCK_STREAM || type == SOCK_SEQPACKET;
}
[[nodiscard]] inline bool is_a_stream(int socket) noexcept {
  int type = 0;
  ::socklen_t size = sizeof type;
  return ::getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

/// How a stream receives on this loop: by one multishot request or by single receives, and whether
/// one CQE may be for several buffers (a bundle).
struct receive_mode {
  bool by_one_request, bundle;
};
[[nodiscard]] IOWQ_NOINLINE inline receive_mode ways_of(buffer_pool& pool, int socket) noexcept {
  loop& here = loop::current();
  bool const one = pool.offer_to(here);
  // No bundles on a datagram socket: one bundle would be one datagram.
  return {one, one && here.backend().features().bundles() && is_a_stream(socket)};
}

/// recv(2) into buffer `id`, without blocking. Returns the number of bytes or -errno.
[[nodiscard]] IOWQ_NOINLINE inline int receive_now(int socket, buffer_pool& into,
                                                   std::uint16_t id) noexcept {
  for (;;) {
    int const r =
        static_cast<int>(or_errno(::recv(socket, into.data(id), into.size(), MSG_DONTWAIT)));
    if (r == -EINTR) continue;
    if (r != -EAGAIN) loop::current().count<recv_many_call::row>(&operation_stats::inline_ops);
    return r;
  }
}

/// Keeps the pool alive while a stream uses it.
class pool_user {
 public:
  explicit pool_user(buffer_pool& pool) noexcept : pool_{&pool} { pool.join(); }
  pool_user(const pool_user& other) noexcept : pool_user{*other.pool_} {}
  pool_user& operator=(const pool_user&) = delete;
  ~pool_user() { pool_->leave(); }
  [[nodiscard]] buffer_pool& pool() const noexcept { return *pool_; }

 private:
  buffer_pool* pool_;
};

/// Receives by single operations. `ends`: a receive of 0 bytes ends the stream.
template <class = void>
stream<buffer_view> receive_singly(int socket, pool_user user, bool ends, std::source_location at) {
  constexpr unsigned most_in_a_row = 16;  // then yields to other coroutines
  buffer_pool& pool = user.pool();
  for (unsigned in_a_row = 0;;) {
    stop_token const stop = co_await ambient_stop();
    if (stop.stop_requested()) throw_error(-ECANCELED, "recv_many");
    std::uint16_t const id = pool.take();
    if (id == buffer_group::none) {
      co_await buffer_wait{pool, at};
      continue;
    }
    int const n = receive_now(socket, pool, id);
    buffer_view one{pool, id, n > 0 ? static_cast<std::size_t>(n) : 0};
    if (n == -EAGAIN) {
      one.reset();
      in_a_row = 0;
      static_cast<void>(co_await poll(socket, POLLIN, at));
      continue;
    }
    if (n < 0) throw_error(n, "recv_many");
    if (n == 0 && ends) co_return;
    co_yield std::move(one);
    if (++in_a_row % most_in_a_row == 0) co_await yield();
  }
}

/// Receives by one multishot request where the kernel supports it, else by single operations.
template <class = void>
stream<buffer_view> receive_many(int socket, pool_user user, std::source_location at) {
  buffer_pool& pool = user.pool();
  bool const ends = ends_with_nothing(socket);
  receive_mode const way = ways_of(pool, socket);
  if (!way.by_one_request) {
    auto each = receive_singly(socket, user, ends, at);
    while (auto one = co_await each.next()) co_yield std::move(*one);
    co_return;
  }
  multishot_owner<recv_many_call> all{at, socket, pool, way.bundle};
  for (;;) {
    co_await all->next(at);
    if (all->has_answer()) {
      buffer_view one = all->call().take();
      co_yield std::move(one);
      continue;
    }
    int const end = all->take_end();
    if (end == 0 && ends) co_return;
    if (end == 0) {
      buffer_view nothing;
      co_yield std::move(nothing);
    } else if (end == -ENOBUFS) {
      co_await buffer_wait{pool, at};
    } else if (end == -EAGAIN) {  // O_NONBLOCK
      static_cast<void>(co_await poll(socket, POLLIN, at));
    } else if (end < 0) {
      throw_error(end, "recv_many");
    }
  }
}

}  // namespace detail

/// A stream of the data received on `socket`, in order; each item is a lease on one of `buffers`.
/// Ends when the peer has shut its side down. Datagrams are truncated to the buffer size. The
/// stream pauses while no buffer is free and resumes when a lease is destroyed. No data is lost,
/// but holding every lease while awaiting the next item deadlocks. Destroying the stream stops the
/// receiving and discards late data. After a stop request the stream yields the data that had
/// arrived, then throws operation_canceled.
///
///     iowq::buffer_ring buffers{256, 4096};
///     auto incoming = iowq::recv_many(socket, buffers);
///     while (auto part = co_await incoming.next()) co_await iowq::send_all(other, *part);
template <class = void>
[[nodiscard]] stream<buffer_view> recv_many(
    descriptor socket, buffer_ring& buffers,
    std::source_location at = std::source_location::current()) {
  return detail::receive_many(socket.get(), detail::pool_user{buffers.pool()}, at);
}

}  // namespace iowq::inline v0
