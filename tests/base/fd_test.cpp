// SPDX-License-Identifier: BSL-1.0
#include <iowq/base/fd.hpp>

#include <fcntl.h>

#include <cerrno>
#include <type_traits>
#include <utility>

#include <doctest/doctest.h>

#include "leak_check.hpp"

namespace {
using iowq::descriptor;
using iowq::fd;

static_assert(!std::is_copy_constructible_v<fd>);
static_assert(!std::is_convertible_v<int, fd>);  // taking over is said aloud
static_assert(!std::is_convertible_v<fd, int>);
static_assert(sizeof(fd) == 2 * sizeof(std::uint64_t));  // the number, and what is known of it
static_assert(std::is_convertible_v<int, descriptor>);
static_assert(std::is_convertible_v<const fd&, descriptor>);
static_assert(!std::is_convertible_v<fd, descriptor>);  // a temporary would be closed too early

int open_one() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }
bool is_open(int number) { return ::fcntl(number, F_GETFD) >= 0; }
}  // namespace

TEST_SUITE("base/fd") {
  TEST_CASE("an fd closes what it owns when it goes") {
    const int number = open_one();
    {
      const fd owner{number};
      REQUIRE(owner);
      CHECK(owner.get() == number);
    }
    CHECK_FALSE(is_open(number));
  }

  TEST_CASE("an fd that owns nothing is false and closes nothing") {
    iowq_test::leak_check books;
    const fd none, failed{-EMFILE};
    CHECK_FALSE(none);
    CHECK_FALSE(failed);
  }

  TEST_CASE("moving hands the descriptor on, and the old owner forgets it") {
    iowq_test::leak_check books;
    const int number = open_one();
    fd first{number};
    fd second = std::move(first);
    CHECK_FALSE(first);
    CHECK(second.get() == number);
    const int other = open_one();
    second = fd{other};
    CHECK_FALSE(is_open(number));
    CHECK(second.get() == other);
    fd& self = second;
    second = std::move(self);
    CHECK(is_open(other));
  }

  TEST_CASE("release gives the descriptor up open, reset closes it") {
    iowq_test::leak_check books;
    const int number = open_one();
    fd owner{number};
    CHECK(owner.release() == number);
    CHECK_FALSE(owner);
    REQUIRE(is_open(number));
    owner.reset(number);
    owner.reset();
    CHECK_FALSE(is_open(number));
  }

  TEST_CASE("a descriptor borrows: it closes nothing") {
    const fd owner{open_one()};
    {
      CHECK(descriptor{owner}.get() == owner.get());
    }
    CHECK(is_open(owner.get()));
    CHECK(descriptor{7}.get() == 7);
  }
}
