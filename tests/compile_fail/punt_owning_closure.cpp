// SPDX-License-Identifier: BSL-1.0
// GCC 12 destroys such a closure twice, so punt() refuses it there.
// only: gcc12
// expect: name the closure first.*iowq::moved
#include <memory>
#include <utility>

#include <iowq/iowq.hpp>

iowq::task<int> caller() {
#ifdef FIXED
  auto closure = [p = std::make_unique<int>(1)] { return *p; };
  co_return co_await iowq::punt(iowq::moved(closure));
#else
  co_return co_await iowq::punt([p = std::make_unique<int>(1)] { return *p; });
#endif
}
