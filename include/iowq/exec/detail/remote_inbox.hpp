// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/remote_inbox.hpp -- the items that other threads post to a loop.
//
// The posted item may be the last one that the owner waits for. The owner may then end its run and
// destroy the loop while the poster, which found it parked, has not woken it yet. Only a poster
// that found the owner parked touches the loop after its item is visible. The owner knows that
// there is such a poster: it was parked, and its inbox is not empty. So the owner counts the
// wake-ups that it is owed, and waits for that many before the loop is destroyed. A post that does
// not wake the owner pays nothing for this. A post that does adds one increment to its system call.
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

  /// Hands `i` over, and calls `wake()` if, and only if, the owner is parked. The loop must be
  /// alive when the call begins; `i` may cause its destruction before the call returns.
  template <class Wake>
  void post(loop_item& i, Wake&& wake) noexcept {
    if (!inbox_.post(i)) return;  // *this may be gone
    wake();
    // release: pairs with wait_for_callers(). This is our last access to the loop.
    kicks_.fetch_add(1, std::memory_order_release);
  }
  /// Runs `call()`, which may touch the loop even after it has let the owner end. Any thread, and
  /// signal handlers.
  template <class Call>
  void call_while_alive(Call&& call) noexcept {
    // relaxed: the store that lets the owner end comes later, and is a release store.
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

  /// Returns all items that have arrived, oldest first, and ends the parked state.
  [[nodiscard]] loop_item* drain() noexcept {
    loop_item* const first = inbox_.drain();
    if (std::exchange(parked_, false) && first != nullptr) ++owed_;
    return first;
  }
  [[nodiscard]] bool empty() const noexcept { return inbox_.empty(); }
  /// Call before the owner sleeps. False: the inbox is not empty.
  [[nodiscard]] bool park() noexcept { return parked_ = inbox_.park(); }

  /// Call before the loop is destroyed, after the last drain().
  void wait_for_callers() const noexcept {
    // acquire: pairs with the releases above. After that, no other thread is inside the loop.
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
