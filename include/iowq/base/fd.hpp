// SPDX-License-Identifier: BSL-1.0
// iowq/base/fd.hpp -- owns one descriptor.
// Layer base; needs assert. Next in the book: coro/awaiter.hpp.
#pragma once

#include <unistd.h>

#include <utility>

#include <iowq/base/assert.hpp>

namespace iowq {

/// Owns one descriptor and closes it; move-only. close(2) may block (a socket that lingers, the
/// last reference of a deleted file): where that matters, `co_await close(std::move(file))`
/// instead of letting the destructor do it. No operation on it may be in flight then.
class fd {
 public:
  fd() noexcept = default;
  /// Takes `number` over; a negative one owns nothing.
  explicit fd(int number) noexcept : number_{number} {}
  fd(fd&& other) noexcept : number_{other.release()} {}
  fd& operator=(fd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~fd() { reset(); }

  [[nodiscard]] int get() const noexcept { return number_; }
  [[nodiscard]] explicit operator bool() const noexcept { return number_ >= 0; }

  /// Gives the descriptor up without closing it.
  [[nodiscard]] int release() noexcept { return std::exchange(number_, -1); }

  /// Closes what it owns and takes `number` over.
  void reset(int number = -1) noexcept {
    int const old = std::exchange(number_, number);
    // Never retried: after EINTR Linux has closed it, and the number may be another's already.
    if (old >= 0) ::close(old);
  }

 private:
  int number_ = -1;
};

/// How operations take a descriptor: an int or an fd, which stays the caller's.
class descriptor {
 public:
  descriptor(int number) noexcept : number_{number} {}  // NOLINT(google-explicit-constructor)
  descriptor(const fd& owner) noexcept
      : number_{owner.get()} {}  // NOLINT(google-explicit-constructor)
  /// A temporary would close it before the operation began.
  descriptor(fd&&) = delete;

  [[nodiscard]] int get() const noexcept { return number_; }

 private:
  int number_;
};

}  // namespace iowq
