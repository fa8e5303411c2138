// SPDX-License-Identifier: BSL-1.0
// iowq/op/file.hpp -- reads from and writes to descriptors, and fsync.
#pragma once

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>
#include <system_error>

#include <iowq/base/fd.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/op/detail/file_kind.hpp>
#include <iowq/op/detail/nonblocking_io.hpp>

namespace iowq::inline v0 {

namespace detail {

inline constexpr std::int64_t no_offset = -2;  // invalid: check_offset() returns -EINVAL

/// Replaces a negative offset of the user by no_offset; -1 would mean the file position.
[[nodiscard]] constexpr std::int64_t checked_offset(std::int64_t offset) noexcept {
  return offset < 0 ? no_offset : offset;
}

/// Validates an offset: returns 0, or -EINVAL or -ESPIPE, as the system call does before all else.
/// A write has to know the file type in any case, and a stored file has offsets. A read does not
/// know the file type, and asks has_offsets().
enum class direction : std::uint8_t { in, out };
template <direction To>
[[nodiscard]] int check_offset(const known_file& file, std::int64_t offset) noexcept {
  if (offset == at_position) return 0;
  if (offset == no_offset) return -EINVAL;
  if constexpr (To == direction::out)
    if (file.is_stored()) return 0;
  return has_offsets(file) ? 0 : -ESPIPE;
}

/// read(2) and pread(2).
struct read_call {
  static constexpr operation_row row{
      .name = "read",
      .opcode = IORING_OP_READ,
      .first = route::ring,
      .reason =
          "cached data comes inline, uncached by page-wait callback, streams by poll: no "
          "thread waits"};
  known_file file;
  mutable_bytes bytes;
  std::int64_t offset;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  [[nodiscard]] int validate() const noexcept { return check_offset<direction::in>(file, offset); }
  [[nodiscard]] bool is_unbound() const noexcept { return !file.is_stored(); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_READ;
    sqe.fd = file;
    sqe.addr = reinterpret_cast<std::uintptr_t>(bytes.data());
    sqe.len = bytes.length();
    sqe.off = static_cast<std::uint64_t>(offset);
  }
  int try_nonblocking() const noexcept { return probe_read(file, bytes, offset); }
  [[nodiscard]] readiness waits_for() const noexcept { return {file, POLLIN}; }
  int call(const stop_token& stop) const noexcept {
    // A call for one buffer, not for a vector: a vector costs 100 ns more in the kernel.
    if (offset != at_position)
      return static_cast<int>(or_errno(::pread(file, bytes.data(), bytes.length(), offset)));
    if (file.is_stored())
      return static_cast<int>(or_errno(::read(file, bytes.data(), bytes.length())));
    ::iovec const one{bytes.data(), bytes.length()};
    return until_ready(file, POLLIN, stop, [&] {
      auto const r = static_cast<int>(or_errno(::preadv2(file, &one, 1, offset, RWF_NOWAIT)));
      return worker_answer(file, POLLIN, std::span{&one, 1}, r, stop);
    });
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// write(2) and pwrite(2). A write to a stored file is not tried with RWF_NOWAIT first. Measured
/// on Linux 6.18 with 512 writes of 4 KiB or 512 bytes each: ext4 and btrfs accepted none. xfs
/// accepted neither appends nor writes over clean pages. Each refusal costs 0.5 us. xfs accepted
/// all writes over dirty pages. These would take 1.7 us instead of 8 us for a single write or 3 us
/// for one of several. But a write that the owner makes overtakes earlier writes to the same file
/// that are still with the pool.
struct write_call {
  static constexpr operation_row row{
      .name = "write",
      .opcode = IORING_OP_WRITE,
      .first = route::ring,
      .key = "(device, inode) of a regular file or block device",
      .reason =
          "streams wait by poll; buffered writes block (to xfs all but those over dirty pages), "
          "so those to stored files go to the pool, one at a time a file"};
  known_file file;
  const_bytes bytes;
  std::int64_t offset;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  [[nodiscard]] int validate() const noexcept { return check_offset<direction::out>(file, offset); }
  void choose_placement(placement& where) const noexcept {
    if (!file.is_stored()) return;
    where.way = route::pool;
    where.key = file.key();
  }
  [[nodiscard]] bool is_unbound() const noexcept { return !file.is_stored(); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_WRITE;
    sqe.fd = file;
    sqe.addr = reinterpret_cast<std::uintptr_t>(bytes.data());
    sqe.len = bytes.length();
    sqe.off = static_cast<std::uint64_t>(offset);
  }
  int try_nonblocking() const noexcept {
    ::iovec const one{const_cast<void*>(bytes.data()), bytes.length()};
    int const r = static_cast<int>(or_errno(::pwritev2(file, &one, 1, offset, RWF_NOWAIT)));
    return stream_answer(file, POLLOUT, std::span{&one, 1}, r);
  }
  [[nodiscard]] readiness waits_for() const noexcept { return {file, POLLOUT}; }
  int call(const stop_token& stop) const noexcept {
    if (offset != at_position)
      return static_cast<int>(or_errno(::pwrite(file, bytes.data(), bytes.length(), offset)));
    if (file.is_stored())
      return static_cast<int>(or_errno(::write(file, bytes.data(), bytes.length())));
    ::iovec const one{const_cast<void*>(bytes.data()), bytes.length()};
    return until_ready(file, POLLOUT, stop, [&] {
      auto const r = static_cast<int>(or_errno(::pwritev2(file, &one, 1, offset, RWF_NOWAIT)));
      return worker_answer(file, POLLOUT, std::span{&one, 1}, r, stop);
    });
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// fsync(2) and fdatasync(2).
struct fsync_call {
  static constexpr operation_row row{.name = "fsync",
                                     .opcode = IORING_OP_FSYNC,
                                     .first = route::pool,
                                     .reason = "waits for the disk; the ring always punts it"};
  int file;
  bool data_only;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_FSYNC;
    sqe.fd = file;
    sqe.fsync_flags = data_only ? IORING_FSYNC_DATASYNC : 0;
  }
  int call(const stop_token&) const noexcept {
    return or_errno(data_only ? ::fdatasync(file) : ::fsync(file));
  }
};

}  // namespace detail

/// read(2) at the file position, or from a stream. Yields the number of bytes; 0 at the end of
/// file. The buffer must stay valid, and must not be used, until the operation has completed. On a
/// file opened with O_DIRECT the ring does not advance the file position (a kernel limitation): use
/// pread() there.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::read_call> read(
    descriptor file, mutable_bytes bytes,
    std::source_location at = std::source_location::current()) {
  return operation<detail::read_call>{at, file, bytes, detail::at_position};
}

/// pread(2) at `offset` >= 0; does not move the file position. A file without offsets, such as a
/// pipe or a socket, fails with invalid_seek, without waiting for data.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::read_call> pread(
    descriptor file, mutable_bytes bytes, std::int64_t offset,
    std::source_location at = std::source_location::current()) {
  return operation<detail::read_call>{at, file, bytes, detail::checked_offset(offset)};
}

/// write(2) at the file position, or to a stream. Yields the number of bytes written, which may be
/// fewer than given. Writing to a closed pipe fails with EPIPE, and raises no SIGPIPE.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::write_call> write(
    detail::known_descriptor file, const_bytes bytes,
    std::source_location at = std::source_location::current()) {
  return operation<detail::write_call>{at, file, bytes, detail::at_position};
}

/// pwrite(2) at `offset` >= 0; does not move the file position. A file opened with O_APPEND ignores
/// the offset.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::write_call> pwrite(
    detail::known_descriptor file, const_bytes bytes, std::int64_t offset,
    std::source_location at = std::source_location::current()) {
  return operation<detail::write_call>{at, file, bytes, detail::checked_offset(offset)};
}

/// fsync(2): when it has completed, data and metadata are on the disk. The kernel reports an error
/// only once.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fsync_call> fsync(
    descriptor file, std::source_location at = std::source_location::current()) {
  return operation<detail::fsync_call>{at, file.get(), false};
}

/// fdatasync(2): like fsync(), but only the data and the metadata needed to find it.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fsync_call> fdatasync(
    descriptor file, std::source_location at = std::source_location::current()) {
  return operation<detail::fsync_call>{at, file.get(), true};
}

namespace detail {
/// True if a stop request ended an operation after `done` > 0 bytes: that part is then the result.
[[nodiscard]] inline bool keeps_part(std::error_code error, std::size_t done) noexcept {
  return done != 0 && error == std::errc::operation_canceled;
}
}  // namespace detail

/// Reads until the buffer is full or the file ends. Yields the number of bytes read: fewer than the
/// buffer holds if the file ended, or if a stop request came after some bytes had been read.
template <class = void>
[[nodiscard("co_await it")]] task<std::size_t> read_exactly(descriptor file, mutable_bytes bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    auto const n = co_await as_result(read(file, bytes.after(done)));
    if (!n && detail::keeps_part(n.error(), done)) break;
    if (!n) detail::throw_error(n.error(), "read_exactly");
    if (*n == 0) break;
    done += *n;
  }
  co_return done;
}

namespace detail {
/// The size of the first buffer of read_all(): a regular file's size and one byte more, so that
/// read_all() finds the end of file without a larger buffer.
[[nodiscard]] inline std::size_t first_guess(int file) noexcept {
  constexpr std::size_t page = 4096, most = std::size_t{16} << 20;
  struct ::statx now;
  int const r =
      ::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE, &now);
  if (r != 0 || !S_ISREG(now.stx_mode)) return 16 * page;
  return std::clamp(static_cast<std::size_t>(now.stx_size) + 1, page, most);
}
}  // namespace detail

/// Reads from the file position to the end of file. Yields the bytes as a std::string, or as
/// another container of bytes: `read_all<std::vector<std::byte>>(file)`. If a stop request comes
/// after some bytes had been read, yields these bytes.
template <class Bytes = std::string>
  requires detail::writable_byte_range<Bytes&>
[[nodiscard("co_await it")]] task<Bytes> read_all(descriptor file) {
  Bytes all(detail::first_guess(file.get()), typename Bytes::value_type{});
  std::size_t done = 0;
  for (;;) {
    if (done == all.size()) all.resize(2 * done);
    auto const n = co_await as_result(read(file, mutable_bytes{all}.after(done)));
    if (!n && detail::keeps_part(n.error(), done)) break;
    if (!n) detail::throw_error(n.error(), "read_all");
    if (*n == 0) break;
    done += *n;
  }
  all.resize(done);
  co_return all;
}

/// Writes all of `bytes`, by as many write() as needed. Yields the number of bytes written: fewer
/// than given only if a stop request came after some had been written.
template <class = void>
[[nodiscard("co_await it")]] task<std::size_t> write_all(detail::known_descriptor file,
                                                         const_bytes bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    auto const n = co_await as_result(write(file, bytes.after(done)));
    if (!n && detail::keeps_part(n.error(), done)) break;
    if (!n) detail::throw_error(n.error(), "write_all");
    if (*n == 0) detail::throw_error(-ENOSPC, "write_all (the descriptor accepts no data)");
    done += *n;
  }
  co_return done;
}

}  // namespace iowq::inline v0
