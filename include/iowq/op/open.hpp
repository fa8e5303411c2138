// SPDX-License-Identifier: BSL-1.0
// iowq/op/open.hpp -- creates and closes descriptors: open, close, dup, pipe.
#pragma once

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <source_location>
#include <string_view>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/path_text.hpp>
#include <iowq/ring/detail/compat.hpp>

namespace iowq::inline v0 {

namespace detail {

/// openat2(2). A plain open() uses it also: how_of() first removes the flags and the mode that
/// open(2) would ignore, as the kernel does.
struct open_call {
  static constexpr operation_row row{
      .name = "open",
      .opcode = IORING_OP_OPENAT2,
      .first = route::ring,
      .late = discard::close_descriptor,
      .reason =
          "a cached path opens inline (RESOLVE_CACHED); uncached, O_CREAT, O_TRUNC and "
          "O_TMPFILE ones block, so they go to the pool"};
  open_call(int dir, std::string_view name, const ::open_how& wanted)
      : directory{dir}, path{name}, how{wanted} {
    how.flags |= O_CLOEXEC;
  }
  open_call(open_call&&) noexcept = default;

  [[nodiscard]] int descriptor() const noexcept { return directory; }
  [[nodiscard]] int validate() const noexcept { return path.validate(); }
  void choose_placement(placement& where) const noexcept {
    if (creates()) where.way = route::pool;
  }
  void allow_kernel_blocking() noexcept { whole = true; }
  void prepare(io_uring_sqe& sqe) noexcept {
    asked = how;
    if (!whole) asked.resolve |= resolve_cached;
    sqe.opcode = IORING_OP_OPENAT2;
    sqe.fd = directory;
    sqe.addr = reinterpret_cast<std::uintptr_t>(path.c_str());
    sqe.len = sizeof asked;
    sqe.off = reinterpret_cast<std::uintptr_t>(&asked);
  }
  /// EAGAIN: the path is not cached. ENXIO: the path is a FIFO without a reader, and the attempt
  /// did not block; open(2) would wait for a reader.
  [[nodiscard]] bool is_unsure(int answer) const noexcept {
    return answer == -EAGAIN || (answer == -ENXIO && (how.flags & O_NONBLOCK) == 0);
  }
  [[nodiscard]] bool would_block(int answer) const noexcept { return !whole && is_unsure(answer); }
  /// As the ring does: opens only a cached path, and does not wait for the other end of a FIFO.
  int try_nonblocking() noexcept {
    constexpr std::uint64_t own = O_NONBLOCK | O_PATH;  // with either, open does not wait
    asked = how;
    asked.resolve |= resolve_cached;
    if ((how.flags & own) == 0) asked.flags |= O_NONBLOCK;
    int const r = open(asked);
    if (r >= 0 && asked.flags != how.flags) ::fcntl(r, F_SETFL, ::fcntl(r, F_GETFL) & ~O_NONBLOCK);
    // EINVAL: kernels before 5.12 do not know RESOLVE_CACHED. Or the flags are invalid, and then
    // the worker's call reports that.
    bool const is_answer = r >= 0 || (r != -EINVAL && r != -EINTR && !is_unsure(r));
    return is_answer ? r : -EOPNOTSUPP;
  }
  int call(const stop_token&) noexcept { return open(how); }
  static fd value(int answer) noexcept { return fd{answer}; }

  /// O_TMPFILE holds O_DIRECTORY's bit.
  [[nodiscard]] bool creates() const noexcept {
    return (how.flags & (O_CREAT | O_TRUNC)) != 0 || (how.flags & O_TMPFILE) == O_TMPFILE;
  }

  [[nodiscard]] int open(const ::open_how& by) const noexcept {
    return static_cast<int>(
        or_errno(::syscall(SYS_openat2, directory, path.c_str(), &by, sizeof by)));
  }

  static constexpr std::uint64_t resolve_cached = 0x20;
  int directory;
  path_text path;
  ::open_how how;
  ::open_how asked{};  // the SQE points at it
  bool whole = false;  // not restricted to cached paths: the kernel's own workers may open it
};

[[nodiscard]] inline ::open_how how_of(int flags, ::mode_t mode) noexcept {
  // openat2(2) refuses arguments that open(2) ignores: a mode without creating a file, and most
  // flags next to O_PATH.
  constexpr std::uint64_t path_flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  ::open_how how{};
  how.flags = static_cast<unsigned>(flags);
  if ((how.flags & O_PATH) != 0) how.flags &= path_flags;
  if ((how.flags & O_CREAT) != 0 || (how.flags & O_TMPFILE) == O_TMPFILE) how.mode = mode & 07777;
  return how;
}

/// close(2): never retried, and not cancelled by a stop request. If the operation is never awaited,
/// its destructor closes the descriptor.
struct close_call {
  static constexpr operation_row row{
      .name = "close",
      .opcode = IORING_OP_CLOSE,
      .first = route::pool,
      .cancellable = false,
      .reason =
          "the ring closes inline, and blocks: a lingering socket, the last reference of a "
          "deleted file"};
  explicit close_call(fd owned) noexcept : file{std::move(owned)}, number{file.get()} {}

  [[nodiscard]] int descriptor() const noexcept { return number; }
  static void closes_descriptor() noexcept {}
  [[nodiscard]] int validate() const noexcept { return number >= 0 ? 0 : -EBADF; }
  void prepare(io_uring_sqe& sqe) noexcept {
    sqe.opcode = IORING_OP_CLOSE;
    sqe.flags |= IOSQE_ASYNC;  // otherwise the owner thread would close the file, and block
    sqe.fd = file.release();
  }
  [[nodiscard]] bool would_block(int) const noexcept { return false; }
  int call(const stop_token&) noexcept { return or_errno(::close(file.release())); }

  fd file;
  int const number;  // a copy for the owner's use, since a worker may be releasing `file`
};

}  // namespace detail

/// open(2), relative to the working directory; always close-on-exec. Yields an fd. The path is
/// copied.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::open_call> open(
    std::string_view path, int flags, ::mode_t mode = 0666,
    std::source_location at = std::source_location::current()) {
  return operation<detail::open_call>{at, AT_FDCWD, path, detail::how_of(flags, mode)};
}

/// openat(2): relative to `directory`, which must stay open until the operation has completed.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::open_call> openat(
    descriptor directory, std::string_view path, int flags, ::mode_t mode = 0666,
    std::source_location at = std::source_location::current()) {
  return operation<detail::open_call>{at, directory.get(), path, detail::how_of(flags, mode)};
}

/// openat2(2): with RESOLVE_BENEATH and friends. O_CLOEXEC is added.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::open_call> openat2(
    descriptor directory, std::string_view path, const ::open_how& how,
    std::source_location at = std::source_location::current()) {
  return operation<detail::open_call>{at, directory.get(), path, how};
}

/// close(2). Takes ownership of the descriptor, which is closed exactly once, even if the call
/// reports an error. Operations of this executor that are in flight on the descriptor are cancelled
/// first, and the close waits for them: a punted operation that cannot be interrupted, such as an
/// fsync, delays it. Do not start new operations on the descriptor while the close is in progress.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::close_call> close(
    fd file, std::source_location at = std::source_location::current()) {
  return operation<detail::close_call>{at, std::move(file)};
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::close_call> close(
    int number, std::source_location at = std::source_location::current()) {
  return close(fd{number}, at);
}

namespace detail {

/// dup(2), close-on-exec.
struct dup_call {
  static constexpr operation_row row{.name = "dup",
                                     .first = route::inline_,
                                     .late = discard::close_descriptor,
                                     .reason = "a slot in the table of descriptors"};
  int file;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  int call(const stop_token&) const noexcept { return or_errno(::fcntl(file, F_DUPFD_CLOEXEC, 0)); }
  static fd value(int answer) noexcept { return fd{answer}; }
};

/// pipe2(2).
struct pipe_call {
  static constexpr operation_row row{.name = "pipe",
                                     .opcode = compat::op_pipe,
                                     .first = route::inline_,
                                     .late = discard::close_descriptor,
                                     .reason = "allocates, waits for nothing"};
  explicit pipe_call(int f) noexcept : flags{f | O_CLOEXEC} {}

  void prepare(io_uring_sqe& sqe) noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_pipe);
    sqe.addr = reinterpret_cast<std::uintptr_t>(ends);
    sqe.open_flags = static_cast<unsigned>(flags);  // pipe_flags, at the same offset
  }
  int call(const stop_token&) noexcept { return or_errno(::pipe2(ends, flags)); }
  [[nodiscard]] std::pair<fd, fd> value(int) const noexcept { return {fd{ends[0]}, fd{ends[1]}}; }

  int flags;
  int ends[2] = {-1, -1};
};

}  // namespace detail

/// dup(2): another descriptor of the same open file, close-on-exec. Yields an fd.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::dup_call> dup(
    descriptor file, std::source_location at = std::source_location::current()) {
  return operation<detail::dup_call>{at, file.get()};
}

/// pipe2(2), close-on-exec; `flags`: O_NONBLOCK, O_DIRECT. Yields the read end and the write end,
/// as a pair of fds. Do not write `auto [in, out] = co_await`: code from g++ 15 and 16 then
/// destroys neither fd (GCC bug 124584).
///
///     auto ends = co_await iowq::pipe();   // ends.first, ends.second
template <class = void>
[[nodiscard("co_await it")]] operation<detail::pipe_call> pipe(
    int flags = 0, std::source_location at = std::source_location::current()) {
  return operation<detail::pipe_call>{at, flags};
}

}  // namespace iowq::inline v0
