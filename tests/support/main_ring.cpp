// SPDX-License-Identifier: BSL-1.0
// For the layers whose tests need a ring: where the kernel refuses one, they are skipped, aloud.
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "run.hpp"

int main(int argc, char** argv) {
  io_uring_params params{};
  const long ring = ::syscall(SYS_io_uring_setup, 4, &params);
  if (ring < 0) {
    std::printf("skipped: all of %s: io_uring_setup: %s\n", argv[0], std::strerror(errno));
    return 77;  // Meson: skipped
  }
  ::close(static_cast<int>(ring));
  return iowq_test::run(argc, argv);
}
