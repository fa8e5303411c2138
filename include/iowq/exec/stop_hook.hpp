// SPDX-License-Identifier: BSL-1.0
// iowq/exec/stop_hook.hpp -- a stop request reaches an operation.
// Layer exec; needs nothing more. Next in the book: exec/route.hpp.
#pragma once

#include <iowq/exec/loop.hpp>
#include <iowq/exec/operation.hpp>

namespace iowq::detail {

inline void stop_hook::requested() noexcept {
  if (this_thread_loop == &owner_) return owner_.cancel(op_);
  posted_ = true;
  owner_.post(*this);
}

inline void stop_hook::arrived(loop_item* self) noexcept {
  auto& hook = *static_cast<stop_hook*>(self);
  hook.posted_ = false;
  operation_base& op = hook.op_;
  loop& owner = hook.owner_;
  if (op.stage_ != stage::lingering) return owner.cancel(op);
  op.hook_.destroy();
  owner.resume(op);
}

}  // namespace iowq::detail
