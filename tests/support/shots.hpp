// SPDX-License-Identifier: BSL-1.0
// How doctest prints which of its two forms a stream takes.
#pragma once

#include <ostream>

#include <iowq/op/detail/multishot_request.hpp>

namespace iowq {
inline std::ostream& operator<<(std::ostream& out, shots how) {
  return out << (how == shots::single ? "single" : "automatic");
}
}  // namespace iowq
