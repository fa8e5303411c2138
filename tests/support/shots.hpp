// SPDX-License-Identifier: BSL-1.0
// How doctest prints which of its two forms a stream takes.
#pragma once

#include <ostream>

#include <iowq/op/detail/multishot_request.hpp>

namespace iowq {
inline std::ostream& operator<<(std::ostream& out, multishot how) {
  return out << (how == multishot::off ? "single" : "automatic");
}
}  // namespace iowq
