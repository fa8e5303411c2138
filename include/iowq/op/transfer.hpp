// SPDX-License-Identifier: BSL-1.0
// iowq/op/transfer.hpp -- moves bytes from one descriptor to another, inside the kernel.
//
// A transfer through a pipe or a socket may wait without bound, so a worker must not block in the
// call, where a stop request could not end the wait. For pipes, SPLICE_F_NONBLOCK makes a single
// call non-blocking. Sockets have no such flag, so a blocking socket is set to O_NONBLOCK while the
// call runs. Other iowq operations that use the socket at that time still wait as before.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/allocate.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/op/detail/file_kind.hpp>

namespace iowq::inline v0 {

/// A place in a file: an offset >= 0, or std::nullopt for the file position.
using file_offset = std::optional<std::int64_t>;

namespace detail {

/// Sets O_NONBLOCK on a blocking socket, and clears it again when destroyed. Leaves other files as
/// they are.
class nonblocking_socket {
 public:
  nonblocking_socket(int file, unsigned type) noexcept {
    if (type != S_IFSOCK) return;
    int const mode = ::fcntl(file, F_GETFL);
    if (mode < 0 || (mode & O_NONBLOCK) != 0) return;
    if (::fcntl(file, F_SETFL, mode | O_NONBLOCK) != 0) return;
    file_ = file;
    mode_ = mode;
  }
  nonblocking_socket(const nonblocking_socket&) = delete;
  nonblocking_socket& operator=(const nonblocking_socket&) = delete;
  ~nonblocking_socket() {
    if (file_ >= 0) ::fcntl(file_, F_SETFL, mode_);
  }

 private:
  int file_ = -1;
  int mode_ = 0;
};

[[nodiscard]] constexpr bool is_negative(file_offset offset) noexcept {
  return offset && *offset < 0;
}

/// copy_file_range(2).
struct copy_file_range_call {
  static constexpr operation_row row{.name = "copy_file_range",
                                     .first = route::pool,
                                     .key = "(device, inode) of the file that is written",
                                     .reason = "reads and writes the disk; has no opcode"};
  known_file from;
  file_offset from_offset;
  known_file to;
  file_offset to_offset;
  std::size_t length;
  unsigned flags;

  [[nodiscard]] int descriptor() const noexcept { return to; }
  [[nodiscard]] int second_descriptor() const noexcept { return from; }
  [[nodiscard]] int validate() const noexcept {
    return is_negative(from_offset) || is_negative(to_offset) ? -EINVAL : 0;
  }
  void choose_placement(placement& where) const noexcept { order_by_file(to, where); }
  int call(const stop_token&) const noexcept {
    ::off64_t in = from_offset.value_or(0), out = to_offset.value_or(0);
    ::ssize_t r;
    do
      r = or_errno(::copy_file_range(from, from_offset ? &in : nullptr, to,
                                     to_offset ? &out : nullptr, std::min(length, most_at_once),
                                     flags));
    while (r == -EINTR);
    return static_cast<int>(r);
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// sendfile(2).
struct sendfile_call {
  static constexpr operation_row row{
      .name = "sendfile",
      .first = route::pool,
      .key = "(device, inode) of a regular file or block device that is written",
      .reason = "reads the disk, and waits for a socket or pipe; has no opcode"};
  known_file to, from;
  file_offset offset;
  std::size_t length;

  [[nodiscard]] int descriptor() const noexcept { return to; }
  [[nodiscard]] int second_descriptor() const noexcept { return from; }
  [[nodiscard]] int validate() const noexcept { return is_negative(offset) ? -EINVAL : 0; }
  void choose_placement(placement& where) const noexcept { order_by_file(to, where); }
  [[nodiscard]] bool is_unbound() const noexcept { return !to.is_stored(); }

  int call(const stop_token& stop) const noexcept {
    unsigned const in = from.type(), out = to.type();
    nonblocking_socket const mode{to, out};
    // sendfile(2) into a pipe is a splice without SPLICE_F_NONBLOCK, so call splice(2) with it. For
    // an input that is a pipe or socket call sendfile(2), so that it refuses what it always does.
    bool const to_pipe = out == S_IFIFO && in != S_IFIFO && in != S_IFSOCK;
    std::size_t const most = std::min(length, most_at_once);
    ::off64_t at = offset.value_or(0);
    ::off64_t* const where = offset ? &at : nullptr;
    auto const once = [&](std::size_t count) {
      auto const r = to_pipe ? ::splice(from, where, to, nullptr, count, SPLICE_F_NONBLOCK)
                             : ::sendfile64(to, from, where, count);
      return static_cast<int>(or_errno(r));
    };
    std::size_t done = 0;
    for (;;) {
      int const r = until_ready(to, POLLOUT, stop, [&] { return once(most - done); });
      if (r > 0) done += static_cast<std::size_t>(r);
      // As sendfile(2) does: all bytes to a socket, but to a pipe only as many as it has room for.
      bool const goes_on = r > 0 && out == S_IFSOCK && done < most && !stop.stop_requested();
      if (!goes_on) return done != 0 ? static_cast<int>(done) : r;
    }
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// Base of splice_call and tee_call, which wait for either of their two descriptors.
struct pipe_to_pipe {
  known_file from, to;
  unsigned flags;

  [[nodiscard]] bool is_nonblocking() const noexcept { return (flags & SPLICE_F_NONBLOCK) != 0; }
  [[nodiscard]] bool would_block(int answer) const noexcept {
    return answer == -EAGAIN && !is_nonblocking();
  }

  template <class Once>
  int wait_and(const stop_token& stop, Once&& once) const noexcept {
    unsigned const in = from.type(), out = to.type();
    nonblocking_socket const of_in{from, in}, of_out{to, out};
    for (;;) {
      int r = once(flags | SPLICE_F_NONBLOCK);
      if (r == -EINTR) continue;
      if (r != -EAGAIN || is_nonblocking()) return r;
      // EAGAIN does not name the descriptor that would block. Wait for input first, then for room:
      // both conditions last, so the first still holds after the second wait.
      if (waits(in) && (r = wait_for_events(from, POLLIN, stop)) < 0) return r;
      if (waits(out) && (r = wait_for_events(to, POLLOUT, stop)) < 0) return r;
    }
  }

 private:
  static bool waits(unsigned type) noexcept { return type != S_IFREG && type != S_IFBLK; }
};

/// splice(2).
struct splice_call : pipe_to_pipe {
  static constexpr operation_row row{
      .name = "splice",
      .opcode = IORING_OP_SPLICE,
      .first = route::pool,
      .unbound = true,
      .key = "none: while it waits for the pipe, writes to the file must not wait for it",
      .reason = "may wait for either end; the ring always punts it"};
  splice_call(known_file in, file_offset in_offset, known_file out, file_offset out_offset,
              std::size_t n, unsigned f) noexcept
      : pipe_to_pipe{in, out, f}, from_offset{in_offset}, to_offset{out_offset}, length{n} {}

  [[nodiscard]] int descriptor() const noexcept { return to; }
  [[nodiscard]] int second_descriptor() const noexcept { return from; }
  [[nodiscard]] int validate() const noexcept {
    return is_negative(from_offset) || is_negative(to_offset) ? -EINVAL : 0;
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_SPLICE;
    sqe.fd = to;
    sqe.off = static_cast<std::uint64_t>(to_offset.value_or(-1));
    sqe.splice_fd_in = from;
    sqe.splice_off_in = static_cast<std::uint64_t>(from_offset.value_or(-1));
    sqe.len = static_cast<unsigned>(std::min(length, most_at_once));
    sqe.splice_flags = flags;
  }
  int call(const stop_token& stop) const noexcept {
    return wait_and(stop, [this](unsigned how) {
      ::off64_t in = from_offset.value_or(0), out = to_offset.value_or(0);
      return static_cast<int>(
          or_errno(::splice(from, from_offset ? &in : nullptr, to, to_offset ? &out : nullptr,
                            std::min(length, most_at_once), how)));
    });
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }

  file_offset from_offset, to_offset;
  std::size_t length;
};

/// tee(2).
struct tee_call : pipe_to_pipe {
  static constexpr operation_row row{
      .name = "tee",
      .opcode = IORING_OP_TEE,
      .first = route::pool,
      .unbound = true,
      .reason = "may wait for either pipe; the ring always punts it"};
  tee_call(known_file in, known_file out, std::size_t n, unsigned f) noexcept
      : pipe_to_pipe{in, out, f}, length{n} {}

  [[nodiscard]] int descriptor() const noexcept { return to; }
  [[nodiscard]] int second_descriptor() const noexcept { return from; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_TEE;
    sqe.fd = to;
    sqe.splice_fd_in = from;
    sqe.len = static_cast<unsigned>(std::min(length, most_at_once));
    sqe.splice_flags = flags;
  }
  int call(const stop_token& stop) const noexcept {
    return wait_and(stop, [this](unsigned how) {
      return static_cast<int>(or_errno(::tee(from, to, std::min(length, most_at_once), how)));
    });
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }

  std::size_t length;
};

}  // namespace detail

/// copy_file_range(2): copies `length` bytes from one file to another, by sharing blocks if the
/// file system can. Yields the number of bytes, which may be fewer; 0 at the end of `from`. Without
/// an offset the file position is used and advanced. Ordered with writes to the same file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::copy_file_range_call> copy_file_range(
    detail::known_descriptor from, file_offset from_offset, detail::known_descriptor to,
    file_offset to_offset, std::size_t length, unsigned flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::copy_file_range_call>{
      at, detail::copy_file_range_call{from, from_offset, to, to_offset, length, flags}};
}

/// sendfile(2): sends `length` bytes of a file to a socket, pipe or file. Yields the number of
/// bytes sent. A socket gets all of them, unless the file ends, or a stop request comes after some
/// have been sent.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::sendfile_call> sendfile(
    detail::known_descriptor to, detail::known_descriptor from, file_offset offset,
    std::size_t length, std::source_location at = std::source_location::current()) {
  return operation<detail::sendfile_call>{at, detail::sendfile_call{to, from, offset, length}};
}

/// splice(2): moves at most `length` bytes into or out of a pipe. Yields the number of bytes; 0
/// when the input has ended. Only the descriptor that is not a pipe can have an offset. Not ordered
/// with writes to the same file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::splice_call> splice(
    detail::known_descriptor from, file_offset from_offset, detail::known_descriptor to,
    file_offset to_offset, std::size_t length, unsigned flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::splice_call>{at, from, from_offset, to, to_offset, length, flags};
}

/// tee(2): copies at most `length` bytes from one pipe to another, without consuming them. Yields
/// the number of bytes.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::tee_call> tee(
    detail::known_descriptor from, detail::known_descriptor to, std::size_t length,
    unsigned flags = 0, std::source_location at = std::source_location::current()) {
  return operation<detail::tee_call>{at, from, to, length, flags};
}

}  // namespace iowq::inline v0
