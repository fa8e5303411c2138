// SPDX-License-Identifier: BSL-1.0
// A kernel that lacks something, as far as the rings of this thread are told.
//
//     iowq::detail::lacking old;
//     old.opcodes.set(IORING_OP_READ);
//     iowq_test::without const hidden{old};
#pragma once

#include <iowq/ring/detail/kernel.hpp>

namespace iowq_test {

/// On rings whose kernel lacks that, as long as it lives.
class without {
 public:
  explicit without(iowq::detail::lacking what) : what_{what} { iowq::detail::pretended = &what_; }
  without(const without&) = delete;
  without& operator=(const without&) = delete;
  ~without() { iowq::detail::pretended = nullptr; }

 private:
  iowq::detail::lacking what_;
};

}  // namespace iowq_test
