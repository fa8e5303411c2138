// SPDX-License-Identifier: BSL-1.0
// iowq/op/poll.hpp -- waits until a descriptor is ready.
#pragma once

#include <poll.h>

#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/blocking_wait.hpp>

namespace iowq::inline v0 {

namespace detail {

/// poll(2) of one descriptor.
struct poll_call {
  static constexpr operation_row row{.name = "poll",
                                     .opcode = IORING_OP_POLL_ADD,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "the kernel's own wait queue, no thread"};
  int file;
  short events;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_POLL_ADD;
    sqe.fd = file;
    sqe.poll32_events =
        ring_backend::poll_mask(static_cast<std::uint32_t>(static_cast<unsigned short>(events)));
  }
  int try_nonblocking() const noexcept { return look_for_events(file, events); }
  [[nodiscard]] readiness waits_for() const noexcept {
    // poll(2) reports errors and hang-ups even if `events` is 0; no events would mean no wait.
    return {file, static_cast<short>(events | POLLERR)};
  }
  int call(const stop_token& stop) const noexcept { return wait_for_events(file, events, stop); }
  static short value(int answer) noexcept { return static_cast<short>(answer); }
};

}  // namespace detail

/// Waits until `file` is ready for one of `events` (POLLIN, POLLOUT, POLLPRI, …). Yields the
/// events that it is ready for, including POLLERR and POLLHUP, as poll(2) does.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::poll_call> poll(
    descriptor file, short events, std::source_location at = std::source_location::current()) {
  return operation<detail::poll_call>{at, file.get(), events};
}

}  // namespace iowq::inline v0
