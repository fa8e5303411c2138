// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/pending_close.hpp -- cancels the operations on a descriptor before it is closed.
//
// Operations in flight hold their open file in the kernel, so close(2) does not end them. A read
// continues and takes data that has no reader any more, while the number may already belong to
// another file.
#pragma once

#include <cstdio>

#include <iowq/base/assert.hpp>
#include <iowq/base/fd.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/operation_base.hpp>

namespace iowq::inline v0::detail {

/// Cancels the operations that use the descriptor which `closer` will close. True: there are such
/// operations, and `closer` is queued when all of them have completed.
[[nodiscard]] inline bool cancel_users(loop& here, operation_base& closer) noexcept {
  here.devices().fds().forget(closer.used_descriptor());
  return here.in_flight().cancel_users(closer, [&here](operation_base& op) { here.cancel(op); });
}

/// An fd calls this before its destructor or reset() closes the descriptor. This loop knows all
/// operations of this thread, so it can detect the closing of a descriptor in use. Operations that
/// are already being cancelled are exempt, as all are during a stop: their results are not awaited,
/// and they end before they can do harm.
inline void assert_unused(int number) noexcept {
  if (this_thread_loop == nullptr) return;
  this_thread_loop->devices().fds().forget(number);
  if (this_thread_loop->will_stop()) return;
  const operation_base* const user = this_thread_loop->in_flight().find_user(number);
  if (user == nullptr) return;
  std::fprintf(stderr, "iowq: %s %d, in use by %s at %s:%u\n", is_slot(number) ? "slot" : "fd",
               is_slot(number) ? slot_number(number) : number, user->row().name,
               user->source().file_name(), static_cast<unsigned>(user->source().line()));
  assertion_failed("nothing in flight uses it",
                   "an fd was destroyed, or closed by reset(), while an operation on it is in "
                   "flight: co_await close() ends both",
                   __FILE__, __LINE__);
}

/// The accessor of a call's descriptor, for code that only has the operation_base. Null if the call
/// has no such descriptor.
template <class Operation, class Call>
constexpr auto descriptor_accessor() noexcept {
  if constexpr (requires(const Call& c) { c.descriptor(); })
    return [](const operation_base& op) noexcept {
      return operation_access::call(operation_access::from_base<Operation>(op)).descriptor();
    };
  else
    return nullptr;
}
template <class Operation, class Call>
constexpr auto second_descriptor_accessor() noexcept {
  if constexpr (requires(const Call& c) { c.second_descriptor(); })
    return [](const operation_base& op) noexcept {
      return operation_access::call(operation_access::from_base<Operation>(op)).second_descriptor();
    };
  else
    return nullptr;
}

}  // namespace iowq::inline v0::detail
