// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/epoll.hpp>  // first and alone

#include <sys/ioctl.h>

#include <array>
#include <chrono>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/time.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;
}  // namespace

TEST_SUITE("op/epoll") {
  TEST_CASE("epoll_wait tells what is ready, waits until something is, and can be stopped") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::leak_check books;
      auto const body = [](way w) -> task<> {
        iowq_test::pipe_pair pipes[3];
        iowq::fd set{::epoll_create1(EPOLL_CLOEXEC)};
        for (std::uint32_t i = 0; i < 3; ++i) {
          ::epoll_event event{.events = EPOLLIN, .data = {.u32 = i}};
          REQUIRE(::epoll_ctl(set.get(), EPOLL_CTL_ADD, pipes[i].in.get(), &event) == 0);
        }
        std::array<::epoll_event, 4> events{};
        bool over = false;
        auto const waiter = [&](iowq::stop_token token) -> task<> {
          co_await iowq_test::under{token};
          CHECK(co_await as(w, iowq::epoll_wait(set, events)) == 1);
          std::uint32_t const which = events[0].data.u32;  // packed
          CHECK(which == 1);
          char byte;
          REQUIRE(::read(pipes[1].in.get(), &byte, 1) == 1);
          auto const none = co_await iowq::as_result(as(w, iowq::epoll_wait(set, events)));
          CHECK(none.error() == std::errc::operation_canceled);
          over = true;
        };
        iowq::stop_source source;
        iowq::executor::current().spawn(waiter(source.get_token()));
        co_await iowq_test::until_waiting("epoll_wait");
        REQUIRE(::write(pipes[1].out.get(), "x", 1) == 1);
        co_await iowq_test::until([&] {  // the first epoll_wait has completed
          int waiting = 0;
          REQUIRE(::ioctl(pipes[1].in.get(), FIONREAD, &waiting) == 0);
          return waiting == 0;
        });
        co_await iowq_test::until_waiting("epoll_wait");
        source.request_stop();
        co_await iowq_test::until([&] { return over; });
        for (auto& one : pipes) REQUIRE(::write(one.out.get(), "x", 1) == 1);
        CHECK(co_await as(w, iowq::epoll_wait(set, std::span{events}.first(2))) == 2);
        CHECK(co_await as(w, iowq::epoll_wait(set, events)) == 3);
        auto const empty =
            co_await iowq::as_result(as(w, iowq::epoll_wait(set, std::span{events}.first(0))));
        CHECK(empty.error() == std::errc::invalid_argument);
        auto const wrong = co_await iowq::as_result(as(w, iowq::epoll_wait(pipes[0].in, events)));
        CHECK(wrong.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go));
    }
  }
}
