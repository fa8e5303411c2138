// SPDX-License-Identifier: BSL-1.0
// A task that nobody awaits never starts: throwing one away is a mistake the compiler names.
// expect: ignoring return.*nodiscard
#include <iowq/coro/task.hpp>

iowq::task<> work();

iowq::task<> caller() {
#ifdef FIXED
  co_await work();
#else
  work();
  co_return;
#endif
}
