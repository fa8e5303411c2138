// SPDX-License-Identifier: BSL-1.0
// iowq/queue/adaptive_spin.hpp -- spins before a sleep while spinning pays.
//
// To sleep and to be woken takes 10 us or more, on some machines 60 us, and the waker pays half of
// it. Two threads that exchange single items are ten times faster if neither sleeps. But a spin
// that finds nothing wastes a processor. Two values therefore control the spins:
//
//   credit    A successful spin raises it, an unsuccessful spin lowers it. At 0 or below there is
//             no spin, but each chance that is skipped raises the credit again, up to one more
//             attempt. After each failed attempt more chances are skipped before the next one: if
//             another thread needs the processor, a spin delays the very event it waits for.
//   budget    Each successful spin saves a sleep, and the time saved is added to the budget. After
//             an unsuccessful spin, the budget pays for one longer spin. Otherwise two threads stay
//             out of phase: when one side sleeps, the other waits for longer than a spin, sleeps,
//             and so on. Only a spin as long as a wake-up ends that. The attempt after a pause
//             therefore starts with a full budget. The part of the budget that a spin does not use
//             remains. A thread whose batches last slightly longer than a spin thus earns with each
//             batch the extra time it spends on the next one.
//
// One thread at a time spins; another one may call should_spin(). All values are hints.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>

#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

template <class Policy = linux_policy>
class adaptive_spinner {
 public:
  using nanoseconds = std::chrono::nanoseconds;

  /// Sets how long a spin lasts, approximately. 0: never spin.
  void length(nanoseconds of_a_spin) noexcept { length_ = of_a_spin; }
  [[nodiscard]] nanoseconds length() const noexcept { return length_; }

  /// Returns true if the next waiter should spin. Each call that returns false counts as a skipped
  /// chance. Only one thread may spin at a time; the caller makes sure of that.
  [[nodiscard]] bool should_spin() noexcept {
    if (length_ == nanoseconds{}) return false;
    // relaxed, here and below: a stale value is accurate enough.
    int const credit = credit_.load(std::memory_order_relaxed);
    if (credit <= 0) credit_.store(credit + 1, std::memory_order_relaxed);
    return credit > 0;
  }

  /// Calls `found` repeatedly until it returns true. Returns false if the time is up before.
  template <class Found>
  bool spin(Found&& found) noexcept {
    int const credit = credit_.load(std::memory_order_relaxed);
    if (look(found, length_) || spend(found)) {
      if (credit == limit) pause_ = limit;
      credit_.store(std::min(credit + 1, limit), std::memory_order_relaxed);
      budget_ = std::min(budget_ + 2 * length_, most_savings * length_);
      return true;
    }
    if (credit > 1) {
      credit_.store(credit - 1, std::memory_order_relaxed);
    } else {
      credit_.store(-pause_, std::memory_order_relaxed);
      pause_ = std::min(2 * pause_, longest_pause);
      budget_ = most_savings * length_;
    }
    return false;
  }

 private:
  static constexpr int limit = 16;
  static constexpr int longest_pause = 1024;
  static constexpr int most_savings = 20;
  static constexpr int looks_between_clocks = 16;

  template <class Found>
  static bool look(Found& found, nanoseconds how_long) noexcept {
    if (found()) return true;
    for (time_point const until = Policy::now() + how_long; Policy::now() < until;)
      for (int looks = 0; looks < looks_between_clocks; ++looks) {
        Policy::relax();
        if (found()) return true;
      }
    return false;
  }
  template <class Found>
  bool spend(Found& found) noexcept {
    if (budget_ < most_savings / 2 * length_) return false;
    time_point const began = Policy::now();
    bool const good = look(found, budget_);
    budget_ -= std::min<nanoseconds>(budget_, Policy::now() - began);
    return good;
  }

  nanoseconds length_{};
  nanoseconds budget_{};  // only the spinning thread uses it
  int pause_ = limit;     // likewise: chances to skip after a failed attempt
  typename Policy::template atomic<int> credit_{limit / 2};
};

}  // namespace iowq::inline v0::detail
