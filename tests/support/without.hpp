// SPDX-License-Identifier: BSL-1.0
// Makes the rings of this thread treat the kernel as one that lacks features.
//
//     iowq::detail::lacking old;
//     old.opcodes.set(IORING_OP_READ);
//     iowq_test::without const hidden{old};
#pragma once

#include <iowq/ring/detail/kernel.hpp>

namespace iowq_test {

/// As long as this object exists, the rings of this thread behave as if the kernel lacked `what`.
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
