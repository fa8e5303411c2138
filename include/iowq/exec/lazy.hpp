// SPDX-License-Identifier: BSL-1.0
// iowq/exec/lazy.hpp -- room for an object that most operations never need.
// Layer exec; needs nothing. Next in the book: exec/row.hpp.
#pragma once

#include <memory>
#include <utility>

namespace iowq::detail {

/// std::optional without the flag: its owner keeps that beside its other flags, where all are
/// cleared by one store. The owner also calls destroy().
template <class T>
union lazy {
  lazy() noexcept {}
  lazy(const lazy&) = delete;
  lazy& operator=(const lazy&) = delete;
  ~lazy() {}

  template <class... Arguments>
  T& emplace(Arguments&&... arguments) {
    return *std::construct_at(&object, std::forward<Arguments>(arguments)...);
  }
  void destroy() noexcept { std::destroy_at(&object); }

  T object;
};

}  // namespace iowq::detail
