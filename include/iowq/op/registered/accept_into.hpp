// SPDX-License-Identifier: BSL-1.0
// iowq/op/registered/accept_into.hpp -- accept into a slot, close and dup of registered files.
//
// There is no accept_many() into slots. With a multishot accept the kernel picks the slot after it
// has accepted, and closes the connection if all slots are taken. accept_into() takes its slot
// first, so a connection without a slot stays in the listener's backlog.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <source_location>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/base/result.hpp>
#include <iowq/exec/detail/in_flight.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/registered/fixed_file.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/ring/detail/compat.hpp>

namespace iowq::inline v0 {

namespace detail {

/// accept4(2) into a slot.
struct accept_into_call : accept_call {
  static constexpr operation_row row{.name = "accept_into",
                                     .opcode = IORING_OP_ACCEPT,
                                     .first = route::ring,
                                     .unbound = true,
                                     .late = discard::close_descriptor,
                                     .reason = "as accept; it has its slot before it begins"};
  accept_into_call(int from, file_table& into) noexcept : accept_call{from, 0}, table{&into} {}

  [[nodiscard]] int validate() noexcept {
    direct = known_here(*table);
    return slot.take(*table) ? 0 : -ENFILE;
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    accept_call::prepare(sqe);
    if (!direct) return;
    sqe.accept_flags = 0;  // close-on-exec is for descriptors
    sqe.file_index = slot.ref().index + 1;
  }
  int try_nonblocking() noexcept { return keep(accept_call::try_nonblocking()); }
  int call(const stop_token& stop) noexcept { return keep(accept_call::call(stop)); }
  [[nodiscard]] fixed_file value(int answer) noexcept {
    if (!direct && !made) made.reset(answer);  // the ring did not use the slot
    table->fill(slot.ref().index, std::move(made), true);
    return fixed_file{std::move(slot)};
  }

  file_table* table;
  taken_slot slot;
  fd made;
  bool direct = false;

 private:
  int keep(int answer) noexcept {
    if (answer < 0) return answer;
    made.reset(answer);
    return 0;
  }
};

/// close(2) of the file in a slot.
struct close_fixed_call {
  static constexpr operation_row row{
      .name = "close_fixed",
      .opcode = IORING_OP_CLOSE,
      .first = route::pool,
      .cancellable = false,
      .reason = "as close; on the ring, where a worker closes it, if the file has no descriptor"};
  explicit close_fixed_call(fixed_file owned) noexcept : file{std::move(owned)} {}

  [[nodiscard]] int descriptor() const noexcept { return user; }
  static void closes_descriptor() noexcept {}
  [[nodiscard]] int validate() noexcept {
    slot = fixed_descriptor{file}.slot();
    user = slot.used_here();
    return user == -1 ? -EBADF : 0;
  }
  void choose_placement(placement& where) const noexcept {
    if (slot.number() < 0) where.way = route::ring;
    slot.withdraw_number();
  }
  void prepare(io_uring_sqe& sqe) noexcept {
    slot.withdraw_number();
    sqe.opcode = IORING_OP_CLOSE;
    sqe.flags |= IOSQE_ASYNC;  // else the owner thread would close, and block
    if (slot.number() >= 0) {
      sqe.fd = slot.table->file(slot.index).release();
    } else {
      sqe.file_index = slot.index + 1;
      asked = true;
    }
  }
  [[nodiscard]] static bool would_block(int) noexcept { return false; }
  int call(const stop_token&) const noexcept {
    if (slot.number() < 0) return -ENOTSUP;
    return or_errno(::close(slot.table->file(slot.index).release()));
  }
  void on_complete(devices&) noexcept {
    if (asked) slot.table->withdrawn(slot.index);
    file.reset();
  }

  fixed_file file;
  slot_ref slot{nullptr, 0};
  int user = -1;
  bool asked = false;
};

/// dup(2) of the file in a slot.
struct dup_fixed_call {
  static constexpr operation_row row{
      .name = "dup_fixed",
      .opcode = compat::op_fixed_fd_install,
      .first = route::ring,
      .late = discard::close_descriptor,
      .reason = "only the ring finds a file that has no descriptor; inline, if it has one"};
  explicit dup_fixed_call(slot_ref of) noexcept : slot{of} {}

  [[nodiscard]] int descriptor() const noexcept { return user; }
  [[nodiscard]] int validate() noexcept {
    user = slot.used_here();
    return user == -1 ? -EBADF : 0;
  }
  void choose_placement(placement& where) const noexcept {
    if (slot.number() >= 0) where.way = route::inline_;
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_fixed_fd_install);  // close-on-exec
    sqe.fd = slot.number();  // not in the kernel's table: fails, then a worker dups
    if (is_slot(user)) slot.name_in(sqe);
  }
  [[nodiscard]] bool would_block(int answer) const noexcept { return answer < 0 && !is_slot(user); }
  int call(const stop_token&) const noexcept {
    return slot.number() < 0 ? -ENOTSUP : or_errno(::fcntl(slot.number(), F_DUPFD_CLOEXEC, 0));
  }
  static fd value(int answer) noexcept { return fd{answer}; }

  slot_ref slot;
  int user = -1;
};

}  // namespace detail

/// accept4(2) into a free slot of `table`. Yields a fixed_file. If all slots are taken, fails
/// immediately with too_many_files_open_in_system and takes no connection out of the backlog. A
/// connection that is still open when this executor ends is closed then.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::accept_into_call> accept_into(
    descriptor listener, fixed_files& table,
    std::source_location at = std::source_location::current()) {
  return operation<detail::accept_into_call>{at, listener.get(), table.table()};
}

/// close(2) of the file in a slot; frees the slot. As close() of an fd, it first cancels the
/// operations in flight on the file and waits until they have completed, and closes the file once.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::close_fixed_call> close(
    fixed_file file, std::source_location at = std::source_location::current()) {
  return operation<detail::close_fixed_call>{at, std::move(file)};
}

/// dup(2): makes a descriptor of the same open file, close-on-exec. Yields an fd.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::dup_fixed_call> dup(
    detail::fixed_descriptor file, std::source_location at = std::source_location::current()) {
  return operation<detail::dup_fixed_call>{at, file.slot()};
}

}  // namespace iowq::inline v0
