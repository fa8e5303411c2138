// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/lock.hpp>  // first and alone

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/open.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;
}  // namespace

TEST_SUITE("op/lock") {
  TEST_CASE("flock excludes and shares as flock(2) does, and waits until the holder lets go") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd one = co_await iowq::open(in / "file", O_CREAT | O_RDWR);
        iowq::fd two = co_await iowq::open(in / "file", O_RDONLY);
        co_await as(w, iowq::flock(one, LOCK_SH));
        co_await as(w, iowq::flock(two, LOCK_SH));
        auto const shared = co_await iowq::as_result(as(w, iowq::flock(one, LOCK_EX | LOCK_NB)));
        CHECK(shared.error() == std::errc::operation_would_block);
        co_await as(w, iowq::flock(two, LOCK_UN));
        co_await as(w, iowq::flock(one, LOCK_EX));

        bool got = false;
        auto const waiter = [](way v, int file, bool& done) -> task<> {
          co_await as(v, iowq::flock(file, LOCK_EX));
          done = true;
        };
        iowq::executor::current().spawn(waiter(w, two.get(), got));
        co_await iowq_test::until_waiting("flock");
        CHECK_FALSE(got);
        co_await as(w, iowq::flock(one, LOCK_UN));
        co_await iowq_test::until([&] { return got; });
        auto const held = co_await iowq::as_result(as(w, iowq::flock(one, LOCK_SH | LOCK_NB)));
        CHECK(held.error() == std::errc::operation_would_block);
        auto const bad = co_await iowq::as_result(as(w, iowq::flock(1'000'000, LOCK_SH)));
        CHECK(bad.error() == std::errc::bad_file_descriptor);
        auto const odd = co_await iowq::as_result(as(w, iowq::flock(one, 0)));
        CHECK(odd.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("a flock that waits is cancelled, and holds nothing then") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    auto const body = [](iowq_test::scratch& in) -> task<> {
      iowq::fd one = co_await iowq::open(in / "file", O_CREAT | O_RDWR);
      iowq::fd two = co_await iowq::open(in / "file", O_RDONLY);
      co_await iowq::flock(one, LOCK_EX);
      iowq::stop_source source;
      std::error_code end;
      auto const waiter = [](int file, iowq::stop_token token, std::error_code& e) -> task<> {
        co_await iowq_test::under{token};
        auto const r = co_await iowq::as_result(iowq::flock(file, LOCK_EX));
        e = r.error();
      };
      auto& here = iowq::executor::current();
      here.spawn(waiter(two.get(), source.get_token(), end));
      co_await iowq_test::until_waiting("flock");
      source.request_stop();
      co_await iowq_test::until([&] { return end.value() != 0; });
      CHECK(end == std::errc::operation_canceled);
      co_await iowq::flock(one, LOCK_UN);
      co_await iowq::flock(one, LOCK_EX | LOCK_NB);
    };
    iowq::run(body(dir));
  }
}
