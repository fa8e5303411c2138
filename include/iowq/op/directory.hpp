// SPDX-License-Identifier: BSL-1.0
// iowq/op/directory.hpp -- reads the entries of a directory, as a stream.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/coro/stream.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/open.hpp>

namespace iowq::inline v0 {

/// The type of the file that a directory entry names; unknown if the file system does not store it.
enum class file_type : unsigned char {
  unknown = DT_UNKNOWN,
  fifo = DT_FIFO,
  character = DT_CHR,
  directory = DT_DIR,
  block = DT_BLK,
  regular = DT_REG,
  symlink = DT_LNK,
  socket = DT_SOCK,
};

/// One entry of a directory. name() is valid until the next call of the stream's next().
class directory_entry {
 public:
  directory_entry(std::string_view name, file_type type, std::uint64_t inode) noexcept
      : name_{name}, type_{type}, inode_{inode} {}

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] file_type type() const noexcept { return type_; }
  [[nodiscard]] std::uint64_t inode() const noexcept { return inode_; }

 private:
  std::string_view name_;
  file_type type_;
  std::uint64_t inode_;
};

namespace detail {

/// getdents64(2). Returns how many bytes of `into` it filled with records, or -errno.
[[nodiscard]] inline int read_records(int directory, void* into, std::size_t room) noexcept {
  return static_cast<int>(or_errno(::syscall(SYS_getdents64, directory, into, room)));
}

/// getdents64(2) as an operation.
struct getdents_call {
  static constexpr operation_row row{
      .name = "getdents", .first = route::pool, .reason = "reads the directory; has no opcode"};
  int directory;
  mutable_bytes bytes;

  [[nodiscard]] int descriptor() const noexcept { return directory; }
  int call(const stop_token&) const noexcept {
    return read_records(directory, bytes.data(), bytes.length());
  }
  static std::size_t value(int answer) noexcept { return static_cast<std::size_t>(answer); }
};

/// The layout of getdents64's records (linux_dirent64), which no header declares.
struct dirent_head {
  std::uint64_t inode;
  std::int64_t offset;
  unsigned short length;
  unsigned char kind;
  static constexpr std::size_t name_at = 19;
};

/// A record in the buffer that holds it; the name is not copied.
struct dirent_record : dirent_head {
  explicit dirent_record(const std::byte* at) noexcept
      : name{reinterpret_cast<const char*>(at + name_at)} {
    std::memcpy(static_cast<dirent_head*>(this), at, name_at);
  }
  [[nodiscard]] file_type type() const noexcept { return static_cast<file_type>(kind); }
  /// True for `.` and `..`, which the streams leave out.
  [[nodiscard]] bool is_own() const noexcept { return name == "." || name == ".."; }

  std::string_view name;
};

template <class = void>
[[nodiscard]] stream<directory_entry> entries_of(fd directory, std::source_location at) {
  std::array<std::byte, 32768> batch;
  for (;;) {
    operation<getdents_call> read{at, directory.get(), mutable_bytes{batch}};
    std::size_t const filled = co_await read;
    if (filled == 0) break;
    for (std::size_t here = 0; here < filled;) {
      dirent_record const next{batch.data() + here};
      here += next.length;
      if (next.is_own()) continue;
      directory_entry const entry{next.name, next.type(), next.inode};
      co_yield entry;
    }
  }
}

template <class = void>
[[nodiscard]] stream<directory_entry> entries_of(std::string path, std::source_location at) {
  fd directory = co_await iowq::open(path, O_RDONLY | O_DIRECTORY, 0, at);
  auto all = entries_of(std::move(directory), at);
  while (auto entry = co_await all.next()) co_yield *entry;
}

}  // namespace detail

/// Yields the entries of the directory `path`, without `.` and `..`, in the file system's order.
/// Reads them in large batches on the pool, in bounded memory even if the directory is large.
///
///     auto entries = iowq::read_directory("/etc");
///     while (auto entry = co_await entries.next()) print(entry->name());
template <class = void>
[[nodiscard("await its next()")]] stream<directory_entry> read_directory(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return detail::entries_of(std::string{path}, at);
}

/// Like read_directory(path), for an open directory: takes ownership of it and starts at its file
/// position.
template <class = void>
[[nodiscard("await its next()")]] stream<directory_entry> read_directory(
    fd directory, std::source_location at = std::source_location::current()) {
  return detail::entries_of(std::move(directory), at);
}

}  // namespace iowq::inline v0
