// SPDX-License-Identifier: BSL-1.0
// iowq/op/xattr.hpp -- reads and changes the extended attributes of files.
#pragma once

#include <sys/xattr.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string_view>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/path_text.hpp>

namespace iowq::inline v0 {

namespace detail {

/// getxattr(2).
struct getxattr_call {
  static constexpr operation_row row{.name = "getxattr",
                                     .opcode = IORING_OP_GETXATTR,
                                     .first = route::pool,
                                     .reason = "walks a path; the ring always punts it"};
  getxattr_call(std::string_view file, std::string_view attribute, mutable_bytes room)
      : path{file}, name{attribute}, bytes{room} {}

  [[nodiscard]] int validate() const noexcept {
    return path.validate() != 0 ? path.validate() : name.validate();
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_GETXATTR;
    sqe.addr = reinterpret_cast<std::uintptr_t>(name.c_str());
    sqe.off = reinterpret_cast<std::uintptr_t>(bytes.data());
    sqe.len = bytes.length();
    sqe.addr3 = reinterpret_cast<std::uintptr_t>(path.c_str());
  }
  int call(const stop_token&) const noexcept {
    return static_cast<int>(
        or_errno(::getxattr(path.c_str(), name.c_str(), bytes.data(), bytes.length())));
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }

  path_text path, name;
  mutable_bytes bytes;
};

/// fgetxattr(2).
struct fgetxattr_call {
  static constexpr operation_row row{.name = "fgetxattr",
                                     .opcode = IORING_OP_FGETXATTR,
                                     .first = route::pool,
                                     .reason = "may read the disk; the ring always punts it"};
  fgetxattr_call(int f, std::string_view attribute, mutable_bytes room)
      : file{f}, name{attribute}, bytes{room} {}

  [[nodiscard]] int descriptor() const noexcept { return file; }
  [[nodiscard]] int validate() const noexcept { return name.validate(); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_FGETXATTR;
    sqe.fd = file;
    sqe.addr = reinterpret_cast<std::uintptr_t>(name.c_str());
    sqe.off = reinterpret_cast<std::uintptr_t>(bytes.data());
    sqe.len = bytes.length();
  }
  int call(const stop_token&) const noexcept {
    return static_cast<int>(
        or_errno(::fgetxattr(file, name.c_str(), bytes.data(), bytes.length())));
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }

  int file;
  path_text name;
  mutable_bytes bytes;
};

/// setxattr(2).
struct setxattr_call {
  static constexpr operation_row row{.name = "setxattr",
                                     .opcode = IORING_OP_SETXATTR,
                                     .first = route::pool,
                                     .reason = "writes an inode; the ring always punts it"};
  setxattr_call(std::string_view file, std::string_view attribute, const_bytes content, int f)
      : path{file}, name{attribute}, bytes{content}, flags{f} {}

  [[nodiscard]] int validate() const noexcept {
    return path.validate() != 0 ? path.validate() : name.validate();
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_SETXATTR;
    sqe.addr = reinterpret_cast<std::uintptr_t>(name.c_str());
    sqe.off = reinterpret_cast<std::uintptr_t>(bytes.data());
    sqe.len = bytes.length();
    sqe.addr3 = reinterpret_cast<std::uintptr_t>(path.c_str());
    sqe.xattr_flags = static_cast<unsigned>(flags);
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::setxattr(path.c_str(), name.c_str(), bytes.data(), bytes.length(), flags));
  }
  path_text path, name;
  const_bytes bytes;
  int flags;
};

/// fsetxattr(2).
struct fsetxattr_call {
  static constexpr operation_row row{.name = "fsetxattr",
                                     .opcode = IORING_OP_FSETXATTR,
                                     .first = route::pool,
                                     .reason = "writes an inode; the ring always punts it"};
  fsetxattr_call(int of, std::string_view attribute, const_bytes content, int f)
      : file{of}, name{attribute}, bytes{content}, flags{f} {}

  [[nodiscard]] int descriptor() const noexcept { return file; }
  [[nodiscard]] int validate() const noexcept { return name.validate(); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_FSETXATTR;
    sqe.fd = file;
    sqe.addr = reinterpret_cast<std::uintptr_t>(name.c_str());
    sqe.off = reinterpret_cast<std::uintptr_t>(bytes.data());
    sqe.len = bytes.length();
    sqe.xattr_flags = static_cast<unsigned>(flags);
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::fsetxattr(file, name.c_str(), bytes.data(), bytes.length(), flags));
  }
  int file;
  path_text name;
  const_bytes bytes;
  int flags;
};

/// listxattr(2).
struct listxattr_call {
  static constexpr operation_row row{
      .name = "listxattr", .first = route::pool, .reason = "walks a path; has no opcode"};
  listxattr_call(std::string_view file, mutable_bytes room) : path{file}, bytes{room} {}

  [[nodiscard]] int validate() const noexcept { return path.validate(); }
  int call(const stop_token&) const noexcept {
    auto* const names = static_cast<char*>(bytes.data());
    return static_cast<int>(or_errno(::listxattr(path.c_str(), names, bytes.length())));
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }

  path_text path;
  mutable_bytes bytes;
};

/// removexattr(2).
struct removexattr_call {
  static constexpr operation_row row{
      .name = "removexattr", .first = route::pool, .reason = "writes an inode; has no opcode"};
  removexattr_call(std::string_view file, std::string_view attribute)
      : path{file}, name{attribute} {}

  [[nodiscard]] int validate() const noexcept {
    return path.validate() != 0 ? path.validate() : name.validate();
  }
  int call(const stop_token&) const noexcept {
    return or_errno(::removexattr(path.c_str(), name.c_str()));
  }
  path_text path, name;
};

}  // namespace detail

/// getxattr(2): reads the attribute `name` (such as "user.mime_type") of the file `path` into
/// `bytes`, following symbolic links. Yields the size of the value; if `bytes` is empty, the size
/// that is needed. Fails with ERANGE (result_out_of_range) if the value does not fit.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::getxattr_call> getxattr(
    std::string_view path, std::string_view name, mutable_bytes bytes,
    std::source_location at = std::source_location::current()) {
  return operation<detail::getxattr_call>{at, path, name, bytes};
}
/// fgetxattr(2): like getxattr(), for an open file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fgetxattr_call> fgetxattr(
    descriptor file, std::string_view name, mutable_bytes bytes,
    std::source_location at = std::source_location::current()) {
  return operation<detail::fgetxattr_call>{at, file.get(), name, bytes};
}

/// setxattr(2): sets the attribute `name` to `bytes`; `flags`: XATTR_CREATE, XATTR_REPLACE.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::setxattr_call> setxattr(
    std::string_view path, std::string_view name, const_bytes bytes, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::setxattr_call>{at, path, name, bytes, flags};
}
/// fsetxattr(2): like setxattr(), for an open file.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::fsetxattr_call> fsetxattr(
    descriptor file, std::string_view name, const_bytes bytes, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return operation<detail::fsetxattr_call>{at, file.get(), name, bytes, flags};
}

/// listxattr(2): stores the names of all attributes in `names`, each followed by a NUL. Yields
/// their total size; if `names` is empty, the size that is needed.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::listxattr_call> listxattr(
    std::string_view path, mutable_bytes names,
    std::source_location at = std::source_location::current()) {
  return operation<detail::listxattr_call>{at, path, names};
}

/// removexattr(2): removes the attribute `name`.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::removexattr_call> removexattr(
    std::string_view path, std::string_view name,
    std::source_location at = std::source_location::current()) {
  return operation<detail::removexattr_call>{at, path, name};
}

}  // namespace iowq::inline v0
