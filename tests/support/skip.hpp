// SPDX-License-Identifier: BSL-1.0
// Skips a case that this machine cannot run. The run lists the skipped cases at its end.
#pragma once

#include <string>

namespace iowq_test {
void note_skip(std::string reason);
}  // namespace iowq_test

/// `if (!features.msg_ring) SKIP_CASE("no IORING_OP_MSG_RING");`
#define SKIP_CASE(reason)             \
  do {                                \
    ::iowq_test::note_skip((reason)); \
    return;                           \
  } while (false)
