// SPDX-License-Identifier: BSL-1.0
#include <iowq/queue/timer_heap.hpp>

#include <algorithm>
#include <csignal>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "allocations.hpp"
#include "death.hpp"
#include "small_stack.hpp"

namespace {
using iowq::detail::never;
using iowq::detail::time_point;
using iowq::detail::timer;
using iowq::detail::timer_heap;
using namespace std::chrono_literals;

static_assert(!std::is_move_constructible_v<timer>);  // the heap points at it
static_assert(!std::is_move_constructible_v<timer_heap>);
static_assert(sizeof(timer) <= 5 * sizeof(void*));
static_assert(noexcept(std::declval<timer_heap&>().arm(std::declval<timer&>(), never)));

/// Compares, and counts.
struct counting {
  static inline std::uint64_t compared = 0;
  bool operator()(const timer& a, const timer& b) const noexcept {
    ++compared;
    return a.is_before(b);
  }
};
using counted_timers = iowq::detail::basic_timer_heap<counting>;

constexpr time_point at(int ms) { return time_point{std::chrono::milliseconds{ms}}; }
}  // namespace

TEST_SUITE("queue/timer_heap") {
  TEST_CASE("a million are armed, cancelled and fired in O(log n) comparisons each, from no heap") {
    // Counted, not timed: every step of the heap but a fixed few an operation is a comparison.
    constexpr std::size_t count = 1'000'000;
    constexpr std::uint64_t log_count = 20;
    auto const all = std::make_unique<timer[]>(count);
    std::mt19937 random{93};
    std::vector<std::uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    enum class deadlines { rising, falling, mixed, equal };
    for (auto const sort :
         {deadlines::rising, deadlines::falling, deadlines::mixed, deadlines::equal}) {
      CAPTURE(static_cast<int>(sort));
      counted_timers armed;
      auto const before = iowq_test::allocations::now();
      counting::compared = 0;
      for (std::size_t i = 0; i < count; ++i) {
        int const n = static_cast<int>(i);
        armed.arm(all[i], sort == deadlines::rising    ? at(n)
                          : sort == deadlines::falling ? at(-n)
                          : sort == deadlines::mixed   ? at(static_cast<int>(random() >> 2))
                                                       : at(0));
      }
      CHECK(counting::compared < count);  // O(1)
      counting::compared = 0;
      std::shuffle(order.begin(), order.end(), random);
      for (std::size_t i = 0; i < count / 2; ++i) armed.disarm(all[order[i]]);
      CHECK(counting::compared < count / 2 * 2 * log_count);
      counting::compared = 0;
      std::size_t fired = 0;
      bool sorted = true;
      for (timer *last = nullptr, *next; (next = armed.pop_due(never)) != nullptr; last = next) {
        sorted = sorted && (last == nullptr || last->is_before(*next));
        ++fired;
      }
      CHECK(fired == count - count / 2);
      CHECK(sorted);
      CHECK(counting::compared < count / 2 * 2 * log_count);
      if (iowq_test::allocations::counted)
        CHECK((iowq_test::allocations::now() - before).made == 0);
    }
  }

  TEST_CASE("timers fire in the order of their deadlines, equal ones as they were armed") {
    timer a, b, c, d;
    timer_heap armed;
    CHECK(armed.empty());
    CHECK(armed.next() == never);
    armed.arm(a, at(2));
    armed.arm(b, at(1));
    armed.arm(c, at(2));
    armed.arm(d, at(1));
    CHECK(armed.next() == at(1));
    for (timer* expected : {&b, &d, &a, &c}) CHECK(armed.pop_due(at(2)) == expected);
    CHECK(armed.empty());
    CHECK_FALSE(a.armed());
  }

  TEST_CASE("a timer is due at its deadline and not before") {
    timer a;
    timer_heap armed;
    armed.arm(a, at(5));
    CHECK(armed.pop_due(at(5) - 1ns) == nullptr);
    CHECK(a.armed());
    CHECK(a.deadline() == at(5));
    CHECK(armed.pop_due(at(5)) == &a);
    CHECK(armed.pop_due(at(6)) == nullptr);
  }

  TEST_CASE("a disarmed timer does not fire and may be armed again; disarming twice is nothing") {
    timer a, b;
    timer_heap armed;
    armed.arm(a, at(1));
    armed.arm(b, at(2));
    armed.disarm(a);
    armed.disarm(a);
    CHECK(armed.next() == at(2));
    armed.arm(a, at(2));
    CHECK(armed.pop_due(at(2)) == &b);  // a counts from its latest arming
    CHECK(armed.pop_due(at(2)) == &a);
  }

  TEST_CASE("hazard-91: past and negative deadlines wait for the next turn, huge ones for ever") {
    timer now, past, earliest, huge, endless;
    timer_heap armed;
    armed.arm(endless, never);
    armed.arm(huge, never - 1ns);
    armed.arm(now, at(0));
    armed.arm(past, at(-1));
    armed.arm(earliest, time_point::min());
    CHECK(armed.next() == time_point::min());
    for (timer* expected : {&earliest, &past, &now}) {
      CHECK(expected->armed());  // arming fires nothing
      CHECK(armed.pop_due(at(0)) == expected);
    }
    CHECK(armed.pop_due(never - 2ns) == nullptr);
    armed.disarm(huge);
    CHECK(armed.next() == never);
    CHECK(endless.armed());
    armed.disarm(endless);
  }

  TEST_CASE("hazard-93: any sequence of arm, disarm and pop does what a multimap would") {
    std::mt19937 random{1};
    std::deque<timer> nodes(300);
    std::multimap<time_point, timer*> model;  // equal keys keep the order of insertion
    std::map<timer*, decltype(model)::iterator> where;
    timer_heap armed;
    for (int step = 0; step < 300'000; ++step) {
      timer& node = nodes[random() % nodes.size()];
      REQUIRE(node.armed() == where.contains(&node));
      if (random() % 4 == 0) {
        timer* const due = armed.pop_due(at(static_cast<int>(random() % 40)));
        if (due == nullptr) continue;
        REQUIRE(due == model.begin()->second);
        model.erase(model.begin());
        where.erase(due);
      } else if (node.armed()) {
        armed.disarm(node);
        model.erase(where[&node]);
        where.erase(&node);
      } else {
        const int ms = static_cast<int>(random() % 60) - 5;
        const time_point deadline = ms == 54 ? never : at(ms);  // few values: many ties
        armed.arm(node, deadline);
        where[&node] = model.emplace(deadline, &node);
      }
      REQUIRE(armed.empty() == model.empty());
      REQUIRE(armed.next() == (model.empty() ? never : model.begin()->first));
    }
    for (timer& node : nodes) armed.disarm(node);
    CHECK(armed.empty());
  }

  TEST_CASE("hazard-93: a million timers fire once each, in order, in 256 KiB of stack") {
    // Three orders of arming, the two worst for a heap among them: long lists, long spines.
    constexpr int count = 1'000'000;
    int out_of_order = 0, fired = 0;
    iowq_test::on_small_stack([&] {
      const auto nodes = std::make_unique<timer[]>(count);
      timer_heap armed;
      for (int i = 0; i < count; ++i) {
        const int ms = i % 3 == 0 ? i : i % 3 == 1 ? count - i : i % 1'000;
        armed.arm(nodes[static_cast<std::size_t>(i)], at(ms));
      }
      for (int i = 0; i < count; i += 5) armed.disarm(nodes[static_cast<std::size_t>(i)]);
      time_point last = time_point::min();
      const timer* previous = nullptr;  // of equal deadlines the earlier armed lies before
      while (const timer* due = armed.pop_due(never)) {
        const bool tie = due->deadline() == last;
        out_of_order += due->deadline() < last || (tie && due < previous);
        last = due->deadline();
        previous = due;
        ++fired;
      }
    });
    CHECK(fired == count - count / 5);
    CHECK(out_of_order == 0);
  }

  TEST_CASE("a timer armed twice stops the program") {
    const auto end = iowq_test::death_output([] {
      timer a;
      timer_heap armed;
      armed.arm(a, at(1));
      armed.arm(a, at(2));
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a timer was armed twice"));
  }

  TEST_CASE("a timer destroyed while it is armed stops the program") {
    const auto end = iowq_test::death_output([] {
      timer_heap armed;
      timer a;
      armed.arm(a, at(1));
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a timer was destroyed while it is armed"));
  }

  TEST_CASE("a loop destroyed with timers armed stops the program") {
    const auto end = iowq_test::death_output([] {
      timer a;
      timer_heap armed;
      armed.arm(a, at(1));
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a loop was destroyed with timers armed"));
  }
}
