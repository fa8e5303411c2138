// SPDX-License-Identifier: BSL-1.0
// Lets doctest print which form of a stream is used: single operations or a multishot request.
#pragma once

#include <ostream>

#include <iowq/op/detail/multishot_request.hpp>

namespace iowq {
inline std::ostream& operator<<(std::ostream& out, multishot how) {
  return out << (how == multishot::off ? "single" : "automatic");
}
}  // namespace iowq
