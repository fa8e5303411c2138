// SPDX-License-Identifier: BSL-1.0
// iowq/flow/detail/range_traits.hpp -- what for_each and its relatives accept as a range.
#pragma once

#include <iterator>
#include <ranges>
#include <type_traits>
#include <utility>

namespace iowq::inline v0::detail {

/// A range that a for loop can iterate over: ranges of std and of range-v3, including single-pass
/// and infinite ones.
template <class R>
concept iterable = requires(std::remove_reference_t<R>& r) {
  std::ranges::begin(r) != std::ranges::end(r);
  *std::ranges::begin(r);
};

template <iterable R>
using element_of =
    std::remove_cvref_t<decltype(*std::ranges::begin(std::declval<std::remove_reference_t<R>&>()))>;

/// The type in which an item is passed to the user's function. It is a value if the element may be
/// gone after the next step of the iterator, which is assumed unless the range is multi-pass.
template <iterable R, class Iterator =
                          decltype(std::ranges::begin(std::declval<std::remove_reference_t<R>&>()))>
using item_of = std::conditional_t<std::forward_iterator<Iterator>, std::iter_reference_t<Iterator>,
                                   std::remove_cvref_t<std::iter_reference_t<Iterator>>>;

}  // namespace iowq::inline v0::detail
