// SPDX-License-Identifier: BSL-1.0
// iowq/op/names.hpp -- creates, renames and removes names; links; temporary files.
#pragma once

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <new>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/path_text.hpp>

namespace iowq::inline v0 {

namespace detail {

/// mkdirat(2).
struct mkdir_call {
  static constexpr operation_row row{.name = "mkdir",
                                     .opcode = IORING_OP_MKDIRAT,
                                     .first = route::pool,
                                     .reason = "changes a directory; the ring always punts it"};
  mkdir_call(int dir, std::string_view name, ::mode_t m) : directory{dir}, path{name}, mode{m} {}

  [[nodiscard]] int descriptor() const noexcept { return directory; }
  [[nodiscard]] int validate() const noexcept { return path.validate(); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_MKDIRAT;
    sqe.fd = directory;
    sqe.addr = reinterpret_cast<std::uintptr_t>(path.c_str());
    sqe.len = mode;
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::mkdirat(directory, path.c_str(), mode));
  }
  int directory;
  path_text path;
  ::mode_t mode;
};

/// unlinkat(2), and rmdir(2) by AT_REMOVEDIR.
struct unlink_call {
  static constexpr operation_row row{
      .name = "unlink",
      .opcode = IORING_OP_UNLINKAT,
      .first = route::pool,
      .reason = "changes a directory and may free the file; the ring always punts it"};
  unlink_call(int dir, std::string_view name, int f) : directory{dir}, path{name}, flags{f} {}

  [[nodiscard]] int descriptor() const noexcept { return directory; }
  [[nodiscard]] int validate() const noexcept { return path.validate(); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_UNLINKAT;
    sqe.fd = directory;
    sqe.addr = reinterpret_cast<std::uintptr_t>(path.c_str());
    sqe.unlink_flags = static_cast<unsigned>(flags);
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::unlinkat(directory, path.c_str(), flags));
  }
  int directory;
  path_text path;
  int flags;
};

/// renameat2(2).
struct rename_call {
  static constexpr operation_row row{.name = "rename",
                                     .opcode = IORING_OP_RENAMEAT,
                                     .first = route::pool,
                                     .reason = "changes directories; the ring always punts it"};
  rename_call(int from_dir, std::string_view old_name, int to_dir, std::string_view new_name,
              unsigned f)
      : old_directory{from_dir}, new_directory{to_dir}, from{old_name}, to{new_name}, flags{f} {}

  [[nodiscard]] int descriptor() const noexcept { return old_directory; }
  [[nodiscard]] int second_descriptor() const noexcept { return new_directory; }
  [[nodiscard]] int validate() const noexcept {
    return from.validate() != 0 ? from.validate() : to.validate();
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_RENAMEAT;
    sqe.fd = old_directory;
    sqe.addr = reinterpret_cast<std::uintptr_t>(from.c_str());
    sqe.len = static_cast<unsigned>(new_directory);
    sqe.off = reinterpret_cast<std::uintptr_t>(to.c_str());
    sqe.rename_flags = flags;
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::renameat2(old_directory, from.c_str(), new_directory, to.c_str(), flags));
  }
  int old_directory;
  int new_directory;
  path_text from;
  path_text to;
  unsigned flags;
};

}  // namespace detail

/// mkdir(2). Paths and names are copied, here and in all functions below.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::mkdir_call> mkdir(
    std::string_view path, ::mode_t mode = 0777,
    std::source_location at = std::source_location::current()) {
  return operation<detail::mkdir_call>{at, AT_FDCWD, path, mode};
}
/// mkdirat(2): relative to `directory`.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::mkdir_call> mkdirat(
    descriptor directory, std::string_view path, ::mode_t mode = 0777,
    std::source_location at = std::source_location::current()) {
  return operation<detail::mkdir_call>{at, directory.get(), path, mode};
}

/// unlink(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::unlink_call> unlink(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::unlink_call>{at, AT_FDCWD, path, 0};
}
/// unlinkat(2): relative to `directory`; AT_REMOVEDIR in `flags` removes a directory.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::unlink_call> unlinkat(
    descriptor directory, std::string_view path, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::unlink_call>{at, directory.get(), path, flags};
}
/// rmdir(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::unlink_call> rmdir(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::unlink_call>{at, AT_FDCWD, path, AT_REMOVEDIR};
}

/// rename(2).
template <class = void>
[[nodiscard("co_await it")]] operation<detail::rename_call> rename(
    std::string_view from, std::string_view to,
    std::source_location at = std::source_location::current()) {
  return operation<detail::rename_call>{at, AT_FDCWD, from, AT_FDCWD, to, 0U};
}
/// renameat2(2): each path relative to its directory; `flags` such as RENAME_NOREPLACE.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::rename_call> renameat(
    descriptor old_directory, std::string_view from, descriptor new_directory, std::string_view to,
    unsigned flags = 0, std::source_location at = std::source_location::current()) {
  return operation<detail::rename_call>{at,   old_directory.get(), from, new_directory.get(), to,
                                        flags};
}

namespace detail {

/// linkat(2).
struct link_call {
  static constexpr operation_row row{.name = "link",
                                     .opcode = IORING_OP_LINKAT,
                                     .first = route::pool,
                                     .reason = "changes a directory; the ring always punts it"};
  link_call(int from_dir, std::string_view old_name, int to_dir, std::string_view new_name, int f)
      : old_directory{from_dir}, new_directory{to_dir}, from{old_name}, to{new_name}, flags{f} {}

  [[nodiscard]] int descriptor() const noexcept { return old_directory; }
  [[nodiscard]] int second_descriptor() const noexcept { return new_directory; }
  [[nodiscard]] int validate() const noexcept {
    return from.validate() != 0 ? from.validate() : to.validate();
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_LINKAT;
    sqe.fd = old_directory;
    sqe.addr = reinterpret_cast<std::uintptr_t>(from.c_str());
    sqe.len = static_cast<unsigned>(new_directory);
    sqe.off = reinterpret_cast<std::uintptr_t>(to.c_str());
    sqe.hardlink_flags = static_cast<unsigned>(flags);
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::linkat(old_directory, from.c_str(), new_directory, to.c_str(), flags));
  }
  int old_directory;
  int new_directory;
  path_text from;
  path_text to;
  int flags;
};

/// symlinkat(2).
struct symlink_call {
  static constexpr operation_row row{.name = "symlink",
                                     .opcode = IORING_OP_SYMLINKAT,
                                     .first = route::pool,
                                     .reason = "changes a directory; the ring always punts it"};
  symlink_call(std::string_view text, int dir, std::string_view name)
      : target{text}, directory{dir}, path{name} {}

  [[nodiscard]] int descriptor() const noexcept { return directory; }
  [[nodiscard]] int validate() const noexcept {
    return target.validate() != 0 ? target.validate() : path.validate();
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_SYMLINKAT;
    sqe.fd = directory;
    sqe.addr = reinterpret_cast<std::uintptr_t>(target.c_str());
    sqe.off = reinterpret_cast<std::uintptr_t>(path.c_str());
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::symlinkat(target.c_str(), directory, path.c_str()));
  }
  path_text target;
  int directory;
  path_text path;
};

/// readlinkat(2).
struct readlink_call {
  static constexpr operation_row row{
      .name = "readlink", .first = route::pool, .reason = "walks a path; has no opcode"};
  readlink_call(int dir, std::string_view name) : directory{dir}, path{name} {}

  [[nodiscard]] int descriptor() const noexcept { return directory; }
  [[nodiscard]] int validate() const noexcept { return path.validate(); }
  int call(const stop_token&) noexcept {
    char buffer[PATH_MAX + 1];
    auto const size = or_errno(::readlinkat(directory, path.c_str(), buffer, sizeof buffer));
    if (size < 0) return static_cast<int>(size);
    if (size == static_cast<::ssize_t>(sizeof buffer)) return -ENAMETOOLONG;  // maybe truncated
    try {
      target.assign(buffer, static_cast<std::size_t>(size));
    } catch (const std::bad_alloc&) {
      return -ENOMEM;
    }
    return 0;
  }
  [[nodiscard]] std::string value(int) noexcept { return std::move(target); }

  int directory;
  path_text path;
  std::string target;
};

/// The file name pattern that mkostemp(3) and mkdtemp(3) take and change.
struct template_text {
  explicit template_text(std::string_view pattern) : text{pattern} {}
  /// -EINVAL for a NUL inside, or an end other than XXXXXX; -ENAMETOOLONG; else 0.
  [[nodiscard]] int validate() const noexcept {
    if (text.size() >= PATH_MAX) return -ENAMETOOLONG;
    return text.find('\0') != text.npos || !text.ends_with("XXXXXX") ? -EINVAL : 0;
  }
  std::string text;
};

/// mkostemp(3), close-on-exec.
struct mkstemp_call : template_text {
  static constexpr operation_row row{.name = "mkstemp",
                                     .first = route::pool,
                                     .late = discard::close_descriptor,
                                     .reason = "changes a directory; has no opcode"};
  using template_text::template_text;

  int call(const stop_token&) noexcept { return or_errno(::mkostemp(text.data(), O_CLOEXEC)); }
  [[nodiscard]] std::pair<fd, std::string> value(int answer) noexcept {
    return {fd{answer}, std::move(text)};
  }
};

/// mkdtemp(3).
struct mkdtemp_call : template_text {
  static constexpr operation_row row{
      .name = "mkdtemp", .first = route::pool, .reason = "changes a directory; has no opcode"};
  using template_text::template_text;

  int call(const stop_token&) noexcept { return ::mkdtemp(text.data()) == nullptr ? -errno : 0; }
  [[nodiscard]] std::string value(int) noexcept { return std::move(text); }
};

}  // namespace detail

/// link(2): makes `to` another name of the file `from`.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::link_call> link(
    std::string_view from, std::string_view to,
    std::source_location at = std::source_location::current()) {
  return operation<detail::link_call>{at, AT_FDCWD, from, AT_FDCWD, to, 0};
}
/// linkat(2): each path relative to its directory; `flags`: AT_SYMLINK_FOLLOW, AT_EMPTY_PATH.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::link_call> linkat(
    descriptor old_directory, std::string_view from, descriptor new_directory, std::string_view to,
    int flags = 0, std::source_location at = std::source_location::current()) {
  return operation<detail::link_call>{at,   old_directory.get(), from, new_directory.get(), to,
                                      flags};
}

/// symlink(2): creates `path` as a symbolic link to `target`, which need not exist.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::symlink_call> symlink(
    std::string_view target, std::string_view path,
    std::source_location at = std::source_location::current()) {
  return operation<detail::symlink_call>{at, target, AT_FDCWD, path};
}
/// symlinkat(2): like symlink(), with `path` relative to `directory`.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::symlink_call> symlinkat(
    std::string_view target, descriptor directory, std::string_view path,
    std::source_location at = std::source_location::current()) {
  return operation<detail::symlink_call>{at, target, directory.get(), path};
}

/// readlink(2). Yields the target of the symbolic link, as a std::string.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::readlink_call> readlink(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return operation<detail::readlink_call>{at, AT_FDCWD, path};
}
/// readlinkat(2): relative to `directory`.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::readlink_call> readlinkat(
    descriptor directory, std::string_view path,
    std::source_location at = std::source_location::current()) {
  return operation<detail::readlink_call>{at, directory.get(), path};
}

/// mkostemp(3): creates and opens a new file with a unique name, mode 0600, close-on-exec.
/// `pattern` ends in XXXXXX, which is replaced. Yields the fd and the name, as a pair. Do not
/// unpack it by a structured binding; pipe() says why.
///
///     auto made = co_await iowq::mkstemp("/var/tmp/part-XXXXXX");   // made.first, made.second
template <class = void>
[[nodiscard("co_await it")]] operation<detail::mkstemp_call> mkstemp(
    std::string_view pattern, std::source_location at = std::source_location::current()) {
  return operation<detail::mkstemp_call>{at, pattern};
}

/// mkdtemp(3): creates a new directory with a unique name, mode 0700. `pattern` is as for
/// mkstemp(). Yields the name.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::mkdtemp_call> mkdtemp(
    std::string_view pattern, std::source_location at = std::source_location::current()) {
  return operation<detail::mkdtemp_call>{at, pattern};
}

}  // namespace iowq::inline v0
