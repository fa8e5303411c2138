// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/key_table.hpp>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace {
using iowq::detail::item;
using iowq::detail::item_state;
using iowq::detail::key_table;

struct keyed : item {
  explicit keyed(std::uint64_t of_key, int number = 0) : serial{number} {
    key = of_key;
    item::keyed = true;
  }
  int serial;
};
int serial(const item* one) { return one == nullptr ? -1 : static_cast<const keyed*>(one)->serial; }
}  // namespace

TEST_SUITE("pool/key_table") {
  TEST_CASE("wq-31: the next head of a key is the oldest that waits") {
    key_table table;
    keyed a{1, 0}, b{1, 1}, c{1, 2};
    CHECK(table.enter(a));
    CHECK_FALSE(table.enter(b));
    CHECK_FALSE(table.enter(c));
    CHECK(b.state == item_state::chained);
    CHECK(table.keys() == 1);
    CHECK(table.release(a) == &b);
    CHECK(table.release(b) == &c);
    CHECK(table.release(c) == nullptr);
    CHECK(table.keys() == 0);
  }

  TEST_CASE("wq-33: different keys never wait for each other, wherever they hash") {
    key_table table;
    std::vector<keyed> items;
    for (std::uint64_t key = 0; key < 1000; ++key) items.emplace_back(key << 6);
    int leaders = 0;
    for (keyed& one : items) leaders += table.enter(one);
    CHECK(leaders == 1000);
    for (keyed& one : items) REQUIRE(table.release(one) == nullptr);
  }

  TEST_CASE("wq-35: head, middle and tail leave a key's queue and order stays") {
    for (int gone = 1; gone <= 3; ++gone) {
      key_table table;
      keyed items[] = {keyed{5, 0}, keyed{5, 1}, keyed{5, 2}, keyed{5, 3}};
      keyed late{5, 9};
      for (keyed& one : items) (void)table.enter(one);
      table.leave(items[gone]);
      (void)table.enter(late);
      std::vector<int> order;
      for (item* key_head = &items[0]; key_head != nullptr; key_head = table.release(*key_head))
        order.push_back(serial(key_head));
      std::vector<int> expected;
      for (int number = 0; number < 4; ++number)
        if (number != gone) expected.push_back(number);
      expected.push_back(9);
      CHECK(order == expected);
    }
  }

  TEST_CASE("the last that waits leaves, and the key is as if it never had") {
    key_table table;
    keyed a{5}, b{5};
    (void)table.enter(a);
    (void)table.enter(b);
    table.leave(b);
    CHECK(table.release(a) == nullptr);
    CHECK(table.enter(b));
    CHECK(table.release(b) == nullptr);
  }

  TEST_CASE("extract takes the waiters that match, oldest first") {
    key_table table;
    keyed items[] = {keyed{5, 0}, keyed{5, 1}, keyed{5, 2}, keyed{5, 3}, keyed{5, 4}};
    for (keyed& one : items) (void)table.enter(one);
    std::vector<int> taken;
    key_table::extract(
        items[0], [](item& one) { return serial(&one) % 2 == 0; },
        [&](item& one) { taken.push_back(serial(&one)); });
    CHECK(taken == std::vector{2, 4});
    CHECK(serial(table.release(items[0])) == 1);
    CHECK(serial(table.release(items[1])) == 3);
    CHECK(table.release(items[3]) == nullptr);
    key_table::extract(items[0], [](item&) { return true; }, [](item&) { CHECK(false); });
  }

  TEST_CASE("a million keys leave no memory behind") {
    key_table table;
    std::vector<keyed> items;
    items.reserve(1'000'000);
    for (std::uint64_t key = 0; key < 1'000'000; ++key) items.emplace_back(key);
    for (keyed& one : items) REQUIRE(table.enter(one));
    CHECK(table.keys() == 1'000'000);
    CHECK(table.buckets() == 1'000'000);
    for (keyed& one : items) REQUIRE(table.release(one) == nullptr);
    CHECK(table.keys() == 0);
    CHECK(table.buckets() == 64);
  }

  TEST_CASE("hazard-57: random entering, leaving and releasing agrees with a model") {
    std::mt19937 random{7};
    key_table table;
    std::map<std::uint64_t, std::deque<keyed*>> model;  // the front is the key head
    std::vector<std::unique_ptr<keyed>> items;
    for (int round = 0; round < 20'000; ++round) {
      std::uint64_t const key = random() % 300;
      std::deque<keyed*>& queue = model[key];
      switch (random() % 3) {
        case 0: {
          keyed& one = *items.emplace_back(std::make_unique<keyed>(key, round));
          REQUIRE(table.enter(one) == queue.empty());
          queue.push_back(&one);
          break;
        }
        case 1:
          if (!queue.empty()) {
            item* const next_head = table.release(*queue.front());
            queue.pop_front();
            REQUIRE(next_head == (queue.empty() ? nullptr : queue.front()));
          }
          break;
        default:
          if (queue.size() > 1) {
            auto const which = queue.begin() + 1 + static_cast<long>(random() % (queue.size() - 1));
            table.leave(**which);
            queue.erase(which);
          }
      }
    }
    std::size_t busy = 0;
    for (auto& [key, queue] : model) busy += !queue.empty();
    CHECK(table.keys() == busy);
  }
}
