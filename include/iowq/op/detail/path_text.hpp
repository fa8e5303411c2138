// SPDX-License-Identifier: BSL-1.0
// iowq/op/detail/path_text.hpp -- a copy of a path or name, as an argument of an operation.
#pragma once

#include <limits.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string_view>
#include <utility>

#include <iowq/coro/detail/frame_cache.hpp>

namespace iowq::inline v0::detail {

/// A NUL-terminated copy of a path. Short ones are stored in place, longer ones in recycled
/// memory, so that awaiting a path operation does not touch the heap once the thread is warm.
class path_text {
 public:
  explicit path_text(std::string_view path) : size_{path.size()} {
    if (path.find('\0') != path.npos) {
      fault_ = EINVAL;
      size_ = 0;
    } else if (size_ >= PATH_MAX) {
      fault_ = ENAMETOOLONG;
      size_ = 0;
    }
    text_ = size_ < sizeof here_ ? here_ : static_cast<char*>(allocate_frame(size_ + 1));
    if (size_ != 0) std::copy_n(path.data(), size_, text_);
    text_[size_] = '\0';
  }
  path_text(path_text&& other) noexcept : size_{other.size_}, fault_{other.fault_} {
    if (other.text_ == other.here_) {
      std::copy_n(other.here_, size_ + 1, here_);
      text_ = here_;
    } else {
      text_ = std::exchange(other.text_, other.here_);
      other.size_ = 0;
      other.here_[0] = '\0';
    }
  }
  path_text& operator=(path_text&&) = delete;
  ~path_text() {
    if (text_ != here_) free_frame(text_, size_ + 1);
  }

  [[nodiscard]] const char* c_str() const noexcept { return text_; }
  /// 0, -EINVAL for a path with a NUL inside, or -ENAMETOOLONG. Makes no system call.
  [[nodiscard]] int validate() const noexcept { return -fault_; }

 private:
  std::size_t size_;
  int fault_ = 0;
  char* text_;
  char here_[48];
};

}  // namespace iowq::inline v0::detail
