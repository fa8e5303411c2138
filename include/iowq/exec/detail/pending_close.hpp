// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/pending_close.hpp -- cancels what uses a descriptor before it is closed.
//
// The kernel holds the open file of what is in flight, so close(2) ends none of it: a read goes on
// and takes data that was meant for nobody, under a number that may be another file's by then.
#pragma once

#include <cstdio>

#include <iowq/base/assert.hpp>
#include <iowq/base/fd.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/operation_base.hpp>

namespace iowq::inline v0::detail {

/// Cancels what uses the descriptor that `closer` will close. True: there is something, and
/// `closer` is queued when all of it has ended.
[[nodiscard]] inline bool cancel_users(loop& here, operation_base& closer) noexcept {
  here.devices().fds().forget(closer.used_descriptor());
  return here.in_flight().cancel_users(closer, [&here](operation_base& op) { here.cancel(op); });
}

/// What an fd asks before it closes its descriptor by itself: all that runs on this thread is known
/// here, so that mistake is, too. What was told to end, as everything is when all is being stopped,
/// is no mistake: nobody waits for it, and it has no time to do harm.
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

/// The descriptors of an operation, for who knows no more of it than its base. Null: it has none.
template <class Operation, class Call>
constexpr auto descriptor_accessor() noexcept {
  if constexpr (requires(const Call& c) { c.descriptor(); })
    return [](const operation_base& op) noexcept {
      return static_cast<const Operation&>(op).arguments().descriptor();
    };
  else
    return nullptr;
}
template <class Operation, class Call>
constexpr auto second_descriptor_accessor() noexcept {
  if constexpr (requires(const Call& c) { c.second_descriptor(); })
    return [](const operation_base& op) noexcept {
      return static_cast<const Operation&>(op).arguments().second_descriptor();
    };
  else
    return nullptr;
}

}  // namespace iowq::inline v0::detail
