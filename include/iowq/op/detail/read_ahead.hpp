// SPDX-License-Identifier: BSL-1.0
// iowq/op/detail/read_ahead.hpp -- reads directories before a walk needs them.
//
// A read-ahead starts between two calls of next(), so no await of the stream owns it and it may
// outlive the stream. It is therefore heap-allocated, and has at most one awaiter:
//
//   reading -> done         kept until the walk reaches the directory
//         \--> abandoned    no longer needed: cancelled, and deleted when it has completed
//
// run() does not return while a read-ahead is in progress, abandoned or not, so that none outlives
// it. The coroutine that walks may have moved to another executor in the meantime; it then drops
// the read-ahead from that executor's thread.
#pragma once

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <source_location>
#include <string_view>
#include <system_error>
#include <utility>

#include <iowq/base/fd.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/coro/detail/continuation.hpp>
#include <iowq/exec/detail/parked_operation.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/path_text.hpp>
#include <iowq/op/directory.hpp>
#include <iowq/queue/intrusive_list.hpp>

namespace iowq::inline v0::detail {

/// True for errors that a tree may cause in the middle of a walk, through no fault of the program.
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

/// Records of getdents64(2), one after the other.
struct listing {
  struct by_free {
    void operator()(std::byte* memory) const noexcept { std::free(memory); }
  };
  std::unique_ptr<std::byte, by_free> records;
  std::size_t size = 0;
  bool ended = false;  // these are the last of the directory
};

/// An open directory, and its entries or the first part of them.
struct directory_batch {
  fd directory;
  listing entries;

  /// True if the directory was removed after it was opened; it then has no entries. Asks no remote
  /// server.
  [[nodiscard]] bool is_gone() const noexcept {
    struct ::statx now;
    constexpr int how = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
    return ::statx(directory.get(), "", how, STATX_NLINK, &now) == 0 && now.stx_nlink == 0;
  }
};

/// Opens the directory `name` in `from`, never through a symbolic link, and reads it. Without a
/// name, reads the next part of `from`. One trip to the pool does both, and most directories are
/// read to their end by it.
struct open_directory_call {
  static constexpr operation_row row{
      .name = "walk",
      .first = route::pool,
      .reason = "opens a directory and reads it, in one go; has no opcode"};
  static constexpr int how = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
  using shared_directory = std::shared_ptr<const fd>;

  open_directory_call(shared_directory in, std::string_view path, std::size_t most)
      : from{std::move(in)}, name{path}, room{most} {}
  open_directory_call(open_directory_call&&) noexcept = default;

  [[nodiscard]] int descriptor() const noexcept { return from->get(); }
  [[nodiscard]] int validate() const noexcept { return name.validate(); }
  int call(const stop_token&) noexcept {
    int file = from->get();
    if (*name.c_str() != '\0') {
      file = or_errno(::openat(file, name.c_str(), how | O_CLOEXEC));
      if (file < 0) return file;
      found.directory.reset(file);
    }
    constexpr std::size_t longest_record = 512;  // rounded up
    listing& all = found.entries;
    all.records.reset(static_cast<std::byte*>(std::malloc(room)));
    if (!all.records) return -ENOMEM;
    while (room - all.size >= longest_record) {
      int const n = read_records(file, all.records.get() + all.size, room - all.size);
      if (n > 0) {
        all.size += static_cast<std::size_t>(n);
        continue;
      }
      // A directory that is removed while it is read has no more entries.
      all.ended = n == 0 || is_of_the_tree(to_error(n));
      if (!all.ended && all.size == 0) return n;
      break;
    }
    shrink(all);
    return 0;
  }
  directory_batch value(int) noexcept { return std::move(found); }

  shared_directory from;
  path_text name;
  std::size_t room;
  directory_batch found;

 private:
  /// Shrinks the buffer to the records: it is kept until the walk needs it, and most directories
  /// are small.
  static void shrink(listing& all) noexcept {
    std::byte* const whole = all.records.release();
    void* const rest = std::realloc(whole, all.size + 1);
    all.records.reset(rest != nullptr ? static_cast<std::byte*>(rest) : whole);
  }
};

/// One directory that is being read ahead. Its creator owns it until drop().
class read_ahead final : completion_callback, loop_item {
 public:
  using found = result<directory_batch>;

  /// Starts the operation immediately, on this thread's executor. `position` is for the caller's
  /// use.
  read_ahead(std::source_location at, open_directory_call::shared_directory from,
             std::string_view name, std::size_t room, std::size_t position)
      : completion_callback{&on_done},
        loop_item{&delete_self},
        position_{position},
        home_{loop::current()},
        op_{at, std::move(from), name, room} {
    ++home_.shots().abandoned;
    if (!op_.start(*this, home_.ambient())) over();
  }

  /// Gives the read-ahead up: deletes it, or abandons it if it has not completed. drop() and the
  /// next three functions may be called on any thread.
  void drop() noexcept {
    bool const at_home = is_at_home();  // on another thread, *this may be deleted once abandoned
    // acq_rel: pairs with over(). If over() was first, it no longer uses *this; if not, it has
    // *this deleted.
    if (state_.exchange(state::abandoned, std::memory_order_acq_rel) == state::done)
      delete this;
    else if (at_home)
      home_.cancel(operation_access::base(op_));
  }
  /// True on the thread of the executor that reads the directory; the read-ahead completes there.
  [[nodiscard]] bool is_at_home() const noexcept { return this_thread_loop == &home_; }
  [[nodiscard]] bool is_over() const noexcept {
    // acquire: pairs with over().
    return state_.load(std::memory_order_acquire) == state::done;
  }
  [[nodiscard]] std::size_t position() const noexcept { return position_; }

  /// Moves the result out. Call once, after completion.
  [[nodiscard]] found take() noexcept { return std::move(*found_); }

  class wait_awaiter;

  read_ahead* prev_in_line;  // links of the owner's ahead_line
  read_ahead* next_in_line;

 private:
  enum class state : std::uint8_t { reading, done, abandoned };

  ~read_ahead() = default;

  static void on_done(completion_callback* self) noexcept {
    static_cast<read_ahead*>(self)->over();
  }
  inline void over() noexcept;
  static void delete_self(loop_item* self) noexcept {
    auto& me = *static_cast<read_ahead*>(self);
    --me.home_.shots().abandoned;
    delete &me;
  }

  std::size_t const position_;
  loop& home_;
  operation<open_directory_call> op_;
  std::optional<found> found_;
  atomic<state> state_{state::reading};
  wait_awaiter* waits_ = nullptr;
};

/// `co_await read_ahead::wait_awaiter{ahead, at}` waits until `ahead` has completed. A stop request
/// ends the wait, not the read.
class [[nodiscard("co_await it")]] read_ahead::wait_awaiter final
    : public parked_operation<wait_awaiter> {
 public:
  static constexpr operation_row row{
      .name = "walk_turn",
      .first = route::inline_,
      .reason = "waits for a directory that is being read ahead of its turn"};
  static constexpr const char* reported_as = open_directory_call::row.name;

  wait_awaiter(read_ahead& ahead, std::source_location at) noexcept
      : parked_operation{at}, ahead_{ahead} {}

 private:
  friend parked_operation;

  bool try_complete() noexcept {
    result_.set(0);
    return ahead_.is_over();
  }
  void park(loop&) noexcept { ahead_.waits_ = this; }
  bool unpark() noexcept {
    ahead_.waits_ = nullptr;
    return true;
  }

  read_ahead& ahead_;
};

inline void read_ahead::over() noexcept {
  found_.emplace(op_.await_resume_result());
  loop& here = home_;
  wait_awaiter* const waiter = std::exchange(waits_, nullptr);
  // acq_rel: pairs with drop() and is_over(), which then see found_. From here on drop() may delete
  // *this on another thread. If it was abandoned, a later item of the loop deletes it, and not this
  // function, because op_ is still in its last step, the call of this function.
  if (state_.exchange(state::done, std::memory_order_acq_rel) == state::abandoned)
    return here.ready(*this);
  --here.shots().abandoned;
  if (waiter != nullptr) here.complete_later(*waiter, 0);
}

/// The read-aheads of one directory, in the order in which the walk needs them.
class ahead_line {
 public:
  ahead_line() noexcept = default;
  ahead_line(ahead_line&&) noexcept = default;
  ahead_line& operator=(ahead_line&&) = delete;
  ~ahead_line() {
    while (!line_.empty()) drop_first();
  }

  void push_back(read_ahead& one) noexcept {
    line_.push_back(one);
    ++size_;
  }
  [[nodiscard]] read_ahead* front() const noexcept { return line_.front(); }
  [[nodiscard]] unsigned size() const noexcept { return size_; }
  void drop_first() noexcept {
    line_.pop_front()->drop();
    --size_;
  }

 private:
  intrusive_list<&read_ahead::next_in_line, &read_ahead::prev_in_line> line_;
  unsigned size_ = 0;
};

}  // namespace iowq::inline v0::detail
