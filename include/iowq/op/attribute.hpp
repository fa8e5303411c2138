// SPDX-License-Identifier: BSL-1.0
// iowq/op/attribute.hpp -- what is known about a file.
// Layer op; needs exec. Next in the book: op/change.hpp.
#pragma once

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <source_location>
#include <string_view>

#include <iowq/base/fd.hpp>
#include <iowq/exec/await.hpp>
#include <iowq/op/blocking.hpp>
#include <iowq/op/text.hpp>

namespace iowq {

/// What statx(2) answered.
class file_status {
 public:
  /// To the nanosecond, since the epoch of 1970.
  using time = std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>;

  file_status() noexcept = default;
  explicit file_status(const struct ::statx& raw) noexcept : raw_{raw} {}

  [[nodiscard]] std::uint64_t size() const noexcept { return raw_.stx_size; }  // bytes
  /// Type and permissions, as st_mode.
  [[nodiscard]] unsigned mode() const noexcept { return raw_.stx_mode; }
  [[nodiscard]] unsigned uid() const noexcept { return raw_.stx_uid; }
  [[nodiscard]] unsigned gid() const noexcept { return raw_.stx_gid; }
  [[nodiscard]] unsigned links() const noexcept { return raw_.stx_nlink; }
  [[nodiscard]] std::uint64_t inode() const noexcept { return raw_.stx_ino; }
  /// As st_dev.
  [[nodiscard]] std::uint64_t device() const noexcept {
    return makedev(raw_.stx_dev_major, raw_.stx_dev_minor);
  }
  /// Allocated, in units of 512 bytes.
  [[nodiscard]] std::uint64_t blocks() const noexcept { return raw_.stx_blocks; }
  [[nodiscard]] time accessed() const noexcept { return to_time(raw_.stx_atime); }
  [[nodiscard]] time modified() const noexcept { return to_time(raw_.stx_mtime); }
  [[nodiscard]] time changed() const noexcept { return to_time(raw_.stx_ctime); }
  /// 1970 where the file system does not keep it.
  [[nodiscard]] time created() const noexcept { return to_time(raw_.stx_btime); }
  [[nodiscard]] bool is_regular() const noexcept { return S_ISREG(raw_.stx_mode); }
  [[nodiscard]] bool is_directory() const noexcept { return S_ISDIR(raw_.stx_mode); }
  [[nodiscard]] bool is_symlink() const noexcept { return S_ISLNK(raw_.stx_mode); }
  /// All of it.
  [[nodiscard]] const struct ::statx& raw() const noexcept { return raw_; }

 private:
  static time to_time(const statx_timestamp& t) noexcept {
    return time{std::chrono::seconds{t.tv_sec} + std::chrono::nanoseconds{t.tv_nsec}};
  }
  struct ::statx raw_{};
};

namespace detail {

inline constexpr unsigned stat_mask = STATX_BASIC_STATS | STATX_BTIME;

/// statx(2) by path.
struct stat_call {
  static constexpr operation_row row{.name = "stat",
                                     .opcode = IORING_OP_STATX,
                                     .first = route::pool,
                                     .reason = "walks a path; the ring always punts it"};
  stat_call(int dir, std::string_view name, int f) : directory{dir}, path{name}, flags{f} {}

  [[nodiscard]] int descriptor() const noexcept { return directory; }
  [[nodiscard]] int check() const noexcept { return path.check(); }
  void prepare(io_uring_sqe& sqe) noexcept {
    sqe.opcode = IORING_OP_STATX;
    sqe.fd = directory;
    sqe.addr = reinterpret_cast<std::uintptr_t>(path.c_str());
    sqe.len = stat_mask;
    sqe.off = reinterpret_cast<std::uintptr_t>(&buffer);
    sqe.statx_flags = static_cast<unsigned>(flags);
  }
  int call(const stop_token&) noexcept {
    return or_errno(::statx(directory, path.c_str(), flags, stat_mask, &buffer));
  }
  file_status value(int) const noexcept { return file_status{buffer}; }

  int directory;
  path_text path;
  int flags;
  struct ::statx buffer;
};

/// statx(2) of an open descriptor.
struct fstat_call {
  static constexpr operation_row row{
      .name = "fstat",
      .opcode = IORING_OP_STATX,
      .first = route::inline_,
      .reason = "a local file system has the inode in memory; a remote one is asked on the pool"};
  explicit fstat_call(int f) noexcept : file{f} {}

  [[nodiscard]] int descriptor() const noexcept { return file; }
  /// Never asks a server. What came from a local file system is current; of an unknown one the
  /// pool finds out which it is, and that is remembered.
  int attempt(const devices& known) noexcept {
    int const r =
        or_errno(::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, stat_mask, &buffer));
    if (r < 0 || known.is_local(device().device())) return r;
    return -EAGAIN;
  }
  void prepare(io_uring_sqe& sqe) noexcept {
    sqe.opcode = IORING_OP_STATX;
    sqe.fd = file;
    sqe.addr = reinterpret_cast<std::uintptr_t>("");
    sqe.len = stat_mask;
    sqe.off = reinterpret_cast<std::uintptr_t>(&buffer);
    sqe.statx_flags = AT_EMPTY_PATH;
  }
  int call(const stop_token&) noexcept {
    struct ::statfs system;
    local = ::fstatfs(file, &system) == 0 &&
            is_local_filesystem(static_cast<std::uint64_t>(system.f_type));
    return or_errno(::statx(file, "", AT_EMPTY_PATH, stat_mask, &buffer));
  }
  void settle(devices& known) const noexcept {
    if (local) known.learn_local(device().device());
  }
  file_status value(int) const noexcept { return file_status{buffer}; }

  [[nodiscard]] file_identity device() const noexcept {
    return {buffer.stx_dev_major, buffer.stx_dev_minor, 0};
  }
  int file;
  bool local = false;
  struct ::statx buffer{};
};

/// statfs(2).
struct statfs_call {
  static constexpr operation_row row{.name = "statfs",
                                     .first = route::pool,
                                     .reason = "walks a path, and may ask a server; has no opcode"};
  explicit statfs_call(std::string_view name) : path{name} {}

  [[nodiscard]] int check() const noexcept { return path.check(); }
  int call(const stop_token&) noexcept { return or_errno(::statfs(path.c_str(), &buffer)); }
  [[nodiscard]] struct ::statfs value(int) const noexcept { return buffer; }

  path_text path;
  struct ::statfs buffer;
};

/// fstatfs(2).
struct fstatfs_call {
  static constexpr operation_row row{
      .name = "fstatfs", .first = route::pool, .reason = "may ask a server; has no opcode"};
  explicit fstatfs_call(int f) noexcept : file{f} {}

  [[nodiscard]] int descriptor() const noexcept { return file; }
  int call(const stop_token&) noexcept { return or_errno(::fstatfs(file, &buffer)); }
  [[nodiscard]] struct ::statfs value(int) const noexcept { return buffer; }

  int file;
  struct ::statfs buffer;
};

}  // namespace detail

/// stat(2): of what a symbolic link points at. Yields a file_status.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::stat_call> stat(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::stat_call>{at, AT_FDCWD, path, 0};
}
/// lstat(2): of the link itself.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::stat_call> lstat(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::stat_call>{at, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW};
}
/// statx(2): relative to `directory`, with AT_* flags.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::stat_call> statx(
    descriptor directory, std::string_view path, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::stat_call>{at, directory.get(), path, flags};
}
/// fstat(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fstat_call> fstat(
    descriptor file, std::source_location at = std::source_location::current()) {
  return operation<detail::fstat_call>{at, file.get()};
}

/// statfs(2): of the file system that holds `path`. Yields a struct statfs.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::statfs_call> statfs(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::statfs_call>{at, path};
}
/// fstatfs(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fstatfs_call> fstatfs(
    descriptor file, std::source_location at = std::source_location::current()) {
  return operation<detail::fstatfs_call>{at, file.get()};
}

}  // namespace iowq
