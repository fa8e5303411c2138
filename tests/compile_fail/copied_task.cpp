// SPDX-License-Identifier: BSL-1.0
// A task has one owner, who awaits it once.
// expect: (deleted|implicitly-deleted|use of deleted).*task
#include <utility>

#include <iowq/coro/task.hpp>

iowq::task<> work();

iowq::task<> caller() {
  auto first = work();
#ifdef FIXED
  auto second = std::move(first);
#else
  auto second = first;
#endif
  co_await std::move(second);
}
