// SPDX-License-Identifier: BSL-1.0
// iowq/exec/operation_row.hpp -- the static description of an operation: one row each.
//
// The backends, the counters, dump() and the documentation all read the row, so no fact about an
// operation is written twice.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace iowq::inline v0 {

// g++ 12 warns that a scoped enumerator shadows the class of the same name. It cannot.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"

/// Where an operation is finished.
enum class route : std::uint8_t {
  inline_,  // on the owner thread, by a call that cannot block
  ring,     // by io_uring
  pool,     // by a worker of the pool
};

/// executor_options::punt: whether our pool or the kernel's own workers run the operations that the
/// ring cannot finish without blocking.
enum class punt_policy : std::uint8_t { pool, kernel };

/// executor_options::backend.
enum class backend_kind : std::uint8_t { automatic, io_uring, poll };

#pragma GCC diagnostic pop

[[nodiscard]] constexpr std::string_view to_string(route way) noexcept {
  constexpr std::string_view names[] = {"inline", "ring", "pool"};
  return names[static_cast<unsigned>(way)];
}

namespace detail {

/// How to dispose of a result that arrives after its awaiter has gone.
enum class discard : std::uint8_t { nothing, close_descriptor };

}  // namespace detail

/// One operation: its name, its opcode, its first route and the reason for that route.
struct operation_row {
  static constexpr int no_opcode = -1;

  const char* name;
  int opcode = no_opcode;     // IORING_OP_*
  route first = route::ring;  // may change: by forcing, by policy, by the kind of descriptor
  bool unbound = false;       // on the pool: may wait without limit, so not on the bound account
  bool cancellable = true;    // false: runs to its end even if a stop is requested
  detail::discard late = detail::discard::nothing;
  const char* key = "";  // on the pool: the key that orders it, in words
  const char* reason;    // for `first`
};

namespace detail {

/// The route of one await. It starts as its row says; the operation and the user may change it.
struct placement {
  route way;
  bool unbound;
  std::optional<std::uint64_t> key;
  int node = -1;  // any node
  bool brief = false;
};

}  // namespace detail

}  // namespace iowq::inline v0
