// SPDX-License-Identifier: BSL-1.0
#include <iowq/coro/detail/trampoline.hpp>

#include <stdexcept>
#include <vector>

#include <iowq/coro/task.hpp>

#include <doctest/doctest.h>

#include "manual.hpp"
#include "small_stack.hpp"

namespace {
using iowq::task;
using iowq_test::detached;
using iowq_test::foreign;
using iowq_test::on_small_stack;
using iowq_test::started;
using iowq_test::suspension;

/// No coroutine of this thread runs, and none is forgotten.
bool idle() {
  const auto& here = iowq::detail::this_thread_trampoline;
  return !here.running && !here.next;
}

task<int> one() { co_return 1; }

task<long> add_up(int count) {
  long sum = 0;
  for (int i = 0; i < count; ++i) {
    const int n = co_await one();
    sum += n;
  }
  co_return sum;
}

task<int> depth(int left, suspension* bottom = nullptr) {
  if (left == 0) {
    if (bottom != nullptr) co_await *bottom;
    co_return 0;
  }
  const int below = co_await depth(left - 1, bottom);
  co_return below + 1;
}

task<> throw_from(int left) {
  if (left == 0) throw std::runtime_error("bottom");
  co_await throw_from(left - 1);
}

foreign ask(suspension& point) {
  const int ours = co_await one();
  co_await point;
  const int again = co_await one();
  co_return ours + again;
}
}  // namespace

TEST_SUITE("coro/trampoline") {
  TEST_CASE("hazard-15: a million synchronous awaits in 256 KiB of stack") {
    long sum = 0;
    on_small_stack([&] {
      auto body = [&]() -> task<> { sum = co_await add_up(1'000'000); };
      started run{body()};
      CHECK(run.ended());
      CHECK(idle());
    });
    CHECK(sum == 1'000'000);
  }

  TEST_CASE("hazard-15: a hundred thousand awaits deep in 256 KiB of stack") {
    int levels = 0;
    on_small_stack([&] {
      auto body = [&]() -> task<> { levels = co_await depth(100'000); };
      started run{body()};
      CHECK(run.ended());
    });
    CHECK(levels == 100'000);
  }

  TEST_CASE("hazard-15: a completion a hundred thousand levels up in 256 KiB of stack") {
    for (bool flat : {false, true}) {
      int levels = 0;
      on_small_stack([&] {
        suspension bottom;
        auto body = [&]() -> task<> { levels = co_await depth(100'000, &bottom); };
        started run{body()};
        CHECK(idle());
        flat ? bottom.resume_flat() : bottom.resume();
        CHECK(run.ended());
        CHECK(idle());
      });
      CHECK(levels == 100'000);
    }
  }

  TEST_CASE("hazard-15: a hundred thousand completions in turn in 256 KiB of stack") {
    int rounds = 0;
    on_small_stack([&] {
      suspension point;
      auto wait = [&]() -> task<> { co_await point; };
      auto body = [&]() -> task<> {
        for (; rounds < 100'000; ++rounds) co_await wait();
      };
      started run{body()};
      while (point.waiting()) point.resume();
      CHECK(run.ended());
    });
    CHECK(rounds == 100'000);
  }

  TEST_CASE("hazard-15: an exception up ten thousand levels in 256 KiB of stack") {
    on_small_stack([] {
      started run{throw_from(10'000)};
      CHECK_THROWS_WITH(run.ended(), "bottom");
    });
  }

  TEST_CASE("hazard-15: a foreign coroutine awaits a million of ours in 256 KiB of stack") {
    int count = 0;
    on_small_stack([&] {
      auto loop = [](int& done) -> detached {
        for (; done < 1'000'000; ++done) co_await one();
      };
      loop(count);
      CHECK(idle());
    });
    CHECK(count == 1'000'000);
  }

  TEST_CASE("a foreign coroutine that ends within our loop is freed under it, unharmed") {
    bool ended = false;
    suspension point;
    auto child = [&]() -> task<> { co_await point; };
    auto watch = [](task<> waits, bool& flag) -> detached {
      co_await waits;
      co_await one();
      flag = true;
    };
    watch(child(), ended);
    CHECK_FALSE(ended);
    point.resume();
    CHECK(ended);
    CHECK(idle());
  }

  TEST_CASE("our task awaits a foreign coroutine, which awaits ours") {
    suspension point;
    int answer = 0;
    auto body = [&]() -> task<> {
      for (int i = 0; i < 3; ++i) {
        const int n = co_await ask(point);
        answer += n;
        co_await one();
      }
    };
    started run{body()};
    while (point.waiting()) point.resume();
    REQUIRE(run.ended());
    CHECK(answer == 6);
    CHECK(idle());
  }

  // A coroutine of ours, in the middle of its body, sets something that resumes another one of
  // ours inline; what that one hands over to must wait for the outer one's next suspension.
  struct two_coroutines {
    std::vector<int> log;
    suspension point;

    task<> note(int n) {
      log.push_back(n);
      co_return;
    }
    task<> inner() {
      co_await point;
      log.push_back(10);
      co_await note(11);
      log.push_back(12);
    }
  };

  TEST_CASE("resumed inline: its successors run before those of the outer one") {
    two_coroutines both;
    started inner{both.inner()};
    auto body = [&]() -> task<> {
      both.point.resume();
      both.log.push_back(1);
      co_await both.note(2);  // the hand-over place is occupied
      both.log.push_back(3);
    };
    started outer{body()};
    REQUIRE(inner.ended());
    REQUIRE(outer.ended());
    CHECK(both.log == std::vector{10, 1, 11, 12, 2, 3});
    CHECK(idle());
  }

  TEST_CASE("resumed inline: its successors run though the outer one ends, or waits elsewhere") {
    for (bool ends : {true, false}) {
      two_coroutines both;
      suspension elsewhere;
      started inner{both.inner()};
      auto body = [&]() -> task<> {
        both.point.resume();
        both.log.push_back(1);
        if (!ends) co_await elsewhere;
      };
      started outer{body()};
      CHECK(inner.ended());
      CHECK(outer.ended() == ends);
      CHECK(both.log == std::vector{10, 1, 11, 12});
      CHECK(idle());
      if (!ends) elsewhere.resume();
      REQUIRE(outer.ended());
    }
  }

  TEST_CASE("resumed by a nested loop of ours: it is through before the outer one goes on") {
    two_coroutines both;
    started inner{both.inner()};
    auto body = [&]() -> task<> {
      both.point.resume_flat();
      both.log.push_back(1);
      co_await both.note(2);
    };
    started outer{body()};
    REQUIRE(inner.ended());
    REQUIRE(outer.ended());
    CHECK(both.log == std::vector{10, 11, 12, 1, 2});
    CHECK(idle());
  }

  TEST_CASE("in a loop's scope what a coroutine hands over to waits for drain_trampoline()") {
    {
      iowq::detail::trampoline_scope loop;
      two_coroutines both;
      started inner{both.inner()};
      CHECK_FALSE(both.point.waiting());
      iowq::detail::drain_trampoline();
      REQUIRE(both.point.waiting());
      both.point.resume();
      CHECK(both.log == std::vector{10});
      iowq::detail::drain_trampoline();
      CHECK(both.log == std::vector{10, 11, 12});
      CHECK(inner.ended());
    }
    CHECK(idle());
  }

  TEST_CASE("hazard-15: awaits of a loop's scope, resumed inline or in turn, in 256 KiB of stack") {
    int rounds = 0, levels = 0;
    on_small_stack([&] {
      iowq::detail::trampoline_scope loop;
      suspension point;
      auto body = [&]() -> task<> {
        for (; rounds < 100'000; ++rounds) {
          co_await point;
          co_await one();
        }
        levels = co_await depth(100'000);
      };
      started run{body()};
      for (iowq::detail::drain_trampoline(); point.waiting(); iowq::detail::drain_trampoline())
        point.resume();
      CHECK(run.ended());
    });
    CHECK(rounds == 100'000);
    CHECK(levels == 100'000);
  }

  TEST_CASE("hazard-15: a hundred thousand inline resumptions in 256 KiB of stack") {
    int inner_rounds = 0, outer_rounds = 0;
    on_small_stack([&] {
      suspension point;
      auto inner_body = [&]() -> task<> {
        for (; inner_rounds < 100'000; ++inner_rounds) {
          co_await point;
          co_await one();
        }
      };
      auto outer_body = [&]() -> task<> {
        for (; outer_rounds < 100'000; ++outer_rounds) {
          point.resume();
          co_await one();
        }
      };
      started inner{inner_body()};
      started outer{outer_body()};
      CHECK(inner.ended());
      CHECK(outer.ended());
    });
    CHECK(inner_rounds == 100'000);
    CHECK(outer_rounds == 100'000);
  }
}
