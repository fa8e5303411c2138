// SPDX-License-Identifier: BSL-1.0
// iowq/op/path.hpp -- names come, move and go.
// Layer op; needs exec. Next in the book: op/link.hpp.
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <source_location>
#include <string_view>

#include <iowq/base/fd.hpp>
#include <iowq/exec/await.hpp>
#include <iowq/op/text.hpp>

namespace iowq {

namespace detail {

/// mkdirat(2).
struct mkdir_call {
  static constexpr operation_row row{.name = "mkdir",
                                     .opcode = IORING_OP_MKDIRAT,
                                     .first = route::pool,
                                     .reason = "changes a directory; the ring always punts it"};
  mkdir_call(int dir, std::string_view name, ::mode_t m) : directory{dir}, path{name}, mode{m} {}

  [[nodiscard]] int descriptor() const noexcept { return directory; }
  [[nodiscard]] int check() const noexcept { return path.check(); }
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
  [[nodiscard]] int check() const noexcept { return path.check(); }
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
  [[nodiscard]] int other_descriptor() const noexcept { return new_directory; }
  [[nodiscard]] int check() const noexcept { return from.check() != 0 ? from.check() : to.check(); }
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

/// mkdir(2).
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
/// renameat2(2): relative to directories; `flags` such as RENAME_NOREPLACE.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::rename_call> renameat(
    descriptor old_directory, std::string_view from, descriptor new_directory, std::string_view to,
    unsigned flags = 0, std::source_location at = std::source_location::current()) {
  return operation<detail::rename_call>{at,   old_directory.get(), from, new_directory.get(), to,
                                        flags};
}

}  // namespace iowq
