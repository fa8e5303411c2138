// SPDX-License-Identifier: BSL-1.0
// iowq/exec/census.hpp -- who is in flight, since when.
// Layer exec; needs nothing more. Next in the book: exec/young.hpp.
//
// A ring of links, so that who ends leaves from the middle. Who is young (exec/young.hpp) is not
// in it.
#pragma once

#include <iowq/exec/ledger.hpp>
#include <iowq/exec/operation.hpp>

namespace iowq::detail {

/// The list of a loop. Owner thread only.
class census {
 public:
  explicit census(ledger& counts) noexcept : counts_{counts} {}
  census(const census&) = delete;
  census& operator=(const census&) = delete;

  [[nodiscard]] bool empty() const noexcept { return anchor_.after == &anchor_; }

  void enter(operation_base& op) noexcept {
    op.set(operation_base::listed);
    if (!now_is_known_) now_ = linux_policy::now_coarsely();
    now_is_known_ = true;
    op.since_ = now_;
    op.before = &anchor_;
    op.after = anchor_.after;
    anchor_.after->before = &op;
    anchor_.after = &op;
  }
  static void leave(operation_base& op) noexcept {
    op.before->after = op.after;
    op.after->before = op.before;
  }

  /// Enters one that was young. It had been counted as done when it began; it will be, again.
  void grow_up(operation_base& op) noexcept {
    --counts_.of(op.row()).ring_ops;
    op.set(operation_base::was_young);
    enter(op);
  }

  /// Calls `f` with each, newest first.
  template <class F>
  void for_each(F&& f) const {
    for (census_node* n = anchor_.after; n != &anchor_; n = n->after)
      f(*static_cast<operation_base*>(n));
  }

  /// Who enters from now on came later. The clock is asked when somebody does: in a turn of young
  /// ones nobody.
  void turn() noexcept { now_is_known_ = false; }

 private:
  census_node anchor_{&anchor_, &anchor_};
  time_point now_{};  // of this turn, once it
  bool now_is_known_ = false;
  ledger& counts_;
};

}  // namespace iowq::detail
