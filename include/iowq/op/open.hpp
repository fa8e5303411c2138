// SPDX-License-Identifier: BSL-1.0
// iowq/op/open.hpp -- open, close, dup, pipe.
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

/// openat2(2). A plain open() is the same with its odd flags forgiven, as the kernel does.
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
  /// EAGAIN: not cached. ENXIO: a FIFO without a reader, tried without blocking; open(2) waits.
  [[nodiscard]] bool is_unsure(int answer) const noexcept {
    return answer == -EAGAIN || (answer == -ENXIO && (how.flags & O_NONBLOCK) == 0);
  }
  [[nodiscard]] bool would_block(int answer) const noexcept { return !whole && is_unsure(answer); }
  /// As the ring does it: what is cached, and without waiting for the other end of a FIFO.
  int try_nonblocking() noexcept {
    constexpr std::uint64_t own = O_NONBLOCK | O_PATH;  // with these it needs not be told
    asked = how;
    asked.resolve |= resolve_cached;
    if ((how.flags & own) == 0) asked.flags |= O_NONBLOCK;
    int const r = open(asked);
    if (r >= 0 && asked.flags != how.flags) ::fcntl(r, F_SETFL, ::fcntl(r, F_GETFL) & ~O_NONBLOCK);
    // EINVAL: before 5.12 nobody can ask for what is cached. Or the flags are wrong: the worker
    // will say so.
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
  ::open_how asked{};  // what the SQE points at
  bool whole = false;  // not a probe: the kernel's own workers may open it
};

[[nodiscard]] inline ::open_how how_of(int flags, ::mode_t mode) noexcept {
  // What open(2) ignores, openat2(2) refuses: a mode without creating, flags beside O_PATH.
  constexpr std::uint64_t path_flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  ::open_how how{};
  how.flags = static_cast<unsigned>(flags);
  if ((how.flags & O_PATH) != 0) how.flags &= path_flags;
  if ((how.flags & O_CREAT) != 0 || (how.flags & O_TMPFILE) == O_TMPFILE) how.mode = mode & 07777;
  return how;
}

/// close(2): never retried, not stopped by a stop request. Closes even if it is never awaited.
struct close_call {
  static constexpr operation_row row{
      .name = "close",
      .opcode = IORING_OP_CLOSE,
      .first = route::pool,
      .cancellable = false,
      .reason =
          "the ring closes inline, and blocks: a draining_stop socket, the last reference of a "
          "deleted file"};
  explicit close_call(fd owned) noexcept : file{std::move(owned)}, number{file.get()} {}

  [[nodiscard]] int descriptor() const noexcept { return number; }
  static void closes_descriptor() noexcept {}
  [[nodiscard]] int validate() const noexcept { return number >= 0 ? 0 : -EBADF; }
  void prepare(io_uring_sqe& sqe) noexcept {
    sqe.opcode = IORING_OP_CLOSE;
    sqe.flags |= IOSQE_ASYNC;  // or the owner would do it, and block
    sqe.fd = file.release();
  }
  [[nodiscard]] bool would_block(int) const noexcept { return false; }
  int call(const stop_token&) noexcept { return or_errno(::close(file.release())); }

  fd file;
  int const number;  // what it was: who asks for it cannot ask a worker for the fd
};

}  // namespace detail

/// open(2), relative to the working directory; always close-on-exec. Yields an fd.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::open_call> open(
    std::string_view path, int flags, ::mode_t mode = 0666,
    std::source_location at = std::source_location::current()) {
  return operation<detail::open_call>{at, AT_FDCWD, path, detail::how_of(flags, mode)};
}

/// openat(2): relative to `directory`, which stays open until it has ended.
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

/// close(2). Takes the descriptor over: it is closed once, whatever is reported. Operations of this
/// executor that are in flight on it are cancelled first, and awaited: a punted one that nothing
/// stops, as an fsync, holds the close up. None may begin meanwhile.
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

}  // namespace iowq::inline v0

namespace iowq::inline v0 {

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
    sqe.open_flags = static_cast<unsigned>(flags);  // pipe_flags, in the same place
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

/// pipe2(2), close-on-exec; `flags`: O_NONBLOCK, O_DIRECT. Yields the end to read and the end to
/// write, as a pair of fds. Not `auto [in, out] = co_await`: g++ 15 and 16 then destroy neither
/// (GCC bug 124584).
///
///     auto ends = co_await iowq::pipe();   // ends.first, ends.second
template <class = void>
[[nodiscard("co_await it")]] operation<detail::pipe_call> pipe(
    int flags = 0, std::source_location at = std::source_location::current()) {
  return operation<detail::pipe_call>{at, flags};
}

}  // namespace iowq::inline v0
