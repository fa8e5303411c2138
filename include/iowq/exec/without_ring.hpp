// SPDX-License-Identifier: BSL-1.0
// iowq/exec/without_ring.hpp -- what becomes of an operation for the ring where there is none.
// Layer exec; needs nothing more. Next in the book: exec/await.hpp.
//
// It is tried at once, by a call that does not block. Most often that succeeds, and the coroutine
// goes on without a turn of the loop: a round by way of epoll would cost two system calls more.
#pragma once

#include <cerrno>

#include <iowq/exec/backend_poll.hpp>
#include <iowq/exec/call.hpp>
#include <iowq/exec/loop.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/exec/stop_hook.hpp>

namespace iowq {

template <class Call>
class operation;

namespace detail {

/// The part of operation<Call> that only an executor without a ring needs. Owner thread only.
template <class Call>
class without_ring {
 public:
  using self = operation<Call>;

  /// False: it is over already, the coroutine goes on.
  IOWQ_NOINLINE static bool begin(self& op, loop& here) noexcept {
    if constexpr (!forms_of<Call>().once) {
      return op.at_once(here, -ENOTSUP);
    } else {
      if (op.wish_.has_way()) return op.at_once(here, -ENOTSUP);  // on_ring()
      if (!has_answer(op, here)) return true;
      if (here.poller()->may_end_at_once()) {
        here.template count<Call::row>(&ledger_entry::inline_ops);
        return op.at_once(here, op.answer_.res());
      }
      op.acts(&self::on_item);
      here.end_soon(op, op.answer_.res());
      return true;
    }
  }

  static readiness waits_for(const operation_base& op) noexcept {
    return readiness_of(static_cast<const self&>(op).call_);
  }

 private:
  /// Tries. False: it waits for its descriptor, or a worker has it.
  static bool has_answer(self& op, loop& here) noexcept {
    int const r = op.call_.once();
    op.acts(&on_ripe);
    if (r == -EAGAIN && here.poller()->arm(op)) return false;
    bool const would_wait = r == -EAGAIN && readiness_of(op.call_).events != 0;
    if (!would_wait && r != -EOPNOTSUPP) {
      op.answer_.set(r);
      return true;
    }
    here.template count<Call::row>(&ledger_entry::bounced);
    op.start_work(here, {route::pool, Call::row.unbound, {}, any_node});
    return false;
  }

  /// Out of the ready queue: its descriptor is ready, or it shall not wait any longer.
  static void on_ripe(loop_item* item) noexcept {
    auto& op = *static_cast<self*>(static_cast<operation_base*>(item));
    loop& here = *this_thread_loop;
    if (op.is(self::cancel_wanted))
      op.answer_.set(-ECANCELED);
    else if (!has_answer(op, here))
      return;
    op.settle(here);
    here.template finish<Call::row>(op, &ledger_entry::ring_ops);
  }
};

}  // namespace detail
}  // namespace iowq
