// SPDX-License-Identifier: BSL-1.0
#include <iowq/base/result.hpp>

#include <csignal>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "death.hpp"
#include "leak_check.hpp"

namespace {
using iowq::result;
using iowq_test::counted;

const std::error_code enoent{ENOENT, std::system_category()};

struct no_default {
  explicit no_default(int n) : number(n) {}
  int number;
};
static_assert(!std::is_default_constructible_v<result<no_default>>);
static_assert(std::is_default_constructible_v<result<>>);
static_assert(!std::is_convertible_v<result<int>, bool>);  // only explicitly: `if (r)`
static_assert(!std::is_copy_constructible_v<result<std::unique_ptr<int>>>);
static_assert(std::is_nothrow_move_constructible_v<result<std::unique_ptr<int>>>);
static_assert(std::is_same_v<decltype(*std::declval<result<int&>&>()), int&>);
static_assert(std::is_same_v<decltype(*std::declval<const result<int>&>()), const int&>);
static_assert(std::is_void_v<decltype(std::declval<result<>&>().value())>);
static_assert(sizeof(result<>) <= 3 * sizeof(void*));
static_assert(sizeof(result<std::size_t>) <= 3 * sizeof(void*));
// An implicit conversion may not swallow an error, nor call a constructor marked explicit.
static_assert(!std::is_convertible_v<result<int>, result<bool>>);
static_assert(!std::is_convertible_v<int, result<std::vector<int>>>);
// A reference result names an object that exists.
static_assert(std::is_constructible_v<result<const std::string&>, std::string&>);
static_assert(!std::is_constructible_v<result<const std::string&>, const char*&>);
}  // namespace

TEST_SUITE("base/result") {
  TEST_CASE("a result of a value has it and no error") {
    result<std::string> r = "four";
    REQUIRE(r);
    CHECK(*r == "four");
    CHECK(r->size() == 4);
    CHECK(r.value() == "four");
    CHECK(r.error() == std::error_code{});
    *r = "five";
    CHECK(std::as_const(r).value() == "five");
  }

  TEST_CASE("a result of an error has no value, and value() throws it") {
    const result<int> r = enoent;
    CHECK_FALSE(r);
    CHECK_FALSE(r.has_value());
    CHECK(r.error() == std::errc::no_such_file_or_directory);
    try {
      (void)r.value();
      FAIL("value() returned");
    } catch (const std::system_error& error) {
      CHECK(error.code() == enoent);
    }
  }

  TEST_CASE("an error_code is an error even where bool could be made of it") {
    CHECK_FALSE(result<bool>{enoent}.has_value());
    CHECK(result<bool>{false}.has_value());
  }

  TEST_CASE("a move-only value moves out") {
    result<std::unique_ptr<int>> r = std::make_unique<int>(7);
    const std::unique_ptr<int> taken = *std::move(r);
    CHECK(*taken == 7);
    CHECK(*r == nullptr);
    CHECK(*result<std::unique_ptr<int>>{std::make_unique<int>(8)}.value() == 8);
  }

  TEST_CASE("a value is copied never and destroyed as often as it was made") {
    counted::reset();
    {
      result<counted> r{counted{1}};
      result<counted> moved = std::move(r);
      r = std::move(moved);
      const counted out = std::move(r).value();
      CHECK(out.value == 1);
      CHECK(counted::copied() == 0);
      r = enoent;
    }
    CHECK(counted::created() > 2);
    CHECK(counted::alive() == 0);
  }

  TEST_CASE("a reference result names the object itself") {
    int object = 1;
    result<int&> r = object;
    *r = 2;
    CHECK(object == 2);
    CHECK(&std::as_const(r).value() == &object);
    CHECK(&*std::move(r) == &object);
    result<const std::string&> text = enoent;
    CHECK_FALSE(text);
  }

  TEST_CASE("a void result tells success from failure") {
    result<> good;
    REQUIRE(good);
    good.value();
    CHECK_THROWS_AS(result<>{enoent}.value(), std::system_error);
  }

  TEST_CASE("value_or answers the other one only for an error") {
    CHECK(result<int>{1}.value_or(2) == 1);
    CHECK(result<int>{enoent}.value_or(2) == 2);
    auto other = result<std::unique_ptr<int>>{enoent}.value_or(std::make_unique<int>(3));
    CHECK(*other == 3);
  }

  TEST_CASE("-errno and errno become the same error, and its text begins with the operation") {
    CHECK(iowq::detail::to_error(-ENOENT) == enoent);
    errno = ENOENT;
    CHECK(iowq::detail::or_errno(-1) == -ENOENT);
    CHECK(iowq::detail::or_errno(5L) == 5L);
    try {
      iowq::detail::throw_error(-ENOENT, "openat");
    } catch (const std::system_error& error) {
      CHECK(error.code() == enoent);
      CHECK(std::string{error.what()} == "openat: No such file or directory");
    }
  }

  TEST_CASE("reading the value of an error stops the program") {
    const auto end = iowq_test::death_output([] {
      const result<int> r = enoent;
      (void)*r;
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a result was dereferenced that holds an error"));
  }

  TEST_CASE("an error_code that says success makes no result") {
    const auto end = iowq_test::death_output([] { (void)result<int>{std::error_code{}}; });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("says success"));
  }
}
