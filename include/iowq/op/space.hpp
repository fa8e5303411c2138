// SPDX-License-Identifier: BSL-1.0
// iowq/op/space.hpp -- how much room a file has.
// Layer op; needs exec. Next in the book: op/cache.hpp.
//
// io-wq means to run these beside no buffered write to the same inode, and marks them hashed; but
// it decides before the file is known, so the mark is lost and they overlap (seen on 6.18). Here
// the key is the write's, and the file is known when it is taken.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/exec/await.hpp>
#include <iowq/op/known.hpp>
#include <iowq/ring/compat.hpp>

namespace iowq {

namespace detail {

/// Orders what changes a stored file by that file, as writes are.
inline void order_by_file(const known_file& file, placement& where) noexcept {
  if (file.is_stored()) where.key = file.key();
}

/// fallocate(2).
struct fallocate_call {
  static constexpr operation_row row{
      .name = "fallocate",
      .opcode = IORING_OP_FALLOCATE,
      .first = route::pool,
      .key = "(device, inode) of a regular file or block device",
      .reason = "waits for the file system; the ring always punts it"};
  known_file file;
  int mode;
  std::int64_t offset, length;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  [[nodiscard]] int check() const noexcept { return offset < 0 || length <= 0 ? -EINVAL : 0; }
  void place(placement& where) const noexcept { order_by_file(file, where); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_FALLOCATE;
    sqe.fd = file;
    sqe.len = static_cast<std::uint32_t>(mode);
    sqe.off = static_cast<std::uint64_t>(offset);
    sqe.addr = static_cast<std::uint64_t>(length);
  }
  int call(const stop_token&) const noexcept {
    int r;
    do r = or_errno(::fallocate(file, mode, offset, length));
    while (r == -EINTR);
    return r;
  }
};

/// ftruncate(2).
struct ftruncate_call {
  static constexpr operation_row row{
      .name = "ftruncate",
      .opcode = compat::op_ftruncate,
      .first = route::pool,
      .key = "(device, inode) of a regular file or block device",
      .reason = "waits for the file system; the ring (6.9 and newer) always punts it"};
  known_file file;
  std::int64_t length;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  [[nodiscard]] int check() const noexcept { return length < 0 ? -EINVAL : 0; }
  void place(placement& where) const noexcept { order_by_file(file, where); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_ftruncate);
    sqe.fd = file;
    sqe.off = static_cast<std::uint64_t>(length);
  }
  int call(const stop_token&) const noexcept {
    int r;
    do r = or_errno(::ftruncate(file, length));
    while (r == -EINTR);
    return r;
  }
};

}  // namespace detail

/// fallocate(2): makes, or with FALLOC_FL_PUNCH_HOLE gives up, room for `length` > 0 bytes at
/// `offset` >= 0. Never beside a write, fallocate or ftruncate to the same file that was punted.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fallocate_call> fallocate(
    known_descriptor file, int mode, std::int64_t offset, std::int64_t length,
    std::source_location at = std::source_location::current()) {
  return operation<detail::fallocate_call>{at, file, mode, offset, length};
}

/// ftruncate(2): the file is `length` >= 0 bytes long. Ordered as fallocate() is.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::ftruncate_call> ftruncate(
    known_descriptor file, std::int64_t length,
    std::source_location at = std::source_location::current()) {
  return operation<detail::ftruncate_call>{at, file, length};
}

}  // namespace iowq
