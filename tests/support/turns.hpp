// SPDX-License-Identifier: BSL-1.0
// Runs turns of the loop in which the kernel can make progress. yield() does not enter the kernel;
// a timer that is due does.
#pragma once

#include <chrono>

#include <iowq/coro/task.hpp>
#include <iowq/op/time.hpp>

namespace iowq_test {

inline iowq::task<> turns(int n) {
  for (; n != 0; --n) co_await iowq::sleep_for(std::chrono::seconds{0});
}

}  // namespace iowq_test
