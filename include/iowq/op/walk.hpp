// SPDX-License-Identifier: BSL-1.0
// iowq/op/walk.hpp -- walks a whole tree of directories.
//
// Every directory is opened relative to its parent and never through a symbolic link. So a tree
// that is changed, renamed or swapped during the walk cannot lead the walk out of the tree, and
// PATH_MAX does not bound the depth. A directory that was removed before the walk reaches it is
// skipped.
//
// One trip to the pool opens a directory and reads it, before the walk reaches it: while the
// consumer handles one directory, the next ones are read, several at a time, so that the disk
// always has requests to work on. When the walk reaches a directory that was read ahead, it checks
// that the directory still exists, by one system call that asks no remote server. When descriptors
// run out, the walk stops reading ahead before it fails.
//
// Memory and descriptors: each ancestor directory whose entries have not all been yielded holds the
// rest of one batch of entries, and one descriptor for as long as it has directories left. Reading
// ahead holds at most 32 directories, with 32 KiB and a descriptor each, and at most 8 in one
// directory.
#pragma once

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <iowq/base/fd.hpp>
#include <iowq/base/result.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/stream.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/read_ahead.hpp>
#include <iowq/op/directory.hpp>
#include <iowq/op/open.hpp>

namespace iowq::inline v0 {

/// One entry of a tree. path() and name() are valid until the next call of the stream's next().
class walk_entry : public directory_entry {
 public:
  walk_entry(std::string_view path, std::size_t name_at, file_type type, std::uint64_t inode,
             std::size_t depth, std::error_code error) noexcept
      : directory_entry{path.substr(name_at), type, inode},
        path_{path},
        depth_{depth},
        error_{error} {}

  /// The path of the entry: the path that walk() was given, and the names from there down.
  [[nodiscard]] std::string_view path() const noexcept { return path_; }
  /// The number of directories between the root of the walk and the entry; 0: directly in the root.
  [[nodiscard]] std::size_t depth() const noexcept { return depth_; }
  /// Why the entries of this directory do not follow, such as permission_denied. No error
  /// otherwise.
  [[nodiscard]] std::error_code error() const noexcept { return error_; }

 private:
  std::string_view path_;
  std::size_t depth_;
  std::error_code error_;
};

namespace detail {

/// A directory whose entries have not all been yielded.
struct walk_level {
  std::shared_ptr<const fd> directory;
  std::size_t path_size;  // size of its path, including a slash at the end
  std::size_t depth;
  listing entries;
  std::size_t at = 0;      // entries before this offset have been yielded
  std::size_t looked = 0;  // entries before this offset have been searched for directories
  ahead_line ahead = {};   // read-aheads of the directories among them

  [[nodiscard]] bool is_at_end() const noexcept { return at == entries.size; }
};

[[nodiscard]] inline bool may_be_directory(const dirent_record& one) noexcept {
  bool const is_one = one.type() == file_type::directory || one.type() == file_type::unknown;
  return is_one && !one.is_own();
}

/// The directories from the root of a walk to its current entry, and their read-aheads.
class walk_path {
 public:
  static constexpr std::size_t first_room = std::size_t{32} << 10;
  static constexpr std::size_t further_room = std::size_t{128} << 10;

  explicit walk_path(std::source_location at) noexcept : at_{at} {}

  [[nodiscard]] bool empty() const noexcept { return levels_.empty(); }
  [[nodiscard]] walk_level& back() noexcept { return levels_.back(); }
  void enter(directory_batch one, std::size_t path_size, std::size_t depth) {
    levels_.push_back({std::make_shared<const fd>(std::move(one.directory)), path_size, depth,
                       std::move(one.entries)});
    read_ahead_here();
  }
  void leave() noexcept {
    held_ -= back().ahead.size();
    levels_.pop_back();
  }
  /// Continues with the next part of a large directory.
  void go_on_with(listing next) {
    walk_level& here = back();
    here.entries = std::move(next);
    here.at = here.looked = 0;
    read_ahead_here();
  }

  /// Starts to read the next subdirectories of the current directory. Takes at most half of the
  /// free places, and leaves the rest to the levels below, whose directories the walk reaches
  /// before most of these.
  void read_ahead_here() {
    walk_level& here = back();
    if (here.ahead.size() > most_in_one / 2)
      return;  // refill several at a time: each refill wakes a worker
    here.looked = std::max(here.looked, here.at);
    while (here.looked != here.entries.size && here.ahead.size() < most_in_one &&
           here.ahead.size() + held_ < most_) {
      dirent_record const next{here.entries.records.get() + here.looked};
      if (may_be_directory(next)) {
        here.ahead.push_back(
            *new read_ahead{at_, here.directory, next.name, first_room, here.looked});
        ++held_;
      }
      here.looked += next.length;
    }
    // Hand the read-aheads to the pool now. A consumer that handles entries without suspending does
    // not return to the loop, which would do so at the end of its turn.
    loop::current().pool().flush();
    bool const needed = !here.entries.ended || here.looked != here.entries.size;
    if (!needed && here.ahead.size() == 0) here.directory.reset();
  }
  /// Opens and reads the directory `name`, the next entry of the current directory. Uses the result
  /// of its read-ahead, if there is one and it is still valid.
  template <class = void>
  task<result<directory_batch>> next_directory(std::string_view name) {
    if (read_ahead* const ahead = back().ahead.front();
        ahead != nullptr && ahead->position() == back().at) {
      result<directory_batch> found = to_error(-ECANCELED);
      if (ahead->is_at_home()) {
        co_await until_over(*ahead);
        found = ahead->take();
      }
      drop_first_of(back());
      if (found ? !found->is_gone() : is_of_the_tree(found.error())) co_return found;
      if (is_scarcity(found.error())) co_await give_way();
    }
    for (;;) {
      operation<open_directory_call> now{at_, back().directory, name, first_room};
      auto found = co_await as_result(std::move(now));
      if (found || !is_scarcity(found.error()) || !co_await give_way()) co_return found;
    }
  }

 private:
  static constexpr unsigned most_in_one = 8;

  [[nodiscard]] static bool is_scarcity(std::error_code error) noexcept {
    return error.value() == EMFILE || error.value() == ENFILE || error.value() == ENOMEM;
  }

  template <class = void>
  task<> until_over(read_ahead& one) {
    read_ahead::wait_awaiter over{one, at_};
    co_await over;
  }
  void drop_first_of(walk_level& one) noexcept {
    one.ahead.drop_first();
    --held_;
  }

  /// Call when descriptors or memory have run out, possibly because of the read-aheads. Waits for
  /// all read-aheads, drops them, and halves their limit. Returns false if the limit was already 0,
  /// so that a retry is pointless.
  template <class = void>
  task<bool> give_way() {
    bool const gives = std::exchange(most_, most_ / 2) != 0;
    for (walk_level& one : levels_) {
      while (read_ahead* const next = one.ahead.front()) {
        if (next->is_at_home()) co_await until_over(*next);
        drop_first_of(one);
      }
      one.looked = one.at;
    }
    co_return gives;
  }

  std::source_location at_;
  std::vector<walk_level> levels_;
  unsigned held_ = 0;   // number of read-aheads, over all levels
  unsigned most_ = 32;  // limit of held_
};

template <class = void>
[[nodiscard]] stream<walk_entry> walk_of(std::string path, std::source_location at) {
  fd top = co_await iowq::open(path, open_directory_call::how, 0, at);
  if (!path.ends_with('/')) path += '/';
  walk_path way{at};
  way.enter({std::move(top), {}}, path.size(), 0);
  while (!way.empty()) {
    walk_level& here = way.back();
    path.resize(here.path_size);
    if (here.is_at_end()) {
      if (here.entries.ended) {
        way.leave();
        continue;
      }
      operation<open_directory_call> further{at, here.directory, std::string_view{},
                                             walk_path::further_room};
      directory_batch more = co_await further;
      way.go_on_with(std::move(more.entries));
      continue;
    }
    dirent_record const next{here.entries.records.get() + here.at};
    if (next.is_own()) {
      here.at += next.length;
      continue;
    }
    path += next.name;
    auto type = next.type();
    std::error_code error;
    directory_batch below;
    if (may_be_directory(next)) {
      auto found = co_await way.next_directory(next.name);
      if (found) {
        below = std::move(*found);
        type = file_type::directory;
      } else if (!is_of_the_tree(found.error())) {
        throw_error(found.error(), "walk");
      } else if (type == file_type::directory || found.error().value() == EACCES) {
        error = found.error();  // EACCES: a directory, since ENOTDIR would be reported first
      }
    }
    here.at += next.length;
    if (may_be_directory(next)) way.read_ahead_here();
    std::size_t const depth = here.depth;
    walk_entry const entry{path, here.path_size, type, next.inode, depth, error};
    co_yield entry;
    if (!below.directory || below.is_gone()) continue;
    path += '/';
    // Remove this level before descending into its last entry: a long chain of directories then
    // needs constant memory.
    if (here.is_at_end() && here.entries.ended) way.leave();
    way.enter(std::move(below), path.size(), depth + 1);
  }
}

}  // namespace detail

/// Yields all entries below the directory `path`: each directory before its entries, and otherwise
/// in the file system's order. Follows no symbolic link, except `path` itself if it ends in a
/// slash. Crosses into mounted file systems. A directory that cannot be read is yielded with
/// error(). Any other error that prevents the walk from continuing is thrown, for example when
/// descriptors run out.
///
/// Up to 32 directories, at most 8 of them in one directory, are opened and read ahead, by several
/// workers at a time. Files created in them after that may be missed. Destroying the stream closes
/// these directories; run() returns only when the reads that were in progress have completed.
///
///     auto tree = iowq::walk("/usr/share");
///     while (auto entry = co_await tree.next()) print(entry->depth(), entry->path());
template <class = void>
[[nodiscard("await its next()")]] stream<walk_entry> walk(
    std::string_view path, std::source_location at = std::source_location::current()) {
  return detail::walk_of(std::string{path}, at);
}

}  // namespace iowq::inline v0
