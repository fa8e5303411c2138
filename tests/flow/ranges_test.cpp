// SPDX-License-Identifier: BSL-1.0
#include <iowq/flow/ranges.hpp>  // first and alone

#include <array>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <range/v3/view/chunk.hpp>
#include <range/v3/view/filter.hpp>
#include <range/v3/view/iota.hpp>
#include <range/v3/view/take.hpp>
#include <range/v3/view/transform.hpp>

#include <iowq/exec/executor.hpp>
#include <iowq/op/vector.hpp>

#include "ways.hpp"

namespace {
using iowq::task;
namespace views = ranges::views;

template <class R>
concept makes_buffers = requires(R& r) { iowq::buffers(r); };

bool is_odd(int n) { return n % 2 == 1; }
task<int> twice(int n) {
  co_await iowq::yield();
  co_return 2 * n;
}
}  // namespace

TEST_SUITE("flow/ranges") {
  TEST_CASE("for_each and transform end a pipe, of an lvalue, of views, of one without end") {
    auto const body = []() -> task<> {
      int sum = 0;
      auto const add = [&sum](int n) -> task<> {
        co_await iowq::yield();
        sum += n;
      };
      std::vector<int> const numbers{1, 2, 3, 4, 5};
      auto odd = numbers | views::filter(is_odd) | iowq::for_each(2, add);
      co_await odd;
      CHECK(sum == 9);
      auto all = numbers | iowq::for_each(2, add);
      co_await all;
      CHECK(sum == 9 + 15);

      std::vector<int> got;
      auto doubled = views::iota(1) | views::filter(is_odd) | iowq::transform(3, twice);
      while (auto n = co_await doubled.next()) {
        got.push_back(*n);
        if (got.size() == 4) break;
      }
      co_await iowq::finish(doubled);
      CHECK(got == std::vector{2, 6, 10, 14});
    };
    iowq::run(body());
  }

  TEST_CASE("views can be piped in before there is a source") {
    auto const body = []() -> task<> {
      auto const first_two_odd = views::filter(is_odd) | views::take(2) | iowq::transform(2, twice);
      auto doubled = views::iota(4) | first_two_odd;
      std::vector<int> got;
      while (auto n = co_await doubled.next()) got.push_back(*n);
      CHECK(got == std::vector{10, 14});
    };
    iowq::run(body());
  }

  TEST_CASE("when_all and when_any end a pipe of awaitables") {
    auto const body = []() -> task<> {
      auto all = views::iota(0, 4) | views::transform(twice) | iowq::when_all();
      auto const values = co_await all;
      CHECK(values == std::vector{0, 2, 4, 6});
      auto any = views::iota(0, 4) | views::transform(twice) | iowq::when_any();
      auto const first = co_await any;
      CHECK(first.index() == 0);
      CHECK(first.value() == 0);
    };
    iowq::run(body());
  }

  TEST_CASE("buffers() makes of a range of bytes what readv and writev take") {
    auto const body = []() -> task<> {
      iowq_test::scratch dir;
      iowq::fd file{::open((dir / "f").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
      std::vector<std::string> const lines{"one ", "two ", "three"};
      auto const out = iowq::buffers(lines);
      static_assert(std::is_same_v<decltype(out), const std::vector<::iovec>>);
      auto const written = co_await iowq::pwritev(file, out, 0);
      CHECK(written == 13);

      std::array<char, 13> in{};
      auto const as_span = [](auto&& part) {
        return std::span<char>{&*part.begin(), static_cast<std::size_t>(ranges::distance(part))};
      };
      auto const parts = in | views::chunk(5) | views::transform(as_span) | iowq::buffers();
      CHECK(parts.size() == 3);
      CHECK(parts[2].iov_len == 3);
      auto const read = co_await iowq::preadv(file, parts, 0);
      CHECK(read == 13);
      CHECK(std::string(in.data(), in.size()) == "one two three");
    };
    iowq::run(body());
  }

  TEST_CASE("bytes that would be gone are refused") {
    auto const make = [](int n) { return std::string(3, static_cast<char>('a' + n)); };
    auto const temporaries = views::iota(0, 3) | views::transform(make);
    static_assert(!makes_buffers<decltype(temporaries)>);
    static_assert(makes_buffers<const std::vector<std::string>>);
    CHECK(iowq::buffers(std::vector<std::string_view>{"a"}).size() == 1);
  }
}
