// SPDX-License-Identifier: BSL-1.0
// iowq/exec/item.hpp -- what the ready queue and the inbox of a loop hold.
// Layer exec; needs base. Next in the book: exec/lazy.hpp.
#pragma once

namespace iowq::detail {

/// Something for the owner to do, once. In at most one queue at a time; lives with whoever waits
/// for it (an operation, a yield, a task about to start).
class loop_item {
 public:
  using function = void(loop_item* self) noexcept;

  explicit loop_item(function* act) noexcept : act_{act} {}

  loop_item() noexcept {}  // no store: most operations are never queued
  /// What run() does; before it is queued.
  void acts(function* act) noexcept { act_ = act; }

  /// Owner thread. May end the life of *this.
  void run() noexcept { act_(this); }

  loop_item* next;  // the queue's, while it is in one

 private:
  function* act_;
};

}  // namespace iowq::detail
