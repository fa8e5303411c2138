// SPDX-License-Identifier: BSL-1.0
// iowq/op/change.hpp -- what a file permits, whose it is, when it was used.
// Layer op; needs exec. Next in the book: op/xattr.hpp.
//
// None of these has an opcode, and all of them write an inode, on some file systems to a server.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <source_location>
#include <string_view>

#include <iowq/base/fd.hpp>
#include <iowq/exec/await.hpp>
#include <iowq/op/text.hpp>

namespace iowq {

/// A time to set: a system_clock's, or a timespec, which may be UTIME_NOW or UTIME_OMIT.
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
  /// Leaves it as it is.
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

  [[nodiscard]] int check() const noexcept { return path.check(); }
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

  [[nodiscard]] int check() const noexcept { return path.check(); }
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

  [[nodiscard]] int check() const noexcept { return path.check(); }
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

/// chown(2); an id of -1 stays as it is. `flags`: AT_SYMLINK_NOFOLLOW, of the link itself.
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

/// utimensat(2): when it was last read and written. `flags`: AT_SYMLINK_NOFOLLOW.
///
///     co_await iowq::utimens(path, iowq::file_time::omit(), status.modified());
template <class = void>
[[nodiscard("co_await it")]] operation<detail::utimens_call> utimens(
    std::string_view path, const file_time& accessed, const file_time& modified, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::utimens_call>{at, path, accessed, modified, flags};
}
/// futimens(3).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::futimens_call> futimens(
    descriptor file, const file_time& accessed, const file_time& modified,
    std::source_location at = std::source_location::current()) {
  return operation<detail::futimens_call>{at, file.get(), accessed, modified};
}

}  // namespace iowq
