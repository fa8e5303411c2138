// SPDX-License-Identifier: BSL-1.0
// iowq/flow/ranges.hpp -- for_each, transform, when_all and when_any at the end of a range-v3 pipe.
//
// iowq.hpp does not include this header, because it needs range-v3: include it where you use it.
//
// Everything in flow/ already accepts any range. These overloads add the pipe syntax, which reads
// from the source through the views to the await. A pipe of views without a source can also be
// composed with them and given its source later.
#pragma once

#include <sys/uio.h>

#include <concepts>
#include <cstddef>
#include <ranges>
#include <type_traits>
#include <utility>
#include <vector>

#include <range/v3/functional/pipeable.hpp>

#include <iowq/flow/detail/range_traits.hpp>
#include <iowq/flow/for_each.hpp>
#include <iowq/flow/transform.hpp>
#include <iowq/flow/when_all.hpp>
#include <iowq/flow/when_any.hpp>
#include <iowq/op/bytes.hpp>

namespace iowq::inline v0 {

namespace detail {

/// An element that refers to bytes stored outside of it, so the bytes outlive the element, which
/// may be gone after the next step of the iterator.
template <class Element>
concept refers_to_bytes =
    (std::is_lvalue_reference_v<Element> || std::ranges::borrowed_range<Element>) &&
    (std::convertible_to<Element, mutable_bytes> || std::convertible_to<Element, const_bytes>);

template <class Element>
[[nodiscard]] ::iovec part_of(Element&& element) noexcept {
  if constexpr (std::convertible_to<Element, mutable_bytes>) {
    mutable_bytes const bytes = std::forward<Element>(element);
    return {bytes.data(), bytes.size()};
  } else {
    const_bytes const bytes = std::forward<Element>(element);
    return {const_cast<void*>(bytes.data()), bytes.size()};
  }
}

}  // namespace detail

/// `range | for_each(limit, f)`: see for_each(range, limit, f).
///
///     auto copies = paths | ranges::views::filter(is_new) | iowq::for_each(64, copy);
///     co_await copies;
template <class F>
[[nodiscard]] auto for_each(std::size_t limit, F f) {
  return ranges::make_pipeable([limit, f = std::move(f)]<class R>(R&& range) mutable {
    return iowq::for_each(std::forward<R>(range), limit, std::move(f));
  });
}

/// `range | transform(limit, f)`: see transform(range, limit, f). The result is a stream.
template <class F>
[[nodiscard]] auto transform(std::size_t limit, F f) {
  return ranges::make_pipeable([limit, f = std::move(f)]<class R>(R&& range) mutable {
    return iowq::transform(std::forward<R>(range), limit, std::move(f));
  });
}

/// `range | when_all()`: see when_all(range).
[[nodiscard]] inline auto when_all() {
  return ranges::make_pipeable(
      []<class R>(R&& range) { return iowq::when_all(std::forward<R>(range)); });
}

/// `range | when_any()`: see when_any(range).
[[nodiscard]] inline auto when_any() {
  return ranges::make_pipeable(
      []<class R>(R&& range) { return iowq::when_any(std::forward<R>(range)); });
}

/// Returns the iovecs for readv() and writev() from a range of spans, strings or arrays of bytes.
/// Keep the result and the bytes alive until those calls have completed. The result for const bytes
/// may be passed to writev() only. Throws std::bad_alloc.
///
///     auto const parts = iowq::buffers(chunks);      // or: chunks | ... | iowq::buffers()
///     co_await iowq::writev(file, parts);
template <detail::iterable R>
  requires detail::refers_to_bytes<
      decltype(*std::ranges::begin(std::declval<std::remove_reference_t<R>&>()))>
[[nodiscard]] std::vector<::iovec> buffers(R&& range) {
  std::vector<::iovec> parts;
  if constexpr (requires { std::ranges::size(range); })
    parts.reserve(static_cast<std::size_t>(std::ranges::size(range)));
  for (auto&& bytes : range) parts.push_back(detail::part_of(std::forward<decltype(bytes)>(bytes)));
  return parts;
}
[[nodiscard]] inline auto buffers() {
  return ranges::make_pipeable(
      []<class R>(R&& range) { return iowq::buffers(std::forward<R>(range)); });
}

}  // namespace iowq::inline v0
