// SPDX-License-Identifier: BSL-1.0
// iowq/pool/quiesce.hpp -- waits until nothing is queued and nothing runs.
// Layer pool; needs pool/cancel. Next in the book: pool/pool.hpp.
//
// For who is about to exec(2), which kills every other thread wherever it is, in the middle of a
// write too; and for a pool's end that lets bound work finish. Both are rare and neither is in a
// hurry, so nobody pays for them while they are not asked for: this looks, now and then.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include <iowq/base/policy.hpp>
#include <iowq/pool/cancel.hpp>
#include <iowq/pool/state.hpp>

namespace iowq::detail {

/// Under M: no item of this account is queued, in a worker's hands, or being finished.
template <class Policy>
[[nodiscard]] bool is_quiet(const typename pool_state<Policy>::account_type& account) noexcept {
  if (account.queued != 0) return false;
  for (const worker<Policy>* one = account.workers.front(); one != nullptr; one = one->next) {
    if (one->cur != nullptr || one->later != nullptr) return false;
    // acquire: pairs with the runner's release; what finished() did is done, and seen.
    if (one->finishing.load(std::memory_order_acquire)) return false;
  }
  return true;
}

/// Without M, and not on a worker: returns once these accounts were quiet, all at one moment.
template <class Policy>
void wait_until_quiet(pool_state<Policy>& pool, bool bound_only) noexcept {
  using namespace std::chrono_literals;
  typename Policy::template atomic<std::uint32_t> never_rung{0};
  for (time_point::duration pause = 50us;; pause = std::min<time_point::duration>(2 * pause, 5ms)) {
    {
      auto const held = pool.acquire();
      // acquire: pairs with the releases that lower it; what finished() did is done, and seen.
      if (pool.finishers.load(std::memory_order_acquire) == 0 &&
          is_quiet<Policy>(pool.accounts[0]) && (bound_only || is_quiet<Policy>(pool.accounts[1])))
        return;
    }
    (void)Policy::futex_wait(never_rung, 0, Policy::now() + pause);
  }
}

/// The first part of a pool's end that drains: takes nothing new, cancels what is unbound, as
/// io-wq does (it might wait for ever, with bound work behind its key), lets the bound work run.
template <class Policy>
void drain_bound(pool_state<Policy>& pool) noexcept {
  cancellation<Policy> unbound{pool};
  {
    auto const held = pool.acquire();
    pool.closed = true;
    unbound.add_all([](const work& one) { return one.flags().unbound; });
  }
  (void)unbound.deliver();
  wait_until_quiet(pool, true);
}

}  // namespace iowq::detail
