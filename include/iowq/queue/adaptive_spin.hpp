// SPDX-License-Identifier: BSL-1.0
// iowq/queue/adaptive_spin.hpp -- spins before a sleep while spinning pays.
//
// To sleep and to be woken takes 10 us and more, on some machines 60, of which the waker pays
// half; two threads that hand single items to and fro are ten times faster if neither sleeps. A
// spin that finds nothing is a processor burnt. So:
//
//   credit    Finds raise it, vain spins lower it. At 0 spinning stops; below, each time that
//             nobody spun brings it nearer to one more try. Tries that fail come ever more rarely:
//             where the processor is wanted by somebody else, a spin delays the very thing it
//             waits for.
//   savings   Each find saves a sleep, and that is put aside. Who comes away empty-handed with
//             savings spends them on one longer spin. For once one side sleeps, the other waits
//             for it longer than a spin, and sleeps, too, and so on for ever: only a spin as long
//             as a wake takes gets both out of it. So the try after a pause has some to spend.
//             What is left of them stays: who waits for batches that last a little longer than a
//             spin earns with each what the rest of the next one costs.
//
// One thread at a time spins; another may ask should_spin(). All of it is a hint.
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

  /// A spin takes about `length`; 0: never.
  void length(nanoseconds of_a_spin) noexcept { length_ = of_a_spin; }
  [[nodiscard]] nanoseconds length() const noexcept { return length_; }

  /// Should somebody spin now? Not while another does.
  [[nodiscard]] bool should_spin() noexcept {
    if (length_ == nanoseconds{}) return false;
    // relaxed, here and below: numbers that are exact enough however late they are seen.
    int const credit = credit_.load(std::memory_order_relaxed);
    if (credit <= 0) credit_.store(credit + 1, std::memory_order_relaxed);
    return credit > 0;
  }

  /// Calls `found` again and again until it is true, or it has been long enough: false.
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
  nanoseconds budget_{};  // the adaptive_spinner's
  int pause_ = limit;     // likewise: chances left out after a vain try
  typename Policy::template atomic<int> credit_{limit / 2};
};

}  // namespace iowq::inline v0::detail
