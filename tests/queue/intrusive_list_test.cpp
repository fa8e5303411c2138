// SPDX-License-Identifier: BSL-1.0
#include <iowq/queue/intrusive_list.hpp>

#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

namespace {
struct node {
  int number = 0;
  node* next{};
  node* prev{};
};
using nodes = iowq::detail::intrusive_list<&node::next, &node::prev>;
static_assert(!std::is_copy_constructible_v<nodes>);

std::vector<int> drained(nodes& from) {
  std::vector<int> numbers;
  while (node* const one = from.pop_front()) numbers.push_back(one->number);
  return numbers;
}
}  // namespace

TEST_SUITE("queue/intrusive_list") {
  TEST_CASE("items come out in the order of either end they went in") {
    node a{1}, b{2}, c{3};
    nodes all;
    CHECK(all.pop_front() == nullptr);
    all.push_back(b);
    all.push_back(c);
    all.push_front(a);
    CHECK(all.front() == &a);
    CHECK(all.back() == &c);
    CHECK(drained(all) == std::vector{1, 2, 3});
    CHECK(all.empty());
    CHECK(all.back() == nullptr);
  }

  TEST_CASE("an item leaves from the head, the middle and the tail, and comes back") {
    for (int gone = 0; gone < 3; ++gone) {
      node all_nodes[] = {{0}, {1}, {2}};
      nodes all;
      for (node& one : all_nodes) all.push_back(one);
      all.erase(all_nodes[gone]);
      all.push_back(all_nodes[gone]);
      std::vector<int> expected;
      for (int number = 0; number < 3; ++number)
        if (number != gone) expected.push_back(number);
      expected.push_back(gone);
      CHECK(drained(all) == expected);
    }
  }

  TEST_CASE("an heir takes the place of its predecessor, wherever that was") {
    for (int replaced = 0; replaced < 3; ++replaced) {
      node all_nodes[] = {{0}, {1}, {2}};
      node heir{9};
      nodes all;
      for (node& one : all_nodes) all.push_back(one);
      all.replace(all_nodes[replaced], heir);
      CHECK(all_nodes[replaced].next == nullptr);
      std::vector<int> expected{0, 1, 2};
      expected[static_cast<std::size_t>(replaced)] = 9;
      CHECK(drained(all) == expected);
    }
  }

  TEST_CASE("a moved list keeps its items, an abandoned one forgets them") {
    node a{1}, b{2};
    nodes all;
    all.push_back(a);
    all.push_back(b);
    nodes other{std::move(all)};
    CHECK(all.empty());
    CHECK(other.back() == &b);
    other.abandon();
    CHECK(other.empty());
  }
}
