// SPDX-License-Identifier: BSL-1.0
// iowq/op/vector.hpp -- reads into and writes from several buffers in one call.
#pragma once

#include <limits.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ranges>
#include <source_location>
#include <span>
#include <type_traits>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/op/detail/file_kind.hpp>
#include <iowq/op/detail/nonblocking_io.hpp>
#include <iowq/op/file.hpp>

namespace iowq::inline v0 {

namespace detail {

/// Several buffers, in order. Up to eight can be listed, as in `readv(file, {head, body})`: this
/// object then stores the list. An array of iovecs is not copied, and must stay valid until the
/// operation has completed. So must the bytes, in either case.
template <class Bytes>
class buffer_list {
 public:
  static constexpr std::size_t max_listed = 8;

  template <class... Listed>
    requires(sizeof...(Listed) >= 1 && sizeof...(Listed) <= max_listed &&
             (std::convertible_to<Listed, Bytes> && ...))
  buffer_list(Listed&&... listed) noexcept
      : listed_{part(static_cast<Listed&&>(listed))...}, count_{sizeof...(Listed)} {}

  template <class Array>
    requires(std::convertible_to<Array, std::span<const ::iovec>> &&
             (std::is_lvalue_reference_v<Array> ||
              std::ranges::borrowed_range<std::remove_cvref_t<Array>>))
  buffer_list(Array&& borrowed) noexcept
      : borrowed_{std::span<const ::iovec>{borrowed}.data()},
        count_{std::span<const ::iovec>{borrowed}.size()} {}

  [[nodiscard]] const ::iovec* data() const noexcept {
    return borrowed_ != nullptr ? borrowed_ : listed_.data();
  }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }

 private:
  static ::iovec part(const Bytes& bytes) noexcept {
    return {const_cast<void*>(static_cast<const void*>(bytes.data())), bytes.size()};
  }
  const ::iovec* borrowed_ = nullptr;
  std::array<::iovec, max_listed> listed_{};
  std::size_t count_;
};

}  // namespace detail
using mutable_buffers = detail::buffer_list<mutable_bytes>;
using const_buffers = detail::buffer_list<const_bytes>;

namespace detail {

/// Base of readv_call and writev_call.
template <class Bytes>
struct vector_call {
  known_file file;
  buffer_list<Bytes> parts;
  std::int64_t offset;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  /// More than IOV_MAX parts are -EINVAL, as in the kernel. Checked here, before the SQE truncates
  /// the count to 32 bits.
  [[nodiscard]] int validate() const noexcept {
    constexpr bool reads = std::is_same_v<Bytes, mutable_bytes>;
    int const bad = check_offset<reads ? direction::in : direction::out>(file, offset);
    return bad < 0 ? bad : parts.size() > IOV_MAX ? -EINVAL : 0;
  }
  [[nodiscard]] bool is_unbound() const noexcept { return !file.is_stored(); }
  [[nodiscard]] readiness waits_for() const noexcept {
    return {file, std::is_same_v<Bytes, mutable_bytes> ? POLLIN : POLLOUT};
  }

 protected:
  void fill(io_uring_sqe& sqe, std::uint8_t opcode) const noexcept {
    sqe.opcode = opcode;
    sqe.fd = file;
    sqe.addr = reinterpret_cast<std::uintptr_t>(parts.data());
    sqe.len = static_cast<unsigned>(parts.size());
    sqe.off = static_cast<std::uint64_t>(offset);
  }
  /// `once(flags)` is preadv2 or pwritev2.
  template <class Once>
  int wait_and(short events, const stop_token& stop, Once&& once) const noexcept {
    if (offset != at_position || file.is_stored()) return once(0);
    return until_ready(file, events, stop, [&] {
      std::span<const ::iovec> const all{parts.data(), parts.size()};
      return worker_answer(file, events, all, once(RWF_NOWAIT), stop);
    });
  }
};

/// readv(2) and preadv(2).
struct readv_call : vector_call<mutable_bytes> {
  static constexpr operation_row row{
      .name = "readv", .opcode = IORING_OP_READV, .first = route::ring, .reason = "as read"};

  void prepare(io_uring_sqe& sqe) const noexcept { fill(sqe, IORING_OP_READV); }
  int try_nonblocking() const noexcept {
    std::span<const ::iovec> const all{parts.data(), parts.size()};
    return probe_read(file, all, offset);
  }
  int call(const stop_token& stop) const noexcept {
    return wait_and(POLLIN, stop, [this](int flags) {
      auto const count = static_cast<int>(parts.size());
      return static_cast<int>(or_errno(::preadv2(file, parts.data(), count, offset, flags)));
    });
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// writev(2) and pwritev(2).
struct writev_call : vector_call<const_bytes> {
  static constexpr operation_row row{.name = "writev",
                                     .opcode = IORING_OP_WRITEV,
                                     .first = route::ring,
                                     .key = "(device, inode) of a regular file or block device",
                                     .reason = "as write: to stored files on the pool"};

  void choose_placement(placement& where) const noexcept {
    if (!file.is_stored()) return;
    where.way = route::pool;
    where.key = file.key();
  }
  void prepare(io_uring_sqe& sqe) const noexcept { fill(sqe, IORING_OP_WRITEV); }
  int try_nonblocking() const noexcept {
    auto const count = static_cast<int>(parts.size());
    auto const r = or_errno(::pwritev2(file, parts.data(), count, offset, RWF_NOWAIT));
    return stream_answer(file, POLLOUT, std::span{parts.data(), parts.size()}, static_cast<int>(r));
  }
  int call(const stop_token& stop) const noexcept {
    return wait_and(POLLOUT, stop, [this](int flags) {
      auto const count = static_cast<int>(parts.size());
      return static_cast<int>(or_errno(::pwritev2(file, parts.data(), count, offset, flags)));
    });
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

}  // namespace detail

/// readv(2) at the file position, or from a stream. Yields the number of bytes; 0 at the end of
/// file.
///
///     auto n = co_await iowq::readv(file, {header, body});
template <class = void>
[[nodiscard("co_await it")]] operation<detail::readv_call> readv(
    descriptor file, const mutable_buffers& parts,
    std::source_location at = std::source_location::current()) {
  return operation<detail::readv_call>{at, detail::readv_call{{file, parts, detail::at_position}}};
}

/// preadv(2) at `offset` >= 0; does not move the file position.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::readv_call> preadv(
    descriptor file, const mutable_buffers& parts, std::int64_t offset,
    std::source_location at = std::source_location::current()) {
  return operation<detail::readv_call>{
      at, detail::readv_call{{file, parts, detail::checked_offset(offset)}}};
}

/// writev(2) at the file position, or to a stream. Yields the number of bytes written. Raises no
/// SIGPIPE.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::writev_call> writev(
    detail::known_descriptor file, const const_buffers& parts,
    std::source_location at = std::source_location::current()) {
  return operation<detail::writev_call>{at,
                                        detail::writev_call{{file, parts, detail::at_position}}};
}

/// pwritev(2) at `offset` >= 0; does not move the file position. A file opened with O_APPEND
/// ignores the offset.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::writev_call> pwritev(
    detail::known_descriptor file, const const_buffers& parts, std::int64_t offset,
    std::source_location at = std::source_location::current()) {
  return operation<detail::writev_call>{
      at, detail::writev_call{{file, parts, detail::checked_offset(offset)}}};
}

}  // namespace iowq::inline v0
