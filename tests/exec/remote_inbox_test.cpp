// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/detail/remote_inbox.hpp>  // first and alone

#include <atomic>
#include <optional>
#include <thread>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/time.hpp>

#include "bounded.hpp"
#include "leak_check.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;
using iowq::detail::loop_item;
using iowq::detail::remote_inbox;

void nothing(loop_item*) noexcept {}
void until(const std::atomic<bool>& flag) {
  iowq_test::spin_until([&] { return flag.load(); });
}
}  // namespace

TEST_SUITE("exec/remote_inbox") {
  TEST_CASE("only who finds the owner parked wakes it, once a park") {
    remote_inbox box;
    loop_item a{&nothing}, b{&nothing}, c{&nothing};
    int wakes = 0;
    auto const wake = [&] { ++wakes; };
    box.post(a, wake);
    CHECK(wakes == 0);
    CHECK_FALSE(box.park());
    CHECK(box.drain() == &a);
    REQUIRE(box.park());
    box.post(b, wake);
    box.post(c, wake);
    CHECK(wakes == 1);
    CHECK(box.kicks() == 1);
    CHECK(box.drain() == &b);
    REQUIRE(box.park());
    CHECK(box.drain() == nullptr);  // woken by something else: nobody owes anything
    box.wait_for_callers();
  }

  TEST_CASE("the owner is not gone before who saw it parked has woken it") {
    // Goal: the end of the loop between an item's arrival and its poster's wake-up. Method: the
    // wake-up is held until the owner has the item and is about to go.
    for (int round = 0; round < 100; ++round) {
      remote_inbox box;
      loop_item last{&nothing};
      std::atomic<bool> waking{false}, going{false}, gone{false};
      REQUIRE(box.park());
      bool early = true;
      std::thread poster{[&] {
        box.post(last, [&] {
          waking = true;
          until(going);
          for (int chance = 0; chance < 20; ++chance) std::this_thread::yield();
          early = gone;
        });
      }};
      until(waking);
      CHECK(box.drain() == &last);
      going = true;
      box.wait_for_callers();
      gone = true;
      poster.join();
      REQUIRE_FALSE(early);
    }
  }

  TEST_CASE("the owner is not gone before a visit has ended") {
    for (int round = 0; round < 100; ++round) {
      remote_inbox box;
      std::atomic<bool> stopping{false}, going{false}, gone{false};
      bool early = true;
      std::thread visitor{[&] {
        box.call_while_alive([&] {
          stopping = true;
          until(going);
          for (int chance = 0; chance < 20; ++chance) std::this_thread::yield();
          early = gone;
        });
      }};
      until(stopping);
      going = true;
      box.wait_for_callers();
      gone = true;
      visitor.join();
      REQUIRE_FALSE(early);
    }
  }

  TEST_CASE("an executor may end by what is posted to it, before post() has returned") {
    // Goal: a post, or a stop, that touches an executor which is gone. Method: it ends, and its
    // memory is free, as soon as it has what it waits for, and sleeps as often as not; ASan tells.
    iowq_test::leak_check books;
    auto const wait_for = [](const int& flag) -> task<> {
      while (flag == 0) co_await iowq::sleep_for(20us);
    };
    auto const set = [](int& flag) -> task<> {
      flag = 1;
      co_return;
    };
    for (int round = 0; round < 300; ++round) {
      auto here = std::make_unique<iowq::executor>();
      int flag = 0;
      std::atomic<bool> go{false};
      std::thread poster{[&go, &set, &flag, executor = here.get(), stops = round % 2 == 0] {
        until(go);
        stops ? executor->request_stop() : executor->post(set(flag));
      }};
      go = true;
      here->run(wait_for(flag));
      here.reset();
      poster.join();
    }
  }
}
