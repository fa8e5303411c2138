// SPDX-License-Identifier: BSL-1.0
// iowq/op/descriptor.hpp -- descriptors made of nothing, or of one another.
// Layer op; needs exec. Next in the book: op/file.hpp.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <source_location>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/exec/await.hpp>
#include <iowq/ring/compat.hpp>

namespace iowq {

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

}  // namespace iowq
