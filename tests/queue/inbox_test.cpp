// SPDX-License-Identifier: BSL-1.0
#include <iowq/queue/inbox.hpp>  // first and alone: the header needs nothing before it

#include <csignal>
#include <semaphore>
#include <thread>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include "death.hpp"

namespace {
struct item {
  int serial{};
  item* next{};
};
using item_inbox = iowq::detail::inbox<&item::next>;
static_assert(!std::is_move_constructible_v<item_inbox>);
static_assert(sizeof(item_inbox) == sizeof(void*));
}  // namespace

TEST_SUITE("queue/inbox") {
  TEST_CASE("of the posts that meet a parked consumer, only the first owes a wake-up") {
    item a, b;
    item_inbox box;
    REQUIRE(box.park());
    CHECK(box.drain() == nullptr);  // woken for another reason: the park mark is no node
    REQUIRE(box.park());
    CHECK(box.post(a));
    CHECK_FALSE(box.post(b));
    CHECK_FALSE(box.park());   // sleeping now would strand both
    CHECK(box.drain() == &a);  // oldest first
    CHECK(a.next == &b);
    CHECK(b.next == nullptr);
    CHECK(box.drain() == nullptr);
  }

  TEST_CASE("a post to a consumer that is awake owes nothing") {
    item a;
    item_inbox box;
    CHECK_FALSE(box.post(a));
    CHECK(box.drain() == &a);
    REQUIRE(box.park());
    CHECK(box.drain() == nullptr);
    CHECK_FALSE(box.post(a));  // drain() ended the park
    CHECK(box.drain() == &a);
  }

  TEST_CASE("a chain is posted as one: in its order, behind what was there") {
    item a, b, c, d;
    item_inbox box;
    REQUIRE(box.park());
    CHECK(box.post(a));
    d.next = &c;  // newest first
    c.next = &b;
    CHECK_FALSE(box.post(d, b));
    CHECK(box.drain() == &a);
    CHECK(a.next == &b);
    CHECK(b.next == &c);
    CHECK(c.next == &d);
    CHECK(d.next == nullptr);

    REQUIRE(box.park());
    b.next = &a;
    CHECK(box.post(b, a));  // a chain, too, ends the park
    CHECK(box.drain() == &a);
  }

  TEST_CASE("items posted during drains arrive once and in order" * doctest::timeout(10)) {
    // Goal: lose, double or reorder an item. Method: race one producer against the loop.
    std::vector<item> items(50'000);
    for (int serial = 0; auto& it : items) it.serial = serial++;
    item_inbox box;
    std::jthread producer{[&] {
      for (auto& it : items) (void)box.post(it);
    }};
    int arrived = 0, in_place = 0;
    while (arrived < 50'000)
      for (item* it = box.drain(); it != nullptr; it = it->next)
        in_place += it->serial == arrived++;
    CHECK(in_place == arrived);
  }

  TEST_CASE("every park is ended by exactly one wake-up, whoever posts") {
    // Goal: a consumer that sleeps while an item waits, or a wake-up nobody asked for. Method:
    // three producers, one of them of chains, against a consumer that sleeps whenever it may.
    // A lost wake-up hangs.
    constexpr int each = 30'000;
    std::vector<item> items(3 * each);
    for (int serial = 0; auto& it : items) it.serial = serial++;
    item_inbox box;
    std::counting_semaphore<> bell{0};
    auto produce = [&](int first, int step) {
      for (int at = first; at < first + each; at += step) {
        item* const chain = &items[static_cast<std::size_t>(at)];
        for (int i = 1; i < step; ++i) chain[i].next = &chain[i - 1];
        if (box.post(chain[step - 1], chain[0])) bell.release();
      }
    };
    std::vector<std::jthread> producers;
    producers.emplace_back(produce, 0, 1);
    producers.emplace_back(produce, each, 1);
    producers.emplace_back(produce, 2 * each, 3);

    int last[3] = {-1, each - 1, 2 * each - 1};
    int arrived = 0, out_of_order = 0;
    while (arrived < 3 * each) {
      item* it = box.drain();
      if (it == nullptr && box.park()) bell.acquire();
      for (; it != nullptr; it = it->next, ++arrived)
        out_of_order += it->serial != ++last[it->serial / each];
    }
    producers.clear();
    CHECK(out_of_order == 0);
    CHECK_FALSE(bell.try_acquire());
  }

  TEST_CASE("an item posted twice stops the program") {
    const auto end = iowq_test::death_output([] {
      item a;
      item_inbox box;
      (void)box.post(a);
      (void)box.post(a);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("an item was posted twice"));
  }

  TEST_CASE("an inbox destroyed with items in it stops the program, a parked one does not") {
    const auto end = iowq_test::death_output([] {
      {
        item_inbox parked;
        (void)parked.park();
      }
      std::fputs("parked: fine\n", stderr);
      item a;
      item_inbox box;
      (void)box.post(a);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("parked: fine"));
    CHECK(end.says("an inbox was destroyed with items in it"));
  }
}
