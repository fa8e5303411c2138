// SPDX-License-Identifier: BSL-1.0
// iowq/op/registered/in_slot.hpp -- operations on registered files.
//
// Each is the same operation as on a descriptor, with the same row; only its SQE names a slot. A
// file that was accepted into a slot of the kernel's table has no descriptor that a worker or a key
// could use, so on_pool() and hashed() fail with not_supported. By default no such operation goes
// to the pool: an accepted file is a stream socket, and the ring waits for those.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/message.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/registered/accept_into.hpp>
#include <iowq/op/registered/fixed_buffers.hpp>
#include <iowq/op/registered/fixed_file.hpp>
#include <iowq/op/socket.hpp>

namespace iowq::inline v0 {

namespace detail {

/// A call on a file in a slot. `Call` itself gets the file's descriptor, or -1 if it has none.
template <class Call>
struct in_slot : Call {
  static constexpr bool has_choose_placement =
      requires(const Call& c, placement& p) { c.choose_placement(p); };

  in_slot(slot_ref its, Call same) noexcept : Call{std::move(same)}, named{its} {}

  [[nodiscard]] int descriptor() const noexcept { return user; }
  [[nodiscard]] int validate() noexcept {
    user = named.used_here();
    if (user == -1) return -EBADF;
    if constexpr (requires { Call::validate(); })
      return Call::validate();
    else
      return 0;
  }
  void choose_placement(placement& where) const noexcept
    requires(has_choose_placement || Call::row.first != route::ring)
  {
    if (!has_number())
      where.way = route::ring;
    else if constexpr (has_choose_placement)
      Call::choose_placement(where);
  }
  void prepare(io_uring_sqe& sqe) noexcept {
    Call::prepare(sqe);
    if (is_slot(user)) named.name_in(sqe);
  }
  /// Without a descriptor there is no fallback. No such file is O_NONBLOCK, so EAGAIN only occurs
  /// with MSG_DONTWAIT, and is the result.
  [[nodiscard]] bool would_block(int answer) const noexcept {
    return has_number() && detail::would_block(static_cast<const Call&>(*this), answer);
  }
  int call(const stop_token& stop) noexcept { return has_number() ? Call::call(stop) : -ENOTSUP; }

  slot_ref named;
  int user = -1;

 private:
  [[nodiscard]] bool has_number() const noexcept { return named.number() >= 0; }
};

template <class Call>
[[nodiscard]] operation<in_slot<Call>> on_slot(std::source_location at, slot_ref file, Call call) {
  return operation<in_slot<Call>>{at, file, std::move(call)};
}

}  // namespace detail

// Each overload is like the operation of that name on a descriptor. It registers the table with
// the executor's ring if the table is registered with none.

template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::read_call>> read(
    detail::fixed_descriptor file, mutable_bytes bytes,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot,
                         detail::read_call{descriptor{slot.file()}, bytes, detail::at_position});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::read_call>> pread(
    detail::fixed_descriptor file, mutable_bytes bytes, std::int64_t offset,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(
      at, slot, detail::read_call{descriptor{slot.file()}, bytes, detail::checked_offset(offset)});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::write_call>> write(
    detail::fixed_descriptor file, const_bytes bytes,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(
      at, slot,
      detail::write_call{detail::known_descriptor{slot.file()}, bytes, detail::at_position});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::write_call>> pwrite(
    detail::fixed_descriptor file, const_bytes bytes, std::int64_t offset,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot,
                         detail::write_call{detail::known_descriptor{slot.file()}, bytes,
                                            detail::checked_offset(offset)});
}
/// With both registered, the kernel looks up neither the pages of the buffer nor the file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::read_fixed_call>> read_fixed(
    detail::fixed_descriptor file, fixed_buffers& buffers, unsigned index, std::size_t length,
    std::int64_t offset, std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(
      at, slot,
      detail::read_fixed_call{descriptor{slot.file()}, detail::fixed_part{&buffers, index, length},
                              detail::checked_offset(offset)});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::write_fixed_call>> write_fixed(
    detail::fixed_descriptor file, fixed_buffers& buffers, unsigned index, std::size_t length,
    std::int64_t offset, std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot,
                         detail::write_fixed_call{detail::known_descriptor{slot.file()},
                                                  detail::fixed_part{&buffers, index, length},
                                                  detail::checked_offset(offset)});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::fsync_call>> fsync(
    detail::fixed_descriptor file, std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::fsync_call{slot.number(), false});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::fsync_call>> fdatasync(
    detail::fixed_descriptor file, std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::fsync_call{slot.number(), true});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::recv_call>> recv(
    detail::fixed_descriptor file, mutable_bytes bytes, int flags = 0,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::recv_call{slot.number(), bytes, flags});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::send_call>> send(
    detail::fixed_descriptor file, const_bytes bytes, int flags = 0,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::send_call{slot.number(), bytes, flags});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::recvmsg_call>> recvmsg(
    detail::fixed_descriptor file, ::msghdr& message, int flags = 0,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::recvmsg_call{slot.number(), &message, flags});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::sendmsg_call>> sendmsg(
    detail::fixed_descriptor file, const ::msghdr& message, int flags = 0,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::sendmsg_call{slot.number(), message, flags});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::shutdown_call>> shutdown(
    detail::fixed_descriptor file, int how,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::shutdown_call{slot.number(), how});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::poll_call>> poll(
    detail::fixed_descriptor file, short events,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::poll_call{slot.number(), events});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::accept_call>> accept(
    detail::fixed_descriptor file, int flags = 0,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::accept_call{slot.number(), flags});
}
template <class = void>
[[nodiscard("co_await it")]] operation<detail::in_slot<detail::accept_into_call>> accept_into(
    detail::fixed_descriptor file, fixed_files& table,
    std::source_location at = std::source_location::current()) {
  auto const slot = file.slot();
  return detail::on_slot(at, slot, detail::accept_into_call{slot.number(), table.table()});
}

/// Sends all of `bytes`, as send_all() on a descriptor does.
template <class = void>
[[nodiscard("co_await it")]] task<std::size_t> send_all(detail::fixed_descriptor file,
                                                        const_bytes bytes, int flags = 0) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    auto const n = co_await as_result(send(file, bytes.after(done), flags));
    if (!n && detail::keeps_part(n.error(), done)) break;
    if (!n) detail::throw_error(n.error(), "send_all");
    done += *n;
  }
  co_return done;
}

}  // namespace iowq::inline v0
