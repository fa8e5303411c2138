// SPDX-License-Identifier: BSL-1.0
// iowq/base/fd.hpp -- fd, which owns one file descriptor, and descriptor, which borrows one.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <utility>

#include <iowq/base/policy.hpp>

namespace iowq::inline v0 {

namespace detail {
/// Called before the destructor or reset() of an fd or a fixed_file closes it. The executor sets
/// the function, because it knows the operations in flight on this thread. Null: no check.
using fd_check = void(int number) noexcept;
inline constinit thread_local fd_check* before_close = nullptr;
}  // namespace detail

/// Owns one descriptor and closes it; move-only. close(2) may block (a socket that lingers, the
/// last reference to a deleted file). Where that matters, call `co_await close(std::move(file))`
/// instead of leaving it to the destructor. That call also cancels the operations in flight on the
/// descriptor. The destructor cannot: if it finds such an operation of this thread's executor, it
/// stops the program. It ignores operations that a worker has, because they may have completed.
///
/// An fd also caches what operations found out about its open file, so that they examine the file
/// once. For a bare number they must do so each time, because the number may refer to another file
/// by then. After dup2(2) onto the number of an fd, discard the cache:
/// `file.reset(file.release())`.
class fd {
 public:
  fd() noexcept = default;
  /// Takes ownership of `number`; with a negative `number` it owns nothing.
  explicit fd(int number) noexcept : number_{number} {}
  fd(fd&& other) noexcept : number_{other.number_}, note_{other.note()} {
    static_cast<void>(other.release());
  }
  fd& operator=(fd&& other) noexcept {
    if (this == &other) return *this;
    std::uint64_t const note = other.note();
    reset(other.release());
    remember(note);
    return *this;
  }
  ~fd() { reset(); }

  [[nodiscard]] int get() const noexcept { return number_; }
  [[nodiscard]] explicit operator bool() const noexcept { return number_ >= 0; }

  /// Returns the descriptor and gives up its ownership without closing it. Returns -1 if it
  /// owns nothing.
  [[nodiscard]] int release() noexcept {
    remember(0);
    return std::exchange(number_, -1);
  }

  /// Closes the descriptor it owns, if any, and takes ownership of `number`.
  void reset(int number = -1) noexcept {
    int const old = std::exchange(number_, number);
    remember(0);
    if (old < 0) return;
    if (detail::before_close != nullptr) detail::before_close(old);
    ::close(old);  // not retried: it is closed even after EINTR, and its number may be reused
  }

 private:
  friend class descriptor;

  // relaxed, both: the word publishes nothing but itself. Threads that borrow one fd may examine
  // its file at the same time; they then store the same word.
  [[nodiscard]] std::uint64_t note() const noexcept {
    return note_.load(std::memory_order_relaxed);
  }
  void remember(std::uint64_t note) const noexcept { note_.store(note, std::memory_order_relaxed); }

  int number_ = -1;
  // Cached facts about the file, as op/detail/file_kind.hpp encodes them; 0: nothing is cached.
  mutable detail::atomic<std::uint64_t> note_{0};
};

/// The parameter type of operations for a descriptor: an int or an fd. It borrows the descriptor;
/// the caller keeps it open until the operation has completed.
class descriptor {
 public:
  descriptor(int number) noexcept : number_{number} {}
  descriptor(const fd& owner) noexcept : number_{owner.get()}, note_{owner.note()} {}
  /// Deleted: a temporary fd would close the descriptor before the operation starts.
  descriptor(fd&&) = delete;

  [[nodiscard]] int get() const noexcept { return number_; }

  /// Cached facts about the file, as op/detail/file_kind.hpp encodes them; 0: nothing is cached.
  [[nodiscard]] std::uint64_t note() const noexcept { return note_; }

 protected:
  void remember(const fd& owner, std::uint64_t note) noexcept { owner.remember(note_ = note); }

 private:
  int number_;
  std::uint64_t note_ = 0;
};

}  // namespace iowq::inline v0
