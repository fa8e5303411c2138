// SPDX-License-Identifier: BSL-1.0
// iowq/op/epoll.hpp -- waits for the events of an epoll instance.
#pragma once

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <span>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/ring/detail/compat.hpp>

namespace iowq::inline v0 {

namespace detail {

/// epoll_wait(2).
struct epoll_wait_call {
  static constexpr operation_row row{.name = "epoll_wait",
                                     .opcode = compat::op_epoll_wait,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "the set's own wait queue, no thread (6.15)"};
  int set;
  std::span<::epoll_event> events;

  [[nodiscard]] int descriptor() const noexcept { return set; }
  [[nodiscard]] int validate() const noexcept { return events.empty() ? -EINVAL : 0; }
  [[nodiscard]] int room() const noexcept {
    return static_cast<int>(std::min<std::size_t>(events.size(), 1U << 20));
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_epoll_wait);
    sqe.fd = set;
    sqe.addr = reinterpret_cast<std::uintptr_t>(events.data());
    sqe.len = static_cast<unsigned>(room());
  }
  int try_nonblocking() const noexcept {
    int const n = or_errno(::epoll_wait(set, events.data(), room(), 0));
    return n == 0 ? -EAGAIN : n;
  }
  [[nodiscard]] readiness waits_for() const noexcept { return {set, POLLIN}; }
  int call(const stop_token& stop) const noexcept { return until_once(*this, stop); }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

}  // namespace detail

/// epoll_wait(2): waits until a descriptor in the set is ready. Yields the number of events written
/// to `events`, at least one. `events` is borrowed until the operation has completed. Fails with
/// invalid_argument if `events` is empty.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::epoll_wait_call> epoll_wait(
    descriptor set, std::span<::epoll_event> events,
    std::source_location at = std::source_location::current()) {
  return operation<detail::epoll_wait_call>{at, set.get(), events};
}

}  // namespace iowq::inline v0
