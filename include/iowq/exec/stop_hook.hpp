// SPDX-License-Identifier: BSL-1.0
// iowq/exec/stop_hook.hpp -- a stop request reaches an operation.
// Layer exec; needs nothing more. Next in the book: exec/route.hpp.
#pragma once

#include <iowq/exec/loop.hpp>
#include <iowq/exec/operation.hpp>

namespace iowq::detail {

inline void loop::cancel(operation_base& op) noexcept {
  if (!op.row().cancellable || op.is(operation_base::cancel_wanted)) return;
  op.set(operation_base::cancel_wanted);
  switch (op.stage_) {
    case stage::waiting:
      ring_.drop_cancelled([this](operation_base& late) { end_soon(late, -ECANCELED); });
      break;
    case stage::ring:
      ring_.cancel(op);
      break;
    case stage::poll:
      poll_->forget(op);
      ripe(op);  // which sees that it shall not try again
      break;
    case stage::pool:
      pool_.flush();
      // dequeued: finished() was called and has posted; running: its token was set.
      if (auto* const pool = pool_.if_started()) pool->cancel(op.kind_->as_work(op));
      break;
    case stage::timer:
    case stage::in_line:
      if (op.kind_->disarm(op)) end_soon(op, -ECANCELED);
      break;
    default:
      break;
  }
}

IOWQ_NOINLINE inline void loop::hook(operation_base& op, stop_token token) noexcept {
  if (!token.stop_possible()) return;
  // Who could not fail any more did not prepare.
  bool const made = op.is(operation_base::hooked) || stop_hook::prepare(*this, op, token);
  IOWQ_ASSERT(made, "no memory to register an operation with its stop token");
  op.hook_.object().begin(token);
}

IOWQ_NOINLINE inline bool stop_hook::prepare(loop& owner, operation_base& op,
                                             stop_token token) noexcept {
  if (!token.stop_possible()) return true;
  if (op.hook_.emplace(owner, op) == nullptr) return false;
  op.set(operation_base::hooked);
  return true;
}

inline void stop_hook::drop(operation_base& op) noexcept {
  if (!op.is(operation_base::hooked)) return;
  op.hook_.destroy();
  op.bits_ = static_cast<std::uint8_t>(op.bits_ & ~operation_base::hooked);
}

/// Tells whoever asks the ambient token, and cancels all there is, whatever its own token. Once
/// more, and it cancels what has begun since: what was shielded from a stop may wait for ever.
IOWQ_COLD inline void loop::stop_all() noexcept {
  // acquire: as in turn(); what was asked for in between is done here as well.
  static_cast<void>(stop_wanted_.exchange(false, std::memory_order_acquire));
  if (!stopping()) {
    ring_.open_to_all(false);
    stop_->request_stop();
  }
  cancel_all();
}

IOWQ_NOINLINE inline void loop::finish_unusually(operation_base& op, ledger_entry& line) noexcept {
  if (op.answer_.res() == -ECANCELED && op.is(operation_base::cancel_wanted)) ++line.cancelled;
  left(op);
  if (op.is(operation_base::hooked)) {
    if (!op.hook_.object().end()) {
      op.stage_ = stage::lingering;  // its stop request is still in our inbox, and touches it
      return;
    }
    op.hook_.destroy();
  }
  resume(op);
}

inline void loop::left(const operation_base& op) noexcept {
  if (!op.is(operation_base::cancel_wanted)) return;
  census_.ended(op, [this](operation_base& closer) { ready(closer); });
}

IOWQ_COLD inline void loop::cancel_all() noexcept {
  in_flight().for_each([this](operation_base& op) { cancel(op); });
}

IOWQ_COLD inline void loop::cancel_again() noexcept {
  bool const all = ring_.ask_again();
  census_.for_each([&](operation_base& op) {
    if (op.stage_ == stage::ring && op.is(operation_base::cancel_wanted)) ring_.cancel(op, all);
  });
}

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
