// SPDX-License-Identifier: BSL-1.0
// iowq/op/walk.hpp -- a whole tree of directories.
// Layer op; needs exec, coro. Next in the book: op/endpoint.hpp.
//
// Every directory is opened relative to the one above it and never through a symbolic link, so a
// tree that is changed, renamed or swapped underneath leads nowhere else, and its depth is not
// bounded by PATH_MAX. Open at one time is one descriptor a level; in memory, of each level what
// is left of one batch. What was removed before its turn is passed over.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <source_location>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <iowq/base/fd.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/stream.hpp>
#include <iowq/exec/await.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/directory.hpp>
#include <iowq/op/open.hpp>

namespace iowq {

/// One entry of a tree. Its names are borrowed from the stream: until its next next().
class walk_entry : public directory_entry {
 public:
  walk_entry(std::string_view path, std::size_t name_at, file_type type, std::uint64_t inode,
             std::size_t depth, std::error_code error) noexcept
      : directory_entry{path.substr(name_at), type, inode},
        path_{path},
        depth_{depth},
        error_{error} {}

  /// As walk() was given it, and down from there.
  [[nodiscard]] std::string_view path() const noexcept { return path_; }
  /// 0: directly in the directory that is walked.
  [[nodiscard]] std::size_t depth() const noexcept { return depth_; }
  /// Why the entries of this directory do not follow (permission_denied, say); else none.
  [[nodiscard]] std::error_code error() const noexcept { return error_; }

 private:
  std::string_view path_;
  std::size_t depth_;
  std::error_code error_;
};

namespace detail {

/// What a tree may answer in the middle of a walk, through no fault of the program.
[[nodiscard]] inline bool is_of_the_tree(std::error_code error) noexcept {
  switch (error.value()) {
    case EACCES:
    case EPERM:
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case ESTALE:
      return true;
    default:
      return false;
  }
}

/// A directory that is being read.
struct walk_level {
  fd directory;
  std::size_t path_size;         // of the path up to and with its slash
  std::vector<std::byte> batch;  // what is left of it begins at `at`
  std::size_t at = 0;
};

[[nodiscard]] inline stream<walk_entry> walk_of(std::string path, std::source_location at) {
  constexpr int how = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
  constexpr std::size_t batch_size = std::size_t{128} << 10;
  fd top = co_await iowq::open(path, how, 0, at);
  if (!path.ends_with('/')) path += '/';
  std::vector<walk_level> levels;
  levels.push_back({std::move(top), path.size(), {}, 0});
  // Shared by all levels: each keeps a copy of what came, which most often is little.
  auto const room = std::make_unique<std::byte[]>(batch_size);
  while (!levels.empty()) {
    walk_level& here = levels.back();
    path.resize(here.path_size);
    if (here.at == here.batch.size()) {
      operation<getdents_call> next{at, here.directory.get(),
                                    mutable_bytes{room.get(), batch_size}};
      auto const filled = co_await as_result(std::move(next));
      // A directory that is removed while it is read has no more entries.
      if (!filled && !is_of_the_tree(filled.error())) throw_error(filled.error(), "walk");
      if (!filled || *filled == 0) {
        levels.pop_back();
        continue;
      }
      here.batch.assign(room.get(), room.get() + *filled);
      here.at = 0;
    }
    dirent_head head;
    std::memcpy(&head, here.batch.data() + here.at, dirent_head::name_at);
    std::string_view const name{
        reinterpret_cast<const char*>(here.batch.data() + here.at + dirent_head::name_at)};
    here.at += head.length;
    if (name == "." || name == "..") continue;
    path += name;
    std::size_t const name_at = here.path_size, depth = levels.size() - 1;
    auto type = static_cast<file_type>(head.type);
    std::error_code error;
    fd below;
    if (type == file_type::directory || type == file_type::unknown) {
      operation<open_call> inside = iowq::openat(here.directory, name, how, 0, at);
      auto opened = co_await as_result(std::move(inside));
      if (opened) {
        below = std::move(*opened);
        type = file_type::directory;
      } else if (!is_of_the_tree(opened.error())) {
        throw_error(opened.error(), "walk");
      } else if (type == file_type::directory || opened.error().value() == EACCES) {
        error = opened.error();  // of what is no directory, we are told that first
      }
    }
    walk_entry const entry{path, name_at, type, head.inode, depth, error};
    co_yield entry;
    if (below) {
      path += '/';
      levels.push_back({std::move(below), path.size(), {}, 0});
    }
  }
}

}  // namespace detail

/// All that is below the directory `path`, each directory before what is in it; otherwise in the
/// file system's order. Follows no symbolic link, not even `path` itself, unless that ends in a
/// slash; crosses into mounted file systems. A directory that may not be read is yielded with
/// error(); what else keeps the walk from going on is thrown, as when descriptors run out.
///
///     auto tree = iowq::walk("/usr/share");
///     while (auto entry = co_await tree.next()) print(entry->depth(), entry->path());
[[nodiscard("await its next()")]] inline stream<walk_entry> walk(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return detail::walk_of(std::string{path}, at);
}

}  // namespace iowq
