// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/futex.hpp>  // first and alone

#include <atomic>
#include <thread>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>

#include "bounded.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

task<> waiter(way w, std::atomic<std::uint32_t>& word, iowq::stop_token token, int& woken,
              std::error_code& end) {
  co_await iowq_test::under{token};
  auto const r = co_await iowq::as_result(as(w, iowq::futex_wait(word, 0)));
  woken += r.has_value();
  end = r.error();
}
}  // namespace

TEST_SUITE("op/futex") {
  TEST_CASE("who waits is woken by futex_wake, as many as asked for, and by a plain futex(2)") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        std::atomic<std::uint32_t> word{0};
        std::error_code end;
        int woken = 0;
        auto& here = iowq::executor::current();
        for (int i = 0; i < 3; ++i) here.spawn(waiter(w, word, {}, woken, end));
        int told = 0;
        for (iowq_test::wait_limit limit; told == 0; limit.check()) {  // the first of them waits
          told = co_await as(w, iowq::futex_wake(word, 1));
          co_await iowq::yield();
        }
        CHECK(told == 1);
        co_await iowq_test::until([&] { return woken != 0; });
        CHECK(woken == 1);
        for (iowq_test::wait_limit limit; told < 3; limit.check()) {
          told += co_await as(w, iowq::futex_wake(word));
          co_await iowq::yield();
        }
        co_await iowq_test::until([&] { return woken >= 3; });
        CHECK(told == 3);
        CHECK(co_await as(w, iowq::futex_wake(word)) == 0);
        CHECK_FALSE(end);

        here.spawn(waiter(w, word, {}, woken, end));
        std::thread other{[&] {
          iowq_test::spin_until([&] {
            return ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word),
                             FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, nullptr, nullptr, 0) != 0;
          });
        }};
        co_await iowq_test::until([&] { return woken >= 4; });
        other.join();
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("a word that holds something else is EAGAIN, a place without memory EFAULT") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        std::uint32_t word = 7;
        auto const other = co_await iowq::as_result(as(w, iowq::futex_wait(word, 0)));
        CHECK(other.error() == std::errc::resource_unavailable_try_again);
        auto const shared =
            co_await iowq::as_result(as(w, iowq::futex_wait(&word, 8, iowq::futex_scope::shared)));
        CHECK(shared.error() == std::errc::resource_unavailable_try_again);
        CHECK(co_await as(w, iowq::futex_wake(word, 5, iowq::futex_scope::shared)) == 0);
        auto* const nowhere = reinterpret_cast<std::uint32_t*>(16);
        auto const fault = co_await iowq::as_result(as(w, iowq::futex_wait(nowhere, 0)));
        CHECK(fault.error() == std::errc::bad_address);
        auto const negative = co_await iowq::as_result(as(w, iowq::futex_wake(word, -1)));
        CHECK(negative.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("a futex_wait is cancelled, and takes no wake from another") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        std::atomic<std::uint32_t> word{0};
        iowq::stop_source source;
        std::error_code end, other_end;
        int woken = 0, other_woken = 0;
        auto& here = iowq::executor::current();
        here.spawn(waiter(w, word, source.get_token(), woken, end));
        here.spawn(waiter(w, word, {}, other_woken, other_end));
        co_await iowq_test::until_waiting("futex_wait", 2);
        source.request_stop();
        co_await iowq_test::until([&] { return end.value() != 0; });
        CHECK(end == std::errc::operation_canceled);
        CHECK(other_woken == 0);
        CHECK(co_await iowq::futex_wake(word, 1) == 1);
        co_await iowq_test::until([&] { return other_woken != 0; });
        CHECK(woken == 0);
      };
      iowq::run(body(go));
    }
  }
}
