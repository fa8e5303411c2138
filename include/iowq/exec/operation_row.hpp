// SPDX-License-Identifier: BSL-1.0
// iowq/exec/operation_row.hpp -- what is known of an operation before it runs: one row each.
//
// The backends, the ledger, dump() and the documentation all read the row; nothing about an
// operation is written a second time.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace iowq::inline v0 {

// g++ 12 sees a scoped enumerator shadow the class of the same name; it cannot.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"

/// Who finishes an operation.
enum class route : std::uint8_t {
  inline_,  // the owner, by a call that cannot block
  ring,     // io_uring
  pool,     // a worker
};

/// executor_options::punt: who runs what the ring cannot finish without blocking.
enum class punt_policy : std::uint8_t { pool, kernel };

/// executor_options::backend.
enum class backend_kind : std::uint8_t { automatic, io_uring, poll };

#pragma GCC diagnostic pop

[[nodiscard]] constexpr std::string_view to_string(route way) noexcept {
  constexpr std::string_view names[] = {"inline", "ring", "pool"};
  return names[static_cast<unsigned>(way)];
}

namespace detail {

/// What becomes of a result that nobody awaits any more.
enum class discard : std::uint8_t { nothing, close_descriptor };

}  // namespace detail

/// One operation: its name, its opcode, where it goes first and why.
struct operation_row {
  static constexpr int no_opcode = -1;

  const char* name;
  int opcode = no_opcode;     // IORING_OP_*
  route first = route::ring;  // before forcing, policy and what the descriptor turns out to be
  bool unbound = false;       // on the pool: may wait without end, so not on the bound account
  bool cancellable = true;    // false: runs to its end although a stop was requested
  detail::discard late = detail::discard::nothing;
  const char* key = "";  // on the pool: what orders it, in words
  const char* reason;    // for `first`
};

namespace detail {

/// Where one await goes: starts as its row says, then the operation and the user may change it.
struct placement {
  route way;
  bool unbound;
  std::optional<std::uint64_t> key;
  int node = -1;  // any
  bool brief = false;
};

}  // namespace detail

}  // namespace iowq::inline v0
