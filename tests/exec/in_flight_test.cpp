// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/detail/in_flight.hpp>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace {
using iowq::detail::in_flight_registry;
using iowq::detail::operation_base;

constexpr iowq::operation_row row_of_all{.name = "fake", .reason = "none"};

/// An operation that counts how often it is asked for its descriptor.
struct fake : operation_base {
  explicit fake(int a) : operation_base{one, {}}, first{a} {}
  fake(int a, int b) : operation_base{two, {}}, first{a}, second{b} {}

  static int number(const operation_base& op) noexcept {
    ++asked;
    return static_cast<const fake&>(op).first;
  }
  static int other(const operation_base& op) noexcept {
    return static_cast<const fake&>(op).second;
  }
  static constexpr iowq::detail::operation_kind one{&row_of_all, nullptr, nullptr,
                                                    nullptr,     nullptr, &number};
  static constexpr iowq::detail::operation_kind two{&row_of_all, nullptr, nullptr, nullptr,
                                                    nullptr,     &number, nullptr, &other};
  static inline std::size_t asked = 0;
  int first, second = -1;
};

std::vector<const operation_base*> on(in_flight_registry& all, int number) {
  std::vector<const operation_base*> found;
  all.for_each_using(number, [&found](const operation_base& op) { found.push_back(&op); });
  std::sort(found.begin(), found.end());
  return found;
}
}  // namespace

TEST_SUITE("exec/in_flight") {
  TEST_CASE("who uses a descriptor is found, by either of two, until he leaves") {
    iowq::detail::operation_counters counts;
    in_flight_registry all{counts};
    fake a{3}, b{3}, far{3 + 64}, both{3, 5}, none{-1};
    for (fake* op : {&a, &b, &far, &both, &none}) all.add(*op);
    CHECK(on(all, 3).size() == 3);
    CHECK(on(all, 5).size() == 1);
    CHECK(on(all, 67).size() == 1);
    CHECK(on(all, 4).empty());
    CHECK(on(all, -1).empty());
    in_flight_registry::remove(a);
    in_flight_registry::remove(both);
    CHECK(on(all, 3).size() == 1);
    CHECK(on(all, 5).empty());
    for (fake* op : {&b, &far}) in_flight_registry::remove(*op);
    CHECK_FALSE(all.empty());
    in_flight_registry::remove(none);
    CHECK(all.empty());
  }

  TEST_CASE("random entering, leaving and asking agrees with a list") {
    iowq::detail::operation_counters counts;
    in_flight_registry all{counts};
    std::mt19937 random{7};
    std::vector<std::unique_ptr<fake>> in;
    int wrong = 0;
    for (int step = 0; step < 20'000; ++step) {
      auto const number = static_cast<int>(random() % 600);
      switch (random() % 4) {
        case 0:
        case 1:
          in.push_back(random() % 8 == 0 ? std::make_unique<fake>(number, number / 2)
                                         : std::make_unique<fake>(number));
          all.add(*in.back());
          break;
        case 2:
          if (in.empty()) break;
          std::swap(in[random() % in.size()], in.back());
          in_flight_registry::remove(*in.back());
          in.pop_back();
          break;
        default:
          std::vector<const operation_base*> expected;
          for (auto const& op : in)
            if (op->first == number || op->second == number) expected.push_back(op.get());
          std::sort(expected.begin(), expected.end());
          wrong += on(all, number) != expected;
      }
    }
    CHECK(wrong == 0);
    std::size_t seen = 0;
    all.for_each([&seen](const operation_base&) { ++seen; });
    CHECK(seen == in.size());
    for (auto const& op : in) in_flight_registry::remove(*op);
    CHECK(all.empty());
  }

  TEST_CASE("among ten thousand descriptors, those of one are found without asking the rest") {
    iowq::detail::operation_counters counts;
    in_flight_registry all{counts};
    std::vector<std::unique_ptr<fake>> in;
    for (int number = 0; number < 10'000; ++number) {
      in.push_back(std::make_unique<fake>(number));
      all.add(*in.back());
    }
    fake::asked = 0;
    for (int number = 0; number < 10'000; ++number) CHECK(on(all, number).size() == 1);
    // 10,000 questions of a list would be a hundred million.
    CHECK(fake::asked < 20 * in.size());
    for (auto const& op : in) in_flight_registry::remove(*op);
  }
}
