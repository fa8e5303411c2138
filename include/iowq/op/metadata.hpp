// SPDX-License-Identifier: BSL-1.0
// iowq/op/metadata.hpp -- reads and changes the metadata of files and file systems.
//
// stat and fstat use IORING_OP_STATX. The others have no opcode in io_uring. The operations that
// change metadata write an inode, and on some file systems that is a request to a server, so they
// run on the pool.
#pragma once

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <source_location>
#include <string_view>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/op/detail/path_text.hpp>

namespace iowq::inline v0 {

/// The result of statx(2).
class file_status {
 public:
  /// A time since the epoch of 1970, in nanoseconds.
  using time = std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>;

  file_status() noexcept = default;
  explicit file_status(const struct ::statx& raw) noexcept : raw_{raw} {}

  [[nodiscard]] std::uint64_t size() const noexcept { return raw_.stx_size; }  // bytes
  /// File type and permissions, like st_mode.
  [[nodiscard]] unsigned mode() const noexcept { return raw_.stx_mode; }
  [[nodiscard]] unsigned uid() const noexcept { return raw_.stx_uid; }
  [[nodiscard]] unsigned gid() const noexcept { return raw_.stx_gid; }
  [[nodiscard]] unsigned links() const noexcept { return raw_.stx_nlink; }
  [[nodiscard]] std::uint64_t inode() const noexcept { return raw_.stx_ino; }
  /// The device that holds the file, like st_dev.
  [[nodiscard]] std::uint64_t device() const noexcept {
    return makedev(raw_.stx_dev_major, raw_.stx_dev_minor);
  }
  /// The allocated size, in units of 512 bytes.
  [[nodiscard]] std::uint64_t blocks() const noexcept { return raw_.stx_blocks; }
  [[nodiscard]] time accessed() const noexcept { return to_time(raw_.stx_atime); }
  [[nodiscard]] time modified() const noexcept { return to_time(raw_.stx_mtime); }
  [[nodiscard]] time changed() const noexcept { return to_time(raw_.stx_ctime); }
  /// The epoch of 1970 if the file system does not record the creation time.
  [[nodiscard]] time created() const noexcept { return to_time(raw_.stx_btime); }
  [[nodiscard]] bool is_regular() const noexcept { return S_ISREG(raw_.stx_mode); }
  [[nodiscard]] bool is_directory() const noexcept { return S_ISDIR(raw_.stx_mode); }
  [[nodiscard]] bool is_symlink() const noexcept { return S_ISLNK(raw_.stx_mode); }
  /// All fields.
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
  [[nodiscard]] int validate() const noexcept { return path.validate(); }
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
  /// Never asks a remote server. The result is current if the file system is local. For an unknown
  /// file system it returns -EAGAIN: call() then finds out on the pool whether the file system is
  /// local, and on_complete() remembers that.
  int try_inline(const devices& known) noexcept {
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
  void on_complete(devices& known) const noexcept {
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

  [[nodiscard]] int validate() const noexcept { return path.validate(); }
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

/// stat(2): follows a symbolic link at the end of `path`. Yields a file_status.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::stat_call> stat(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::stat_call>{at, AT_FDCWD, path, 0};
}
/// lstat(2): like stat(), but for a symbolic link yields the status of the link itself.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::stat_call> lstat(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::stat_call>{at, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW};
}
/// statx(2): like stat(), relative to `directory` and with AT_* flags.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::stat_call> statx(
    descriptor directory, std::string_view path, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::stat_call>{at, directory.get(), path, flags};
}
/// fstat(2). Yields a file_status.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fstat_call> fstat(
    descriptor file, std::source_location at = std::source_location::current()) {
  return operation<detail::fstat_call>{at, file.get()};
}

/// statfs(2): yields a struct statfs, about the file system that holds `path`.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::statfs_call> statfs(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::statfs_call>{at, path};
}
/// fstatfs(2): like statfs(), about the file system that holds an open file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fstatfs_call> fstatfs(
    descriptor file, std::source_location at = std::source_location::current()) {
  return operation<detail::fstatfs_call>{at, file.get()};
}

/// A file time to set: a time_point of system_clock, or a timespec, which may be UTIME_NOW or
/// UTIME_OMIT.
class file_time {
 public:
  template <class Duration>
  file_time(std::chrono::time_point<std::chrono::system_clock, Duration> time) noexcept {
    auto const whole = std::chrono::floor<std::chrono::seconds>(time);
    auto const part = std::chrono::floor<std::chrono::nanoseconds>(time - whole);
    raw_.tv_sec = static_cast<::time_t>(whole.time_since_epoch().count());
    raw_.tv_nsec = static_cast<long>(part.count());
  }
  file_time(const ::timespec& raw) noexcept : raw_{raw} {}

  [[nodiscard]] static file_time now() noexcept { return ::timespec{0, UTIME_NOW}; }
  /// Leaves the time unchanged.
  [[nodiscard]] static file_time omit() noexcept { return ::timespec{0, UTIME_OMIT}; }
  [[nodiscard]] const ::timespec& raw() const noexcept { return raw_; }

 private:
  ::timespec raw_{};
};

namespace detail {

/// fchmodat(2).
struct chmod_call {
  static constexpr operation_row row{
      .name = "chmod", .first = route::pool, .reason = "writes an inode; has no opcode"};
  chmod_call(std::string_view name, ::mode_t m) : path{name}, mode{m} {}

  [[nodiscard]] int validate() const noexcept { return path.validate(); }
  int call(const stop_token&) const noexcept {
    return or_errno(::fchmodat(AT_FDCWD, path.c_str(), mode, 0));
  }
  path_text path;
  ::mode_t mode;
};

/// fchmod(2).
struct fchmod_call {
  static constexpr operation_row row{
      .name = "fchmod", .first = route::pool, .reason = "writes an inode; has no opcode"};
  int file;
  ::mode_t mode;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  int call(const stop_token&) const noexcept { return or_errno(::fchmod(file, mode)); }
};

/// fchownat(2).
struct chown_call {
  static constexpr operation_row row{
      .name = "chown", .first = route::pool, .reason = "writes an inode; has no opcode"};
  chown_call(std::string_view name, ::uid_t u, ::gid_t g, int f)
      : path{name}, user{u}, group{g}, flags{f} {}

  [[nodiscard]] int validate() const noexcept { return path.validate(); }
  int call(const stop_token&) const noexcept {
    return or_errno(::fchownat(AT_FDCWD, path.c_str(), user, group, flags));
  }
  path_text path;
  ::uid_t user;
  ::gid_t group;
  int flags;
};

/// fchown(2).
struct fchown_call {
  static constexpr operation_row row{
      .name = "fchown", .first = route::pool, .reason = "writes an inode; has no opcode"};
  int file;
  ::uid_t user;
  ::gid_t group;

  [[nodiscard]] int descriptor() const noexcept { return file; }
  int call(const stop_token&) const noexcept { return or_errno(::fchown(file, user, group)); }
};

/// utimensat(2).
struct utimens_call {
  static constexpr operation_row row{
      .name = "utimens", .first = route::pool, .reason = "writes an inode; has no opcode"};
  utimens_call(std::string_view name, const file_time& accessed, const file_time& modified, int f)
      : path{name}, times{accessed.raw(), modified.raw()}, flags{f} {}

  [[nodiscard]] int validate() const noexcept { return path.validate(); }
  int call(const stop_token&) const noexcept {
    return or_errno(::utimensat(AT_FDCWD, path.c_str(), times, flags));
  }
  path_text path;
  ::timespec times[2];
  int flags;
};

/// futimens(3).
struct futimens_call {
  static constexpr operation_row row{
      .name = "futimens", .first = route::pool, .reason = "writes an inode; has no opcode"};
  futimens_call(int f, const file_time& accessed, const file_time& modified) noexcept
      : file{f}, times{accessed.raw(), modified.raw()} {}

  [[nodiscard]] int descriptor() const noexcept { return file; }
  int call(const stop_token&) const noexcept { return or_errno(::futimens(file, times)); }

  int file;
  ::timespec times[2];
};

}  // namespace detail

/// chmod(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::chmod_call> chmod(
    std::string_view path, ::mode_t mode,
    std::source_location at = std::source_location::current()) {
  return operation<detail::chmod_call>{at, path, mode};
}
/// fchmod(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fchmod_call> fchmod(
    descriptor file, ::mode_t mode, std::source_location at = std::source_location::current()) {
  return operation<detail::fchmod_call>{at, file.get(), mode};
}

/// chown(2). An id of -1 leaves that owner or group unchanged. With AT_SYMLINK_NOFOLLOW in `flags`
/// changes a symbolic link itself.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::chown_call> chown(
    std::string_view path, ::uid_t user, ::gid_t group, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::chown_call>{at, path, user, group, flags};
}
/// fchown(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fchown_call> fchown(
    descriptor file, ::uid_t user, ::gid_t group,
    std::source_location at = std::source_location::current()) {
  return operation<detail::fchown_call>{at, file.get(), user, group};
}

/// utimensat(2): sets the times of the last access and the last modification. With
/// AT_SYMLINK_NOFOLLOW in `flags` changes a symbolic link itself.
///
///     co_await iowq::utimens(path, iowq::file_time::omit(), status.modified());
template <class = void>
[[nodiscard("co_await it")]] operation<detail::utimens_call> utimens(
    std::string_view path, const file_time& accessed, const file_time& modified, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::utimens_call>{at, path, accessed, modified, flags};
}
/// futimens(3): like utimens(), for an open file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::futimens_call> futimens(
    descriptor file, const file_time& accessed, const file_time& modified,
    std::source_location at = std::source_location::current()) {
  return operation<detail::futimens_call>{at, file.get(), accessed, modified};
}

}  // namespace iowq::inline v0
