// SPDX-License-Identifier: BSL-1.0
// iowq/op/allocate.hpp -- allocates and truncates files, and controls their caching and write-back.
//
// The kernel intends that fallocate and ftruncate never run concurrently with a buffered write to
// the same inode, and marks them as hashed for io-wq. But it decides before the file is known, so
// the mark is lost and they overlap (observed on 6.18). Here the operation knows its file when it
// chooses its key, and uses the same key as a write.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <limits>
#include <source_location>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/file_kind.hpp>
#include <iowq/ring/detail/compat.hpp>

namespace iowq::inline v0 {

namespace detail {

/// Orders an operation that changes a stored file with the writes to that file.
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
  [[nodiscard]] int validate() const noexcept { return offset < 0 || length <= 0 ? -EINVAL : 0; }
  void choose_placement(placement& where) const noexcept { order_by_file(file, where); }
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
  [[nodiscard]] int validate() const noexcept { return length < 0 ? -EINVAL : 0; }
  void choose_placement(placement& where) const noexcept { order_by_file(file, where); }
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

/// fallocate(2): allocates, or with FALLOC_FL_PUNCH_HOLE frees, space for `length` > 0 bytes at
/// `offset` >= 0. Never runs concurrently with a punted write, fallocate or ftruncate to the same
/// file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fallocate_call> fallocate(
    detail::known_descriptor file, int mode, std::int64_t offset, std::int64_t length,
    std::source_location at = std::source_location::current()) {
  return operation<detail::fallocate_call>{at, file, mode, offset, length};
}

/// ftruncate(2): makes the file `length` >= 0 bytes long. Ordered as fallocate() is.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::ftruncate_call> ftruncate(
    detail::known_descriptor file, std::int64_t length,
    std::source_location at = std::source_location::current()) {
  return operation<detail::ftruncate_call>{at, file, length};
}

namespace detail {

/// sync_file_range(2).
struct sync_file_range_call {
  static constexpr operation_row row{.name = "sync_file_range",
                                     .opcode = IORING_OP_SYNC_FILE_RANGE,
                                     .first = route::pool,
                                     .reason = "waits for the disk; the ring always punts it"};
  int file;
  std::int64_t offset, length;
  unsigned flags;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  [[nodiscard]] int validate() const noexcept { return offset < 0 || length < 0 ? -EINVAL : 0; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    // The SQE has 32 bits for the length. A longer length becomes 0, which means up to the end of
    // file: syncing more than requested is harmless, syncing less is not.
    constexpr auto most = std::numeric_limits<std::uint32_t>::max();
    sqe.opcode = IORING_OP_SYNC_FILE_RANGE;
    sqe.fd = file;
    sqe.off = static_cast<std::uint64_t>(offset);
    sqe.len = length > most ? 0 : static_cast<std::uint32_t>(length);
    sqe.sync_range_flags = flags;
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::sync_file_range(file, offset, length, flags));
  }
};

/// posix_fadvise(2).
struct fadvise_call {
  static constexpr operation_row row{
      .name = "fadvise",
      .opcode = IORING_OP_FADVISE,
      .first = route::pool,
      .reason =
          "WILLNEED starts reads and DONTNEED drops pages, which the ring always punts; "
          "the others set a flag, inline"};
  int file;
  std::int64_t offset, length;
  int advice;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  [[nodiscard]] int validate() const noexcept { return length < 0 ? -EINVAL : 0; }
  void choose_placement(placement& where) const noexcept {
    if (advice == POSIX_FADV_NORMAL || advice == POSIX_FADV_RANDOM ||
        advice == POSIX_FADV_SEQUENTIAL)
      where.way = route::inline_;
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    // The SQE has 32 bits for the length. For a longer one the advice covers the first 4 GiB only,
    // which is good enough for advice.
    constexpr std::int64_t most = 0xfffff000;
    sqe.opcode = IORING_OP_FADVISE;
    sqe.fd = file;
    sqe.off = static_cast<std::uint64_t>(offset);
    sqe.len = static_cast<std::uint32_t>(length < most ? length : most);
    sqe.fadvise_advice = static_cast<unsigned>(advice);
  }
  int call(const stop_token&) const noexcept {
    return -::posix_fadvise(file, offset, length, advice);
  }
};

}  // namespace detail

/// sync_file_range(2): starts or awaits the writing of dirty pages, by SYNC_FILE_RANGE_* in
/// `flags`; a length of 0 reaches to the end of file. Writes no metadata, and so does not promise
/// that the data is found after a crash: use fdatasync() for that.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::sync_file_range_call> sync_file_range(
    descriptor file, std::int64_t offset, std::int64_t length, unsigned flags,
    std::source_location at = std::source_location::current()) {
  return operation<detail::sync_file_range_call>{at, file.get(), offset, length, flags};
}

/// posix_fadvise(2): `advice` is one of POSIX_FADV_*; a length of 0 reaches to the end of file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fadvise_call> fadvise(
    descriptor file, std::int64_t offset, std::int64_t length, int advice,
    std::source_location at = std::source_location::current()) {
  return operation<detail::fadvise_call>{at, file.get(), offset, length, advice};
}

}  // namespace iowq::inline v0
