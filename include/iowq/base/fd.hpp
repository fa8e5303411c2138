// SPDX-License-Identifier: BSL-1.0
// iowq/base/fd.hpp -- owns one descriptor.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <utility>

#include <iowq/base/policy.hpp>

namespace iowq::inline v0 {

namespace detail {
/// Asked before an fd closes its descriptor by itself: exec knows what is in flight on this thread.
using fd_check = void(int number) noexcept;
inline constinit thread_local fd_check* before_close = nullptr;
}  // namespace detail

/// Owns one descriptor and closes it; move-only. close(2) may block (a socket that lingers, the
/// last reference of a deleted file): where that matters, `co_await close(std::move(file))`
/// instead of letting the destructor do it. That also ends what is in flight on it; the destructor
/// cannot, and stops the program if it meets such an operation of this thread's executor, unless a
/// worker has that: it may be over already.
///
/// It also keeps what operations found out about its open file, so that they look once and not
/// each time, which they must do for a bare number: that may be another file's by now. Who puts
/// another file under the number of an fd, by dup2(2), makes it forget:
/// `file.reset(file.release())`.
class fd {
 public:
  fd() noexcept = default;
  /// Takes `number` over; a negative one owns nothing.
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

  /// Gives the descriptor up without closing it.
  [[nodiscard]] int release() noexcept {
    remember(0);
    return std::exchange(number_, -1);
  }

  /// Closes what it owns and takes `number` over.
  void reset(int number = -1) noexcept {
    int const old = std::exchange(number_, number);
    remember(0);
    if (old < 0) return;
    if (detail::before_close != nullptr) detail::before_close(old);
    ::close(old);  // never retried: after EINTR it is closed, and the number another's, maybe
  }

 private:
  friend class descriptor;

  // relaxed, both: the word is all there is to see. Threads that borrow one fd may look at the same
  // time, and then find the same.
  [[nodiscard]] std::uint64_t note() const noexcept {
    return note_.load(std::memory_order_relaxed);
  }
  void remember(std::uint64_t note) const noexcept { note_.store(note, std::memory_order_relaxed); }

  int number_ = -1;
  mutable detail::atomic<std::uint64_t> note_{
      0};  // 0: nothing; else a word of op/detail/file_kind.hpp
};

/// How operations take a descriptor: an int or an fd, which stays the caller's.
class descriptor {
 public:
  descriptor(int number) noexcept : number_{number} {}
  descriptor(const fd& owner) noexcept : number_{owner.get()}, note_{owner.note()} {}
  /// A temporary would close it before the operation began.
  descriptor(fd&&) = delete;

  [[nodiscard]] int get() const noexcept { return number_; }

  /// What is known of its file: a word of op/detail/file_kind.hpp, or 0.
  [[nodiscard]] std::uint64_t note() const noexcept { return note_; }

 protected:
  void remember(const fd& owner, std::uint64_t note) noexcept { owner.remember(note_ = note); }

 private:
  int number_;
  std::uint64_t note_ = 0;
};

}  // namespace iowq::inline v0
