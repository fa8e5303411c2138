// SPDX-License-Identifier: BSL-1.0
// The smallest program of a user: found by pkg-config, by CMake and by Meson.
#include <iowq/iowq.hpp>

#include <cstdio>

static iowq::task<int> answer() { co_return 42; }

int main() {
  std::printf("iowq %d.%d.%d\n", IOWQ_VERSION_MAJOR, IOWQ_VERSION_MINOR, IOWQ_VERSION_PATCH);
  return iowq::run(answer()) == 42 ? 0 : 1;
}
