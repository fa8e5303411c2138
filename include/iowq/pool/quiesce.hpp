// SPDX-License-Identifier: BSL-1.0
// iowq/pool/quiesce.hpp -- waits until all that was accepted so far is finished.
// Layer pool; needs pool/cancel. Next in the book: pool/pool.hpp.
//
// For who is about to exec(2), which kills every other thread wherever it is, in the middle of a
// write too; and for a pool's end that lets bound work finish. Both are rare and neither is in a
// hurry, so nobody pays for them while they are not asked for: this looks, now and then.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <optional>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/pool/cancel.hpp>
#include <iowq/pool/state.hpp>

namespace iowq::detail {

/// Under M: every item of this generation was finished, and its finished() has returned.
template <class Policy>
[[nodiscard]] bool is_quiet(const pool_state<Policy>& pool, std::uint64_t generation) noexcept {
  auto const slot = static_cast<unsigned>(generation % generation_slots);
  if (pool.finishers->any_inside(slot)) return false;
  for (auto const& account : pool.accounts) {
    if (account.unfinished[slot] != 0) return false;
    for (const worker<Policy>* one = account.workers.front(); one != nullptr; one = one->next)
      // acquire: pairs with the runner's release; what finished() did is done, and seen.
      if ((one->finishing.load(std::memory_order_acquire) >> slot & 1) != 0) return false;
  }
  return true;
}

/// Under M: ends the generations that are quiet, but for the current one.
template <class Policy>
void end_quiet_generations(pool_state<Policy>& pool) noexcept {
  while (pool.oldest_generation < pool.generation && is_quiet(pool, pool.oldest_generation))
    ++pool.oldest_generation;
}

/// Calls `look` under M, now and then, until it is true.
template <class Policy, class Look>
void poll_under_lock(pool_state<Policy>& pool, Look look) noexcept {
  using namespace std::chrono_literals;
  typename Policy::template atomic<std::uint32_t> never_rung{0};
  for (time_point::duration pause = 50us;; pause = std::min<time_point::duration>(2 * pause, 5ms)) {
    {
      auto const held = pool.acquire();
      if (look()) return;
    }
    (void)Policy::futex_wait(never_rung, 0, Policy::now() + pause);
  }
}

/// Without M: returns when every item that was accepted before the call was finished, and its
/// finished() has returned.
template <class Policy>
void wait_until_quiet(pool_state<Policy>& pool) noexcept {
  IOWQ_ASSERT(worker<Policy>::current() == nullptr || worker<Policy>::current()->home != &pool,
              "quiesce() was called on a worker of its pool, where it would wait for itself: call "
              "it on another thread");
  std::optional<std::uint64_t> later;  // the first generation that it does not wait for
  poll_under_lock(pool, [&] {
    end_quiet_generations(pool);
    if (!later && is_quiet(pool, pool.generation))
      later = pool.generation;
    else if (!later && pool.generation - pool.oldest_generation + 1 < generation_slots)
      later = ++pool.generation;
    return later && pool.oldest_generation >= *later;
  });
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
  // No longer: their finished() may still run, and the pool's end joins the workers that call it.
  poll_under_lock(pool, [&] {
    auto const& unfinished = pool.accounts[0].unfinished;
    return std::all_of(std::begin(unfinished), std::end(unfinished),
                       [](unsigned items) { return items == 0; });
  });
}

}  // namespace iowq::detail
