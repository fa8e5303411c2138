// SPDX-License-Identifier: BSL-1.0
#include <iowq/queue/adaptive_spin.hpp>

#include <chrono>

#include <doctest/doctest.h>

namespace {
using namespace std::chrono_literals;

/// The clock is moved by relax(), a microsecond each, so that nothing here depends on the time.
struct ticking : iowq::detail::linux_policy {
  static inline iowq::detail::time_point clock{};
  static inline int relaxed = 0;
  static iowq::detail::time_point now() noexcept { return clock; }
  static void relax() noexcept {
    ++relaxed;
    clock += 1us;
  }
};
using adaptive_spinner = iowq::detail::adaptive_spinner<ticking>;

/// How many looks a vain spin took.
int vain(adaptive_spinner& spins) {
  ticking::relaxed = 0;
  CHECK_FALSE(spins.spin([] { return false; }));
  return ticking::relaxed;
}
void find(adaptive_spinner& spins) {
  CHECK(spins.spin([] { return true; }));
}
}  // namespace

TEST_SUITE("queue/adaptive_spin") {
  TEST_CASE("a spin of no length is never worth it") {
    adaptive_spinner spins;
    CHECK_FALSE(spins.should_spin());
  }

  TEST_CASE("a vain spin ends after its length, a find at once") {
    adaptive_spinner spins;
    spins.length(5us);
    CHECK(spins.should_spin());
    CHECK(vain(spins) >= 5);
    CHECK(vain(spins) <= 16);  // the clock is asked every 16 looks
    ticking::relaxed = 0;
    int looks = 0;
    CHECK(spins.spin([&] { return ++looks == 3; }));
    CHECK(ticking::relaxed == 2);
  }

  TEST_CASE("vain spins stop spinning, and tries come ever more rarely") {
    adaptive_spinner spins;
    spins.length(5us);
    // How many of so many chances are taken, all in vain.
    auto taken_of = [&](int chances) {
      int taken = 0;
      for (int chance = 0; chance < chances; ++chance)
        if (spins.should_spin()) {
          ++taken;
          (void)vain(spins);
        }
      return taken;
    };
    int const early = taken_of(100);
    int const later = taken_of(10'000);
    CHECK(early > 8);
    CHECK(later > 0);
    CHECK(later < 10'000 / 512);
    while (!spins.should_spin()) {
    }
    find(spins);  // one find: it is worth another
    CHECK(spins.should_spin());
    for (int i = 0; i < 100; ++i) find(spins);  // and many: it is as it was
    CHECK(taken_of(100) > 16);
  }

  TEST_CASE("what finds have saved is spent on one longer spin") {
    adaptive_spinner spins;
    spins.length(5us);
    int const usual = vain(spins);
    for (int i = 0; i < 1000; ++i) find(spins);
    CHECK(vain(spins) > 5 * usual);
    CHECK(vain(spins) == usual);  // and then they are spent
  }

  TEST_CASE("what a longer spin leaves of the savings is kept for the next") {
    adaptive_spinner spins;
    spins.length(5us);
    for (int i = 0; i < 1000; ++i) find(spins);
    // Each is found a little after a spin has ended, and earns more than it has cost.
    for (int i = 0; i < 1000; ++i) {
      auto const due = ticking::clock + 20us;
      CHECK(spins.spin([&] { return ticking::clock >= due; }));
    }
  }
}
