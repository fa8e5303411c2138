// SPDX-License-Identifier: BSL-1.0
#include <iowq/queue/intrusive_queue.hpp>

#include <csignal>
#include <deque>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "death.hpp"

namespace {
struct item {
  int number{};
  item* next{};
};
using queue = iowq::detail::intrusive_queue<&item::next>;

static_assert(!std::is_copy_constructible_v<queue>);
static_assert(!std::is_move_assignable_v<queue>);  // it would have to drop what it holds
static_assert(std::is_nothrow_move_constructible_v<queue>);
static_assert(sizeof(queue) == 2 * sizeof(void*));

std::vector<int> drain(queue& from) {
  std::vector<int> numbers;
  while (const item* it = from.pop_front()) numbers.push_back(it->number);
  return numbers;
}
}  // namespace

TEST_SUITE("queue/intrusive_queue") {
  TEST_CASE("items leave in the order they came, those pushed to the front before them") {
    item a{1}, b{2}, c{3};
    queue q;
    CHECK(q.empty());
    CHECK(q.front() == nullptr);
    CHECK(q.pop_front() == nullptr);
    q.push_front(b);
    q.push_back(c);
    q.push_front(a);
    CHECK(q.front() == &a);
    CHECK(drain(q) == std::vector{1, 2, 3});
    CHECK(q.empty());
  }

  TEST_CASE("append moves the other queue's items behind, in order, and leaves it usable") {
    item a{1}, b{2}, c{3}, d{4};
    queue q, other;
    q.append(other);
    other.push_back(a);
    other.push_back(b);
    q.append(other);
    CHECK(other.empty());
    other.push_back(c);
    q.append(other);
    q.push_back(d);
    CHECK(drain(q) == std::vector{1, 2, 3, 4});
  }

  TEST_CASE("a moved-from queue is empty, and both take new items") {
    item a{1}, b{2}, c{3};
    queue q;
    q.push_back(a);
    queue moved = std::move(q);
    q.push_back(b);
    moved.push_back(c);
    CHECK(drain(q) == std::vector{2});
    CHECK(drain(moved) == std::vector{1, 3});
  }

  TEST_CASE("extract may free what it takes") {
    queue q;
    for (int number : {1, 2, 3}) q.push_back(*new item{number});
    q.extract([](const item& it) { return it.number != 2; }, [](item& it) { delete &it; });
    REQUIRE(q.front() != nullptr);
    CHECK(q.front()->number == 2);
    delete q.pop_front();
  }

  TEST_CASE("any sequence of calls leaves what a deque would hold") {
    std::mt19937 random{1};
    std::vector<item> items(12);
    std::vector<item*> outside;
    for (auto& it : items) {
      it.number = static_cast<int>(&it - items.data());
      outside.push_back(&it);
    }
    queue q;
    std::deque<item*> model;
    for (int step = 0; step < 20'000; ++step) {
      switch (random() % 5) {
        case 0:
        case 1:
          if (outside.empty()) break;
          model.push_back(outside.back());
          q.push_back(*outside.back());
          outside.pop_back();
          break;
        case 2:
          if (outside.empty()) break;
          model.push_front(outside.back());
          q.push_front(*outside.back());
          outside.pop_back();
          break;
        case 3:
          REQUIRE(q.front() == (model.empty() ? nullptr : model.front()));
          if (item* const it = q.pop_front(); it != nullptr) {
            model.pop_front();
            outside.push_back(it);
          }
          break;
        case 4: {
          const auto bits = random();
          auto match = [bits](const item& it) { return (bits >> it.number & 3) == 0; };
          std::vector<item*> taken, expected;
          q.extract(match, [&](item& it) { taken.push_back(&it); });
          for (item* it : model)
            if (match(*it)) expected.push_back(it);
          std::erase_if(model, [&](item* it) { return match(*it); });
          REQUIRE(taken == expected);
          outside.insert(outside.end(), taken.begin(), taken.end());
          break;
        }
      }
      REQUIRE(q.empty() == model.empty());
    }
    drain(q);
  }

  TEST_CASE("a queue destroyed with items in it stops the program") {
    const auto end = iowq_test::death_output([] {
      item a;
      queue q;
      q.push_back(a);
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a queue was destroyed with items in it"));
  }
}
