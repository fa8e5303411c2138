// SPDX-License-Identifier: BSL-1.0
// A thread that submits items to a pool and sleeps until they come back: the minimum for a program
// that uses the pool without an executor. The protocol is the executor's: the owner parks in the
// inbox and then sleeps. A thread that posts to a parked inbox wakes the owner; other posts do not.
#pragma once

#include <chrono>
#include <cstdint>

#include <iowq/base/policy.hpp>
#include <iowq/queue/adaptive_spin.hpp>
#include <iowq/queue/inbox.hpp>

namespace bench {

class owner {
 public:
  struct node {
    node* next_back = nullptr;
  };

  explicit owner(std::chrono::nanoseconds spin) { spins_.length(spin); }

  /// Any thread.
  void post(node& back) noexcept {
    if (!inbox_.post(back)) return;
    kicks_.fetch_add(1, std::memory_order_relaxed);  // relaxed: a count
    // relaxed: the inbox synchronises; this access only ends the sleep.
    word_.fetch_add(1, std::memory_order_relaxed);
    iowq::detail::linux_policy::futex_wake(word_, 1);
  }

  /// Waits for items that have come back, and returns them, oldest first: at least one. Owner
  /// thread only.
  [[nodiscard]] node* wait() noexcept {
    for (;;) {
      if (node* const oldest = inbox_.drain()) return oldest;
      if (spins_.should_spin() && spins_.spin([this] { return !inbox_.empty(); })) continue;
      std::uint32_t const before = word_.load(std::memory_order_relaxed);  // relaxed: see post()
      if (!inbox_.park()) continue;
      ++sleeps_;
      while (word_.load(std::memory_order_relaxed) == before)
        (void)iowq::detail::linux_policy::futex_wait(word_, before, iowq::detail::never);
    }
  }

  [[nodiscard]] std::uint64_t kicks() const noexcept {
    return kicks_.load(std::memory_order_relaxed);  // relaxed: a count
  }
  [[nodiscard]] std::uint64_t sleeps() const noexcept { return sleeps_; }

 private:
  iowq::detail::adaptive_spinner<> spins_;
  std::uint64_t sleeps_ = 0;
  alignas(64) iowq::detail::inbox<&node::next_back> inbox_;
  iowq::detail::atomic<std::uint32_t> word_{0};
  iowq::detail::atomic<std::uint64_t> kicks_{0};
};

}  // namespace bench
