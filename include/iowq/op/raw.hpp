// SPDX-License-Identifier: BSL-1.0
// iowq/op/raw.hpp -- submits an SQE that the caller fills in.
#pragma once

#include <cstdint>
#include <source_location>
#include <type_traits>
#include <utility>

#include <iowq/exec/operation.hpp>

namespace iowq::inline v0 {

/// The content of a CQE: `res` is the operation's result or -errno.
struct raw_result {
  int res;
  std::uint32_t flags;
};

namespace detail {
template <class Prepare>
struct raw_call {
  static constexpr operation_row row{
      .name = "raw", .first = route::ring, .reason = "the caller filled the SQE"};
  static constexpr bool keeps_errors = true;  // never throws: the caller reads `res`
  Prepare fill;

  void prepare(io_uring_sqe& sqe) noexcept { fill(sqe); }
  static raw_result value(int res, std::uint32_t flags) noexcept { return {res, flags}; }
};
}  // namespace detail

/// Submits the SQE that `prepare(sqe)` fills in, and yields the `res` and `flags` of its CQE; never
/// throws. `prepare` is called once, when an SQE is free, with a zeroed SQE; the library sets
/// user_data. The memory that the SQE points at must live until the await has completed. If the
/// operation posts several CQEs, the last one completes the await; the CQE that is yielded is the
/// last one that is not a notification.
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
