// SPDX-License-Identifier: BSL-1.0
// iowq/op/raw.hpp -- any SQE the caller fills.
#pragma once

#include <cstdint>
#include <source_location>
#include <type_traits>
#include <utility>

#include <iowq/exec/operation.hpp>

namespace iowq::inline v0 {

/// What a CQE said: `res` is the operation's answer or -errno.
struct raw_result {
  int res;
  std::uint32_t flags;
};

namespace detail {
template <class Prepare>
struct raw_call {
  static constexpr operation_row row{
      .name = "raw", .first = route::ring, .reason = "the caller filled the SQE"};
  static constexpr bool keeps_errors = true;  // no exception: the answer is the caller's to read
  Prepare fill;

  void prepare(io_uring_sqe& sqe) noexcept { fill(sqe); }
  static raw_result value(int res, std::uint32_t flags) noexcept { return {res, flags}; }
};
}  // namespace detail

/// Awaits the SQE that `prepare(sqe)` fills, and yields the CQE's `res` and `flags`; never throws.
/// `prepare` is called once, when there is room for it, with a zeroed SQE; user_data is ours.
/// What the SQE points at lives until the await has ended. Of an operation with several CQEs it
/// is the last that ends the await, and the last but a notification that is yielded.
///
///     auto [res, flags] = co_await iowq::raw([](io_uring_sqe& s) { io_uring_prep_nop(&s); });
template <class Prepare>
  requires std::is_nothrow_invocable_v<Prepare&, io_uring_sqe&> ||
           std::is_invocable_v<Prepare&, io_uring_sqe&>
[[nodiscard("co_await it")]] operation<detail::raw_call<std::decay_t<Prepare>>> raw(
    Prepare prepare, std::source_location at = std::source_location::current()) {
  static_assert(!IOWQ_DESTROYS_CLOSURES_TWICE || std::is_trivially_destructible_v<Prepare>,
                "this compiler destroys a closure that owns something twice when it is written "
                "inside the co_await expression: let prepare refer to what it needs");
  return operation<detail::raw_call<std::decay_t<Prepare>>>{at, std::move(prepare)};
}

}  // namespace iowq::inline v0
