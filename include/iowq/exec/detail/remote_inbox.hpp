// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/remote_inbox.hpp -- what other threads post to a loop.
//
// What is posted may be the last that the owner waited for: it ends its run and destroys the loop
// while the poster, who found it parked, has yet to wake it. Only that one touches the loop once
// its item is in sight, and the owner knows that there is one: it was parked, and there is mail.
// So it counts the wake-ups that it is owed, and is not destroyed before it got as many: a post
// that wakes nobody costs nothing for it, and one that does counts its system call anyway.
#pragma once

#include <sched.h>

#include <cstdint>
#include <utility>

#include <iowq/base/policy.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/queue/inbox.hpp>

namespace iowq::inline v0::detail {

/// The inbox of a loop. Owner thread only, unless a member says otherwise.
class remote_inbox {
 public:
  // ---- Any thread ----

  /// Hands `i` over; calls `wake()` if, and only if, the owner is parked. Begins while the loop
  /// lives; it may end by what `i` does.
  template <class Wake>
  void post(loop_item& i, Wake&& wake) noexcept {
    if (!inbox_.post(i)) return;  // *this may be gone
    wake();
    // release: pairs with wait_for_callers(): the last that we touch of the loop.
    kicks_.fetch_add(1, std::memory_order_release);
  }
  /// `call()` may let the owner end the loop, and touches it all the same. Signal handlers, too.
  template <class Call>
  void call_while_alive(Call&& call) noexcept {
    // relaxed: what lets the owner end comes behind it, and is a release store.
    callers_.fetch_add(1, std::memory_order_relaxed);
    call();
    // release: as in post().
    callers_.fetch_sub(1, std::memory_order_release);
  }
  /// How often the owner was woken.
  [[nodiscard]] std::uint64_t kicks() const noexcept {
    return kicks_.load(std::memory_order_relaxed);  // relaxed: a count
  }

  // ---- Owner ----

  /// All that has arrived, oldest first; ends a park.
  [[nodiscard]] loop_item* drain() noexcept {
    loop_item* const first = inbox_.drain();
    if (std::exchange(parked_, false) && first != nullptr) ++owed_;
    return first;
  }
  [[nodiscard]] bool empty() const noexcept { return inbox_.empty(); }
  /// Before it sleeps. False: there is mail.
  [[nodiscard]] bool park() noexcept { return parked_ = inbox_.park(); }

  /// Before the loop is destroyed, after the last drain().
  void wait_for_callers() const noexcept {
    // acquire: pairs with the releases above; nobody is in the loop any more.
    while (kicks_.load(std::memory_order_acquire) != owed_ ||
           callers_.load(std::memory_order_acquire) != 0)
      ::sched_yield();
  }

 private:
  // Any thread.
  alignas(64) inbox<&loop_item::next> inbox_;
  atomic<std::uint64_t> kicks_{0};
  atomic<std::uint32_t> callers_{0};
  // Owner.
  alignas(64) bool parked_ = false;
  std::uint64_t owed_ = 0;
};

}  // namespace iowq::inline v0::detail
