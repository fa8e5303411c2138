// SPDX-License-Identifier: BSL-1.0
#include <iowq/base/stop.hpp>

#include <atomic>
#include <csignal>
#include <memory>
#include <optional>
#include <thread>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include "allocations.hpp"
#include "death.hpp"

namespace {
using iowq::stop_callback;
using iowq::stop_source;
using iowq::stop_token;
using iowq_test::allocations;

static_assert(!std::is_copy_constructible_v<stop_source>);
static_assert(!std::is_move_constructible_v<stop_source>);
static_assert(std::is_trivially_copyable_v<stop_token>);
static_assert(sizeof(stop_token) == sizeof(void*));
static_assert(!std::is_copy_constructible_v<stop_callback<void (*)()>>);
static_assert(std::is_same_v<stop_token::callback_type<int (*)()>, stop_callback<int (*)()>>);
static_assert(noexcept(std::declval<stop_source&>().request_stop()));
static_assert(noexcept(std::declval<stop_source&>().get_token().stop_requested()));

using plain = stop_callback<void (*)()>;

struct appends {
  std::vector<int>* log;
  int number;
  void operator()() const { log->push_back(number); }
};
}  // namespace

TEST_SUITE("base/stop") {
  TEST_CASE("a stop is requested once and every token of the source sees it") {
    stop_source source;
    const stop_token token = source.get_token();
    CHECK(token.stop_possible());
    CHECK_FALSE(token.stop_requested());
    CHECK(source.request_stop());
    CHECK(token.stop_requested());
    CHECK(source.stop_requested());
    CHECK_FALSE(source.request_stop());
  }

  TEST_CASE("a default token can never be stopped, nor run a callback") {
    const stop_token token;
    CHECK_FALSE(token.stop_possible());
    CHECK_FALSE(token.stop_requested());
    bool called = false;
    {
      stop_callback callback{token, [&] { called = true; }};
    }
    CHECK_FALSE(called);
  }

  TEST_CASE("tokens are equal if and only if they have the same source") {
    stop_source a, b;
    stop_token of_a = a.get_token(), of_b = b.get_token();
    CHECK(of_a == a.get_token());
    CHECK(of_a != of_b);
    CHECK(of_a != stop_token{});
    CHECK(stop_token{} == stop_token{});
    of_a.swap(of_b);
    CHECK(of_a == b.get_token());
    CHECK(of_b == a.get_token());
  }

  TEST_CASE("a request runs each registered callback once, those gone before it never") {
    stop_source source;
    std::vector<int> log;
    const allocations before = allocations::now();
    {
      stop_callback gone{source.get_token(), appends{&log, 0}};
      stop_callback first{source.get_token(), appends{&log, 1}};
    }
    stop_callback second{source.get_token(), appends{&log, 2}};
    stop_callback third{source.get_token(), appends{&log, 3}};
    CHECK((allocations::now() - before).made == 0);
    source.request_stop();
    source.request_stop();
    CHECK(log == std::vector{3, 2});
  }

  TEST_CASE("a registration after the request runs inline, in the constructor") {
    stop_source source;
    source.request_stop();
    bool called = false;
    stop_callback late{source.get_token(), [&] { called = true; }};
    CHECK(called);
  }

  TEST_CASE("within a callback the stop is visible, and a new registration runs inline") {
    stop_source source;
    bool seen = false, nested = false;
    stop_callback outer{source.get_token(), [&] {
                          seen = source.stop_requested() && !source.request_stop();
                          stop_callback inner{source.get_token(), [&] { nested = true; }};
                          seen = seen && nested;
                        }};
    source.request_stop();
    CHECK(seen);
  }

  TEST_CASE("a callback may end its own registration") {
    stop_source source;
    static std::unique_ptr<plain> self;
    static int calls;
    calls = 0;
    const plain after{source.get_token(), [] { ++calls; }};  // newest first: runs last
    self = std::make_unique<plain>(source.get_token(), [] { self.reset(), ++calls; });
    source.request_stop();
    CHECK_FALSE(self);
    CHECK(calls == 2);
  }

  TEST_CASE("a callback may end another's registration, which then never runs") {
    stop_source source;
    static std::optional<plain> victim;
    bool ran = false;
    victim.emplace(source.get_token(), [] { FAIL_CHECK("ran after its registration ended"); });
    stop_callback newer{source.get_token(), [&] { victim.reset(), ran = true; }};
    source.request_stop();
    CHECK(ran);
  }

  TEST_CASE("hazard-9: a callback may end its registration and destroy the source that runs it") {
    static std::unique_ptr<stop_source> source;
    static std::unique_ptr<plain> self;
    source = std::make_unique<stop_source>();
    self = std::make_unique<plain>(source->get_token(), [] { self.reset(), source.reset(); });
    CHECK(source->request_stop());
    CHECK(source == nullptr);
  }

  TEST_CASE("a million registrations end in any order, and the request finds the rest") {
    // Not timed: were one of them to walk the list, this would not end today.
    constexpr std::size_t count = 1'000'000;
    static std::size_t calls;
    calls = 0;
    stop_source source;
    const auto callbacks = std::make_unique<std::optional<plain>[]>(count);
    for (std::size_t i = 0; i < count; ++i)
      callbacks[i].emplace(source.get_token(), [] { ++calls; });
    for (std::size_t i = 0; i < count; i += 2)
      callbacks[i * 7'368'787 % count].reset();  // the even ones, shuffled
    source.request_stop();
    CHECK(calls == count / 2);
  }

  TEST_CASE("what was written before the request is seen by whoever sees the request") {
    for (int round = 0; round < 200; ++round) {
      stop_source source;
      int message = 0;
      std::thread requester{[&] {
        message = 1;
        source.request_stop();
      }};
      while (!source.stop_requested()) std::this_thread::yield();
      CHECK(message == 1);
      requester.join();
    }
  }

  TEST_CASE("a callback ends before or runs through: never after its destructor") {
    // Goal: a call that begins or goes on after ~stop_callback returned, or a second one.
    // Method: one thread requests while the other ends the registration, round by round; what
    // the callback touches is freed at once.
    constexpr int rounds = 50'000;
    struct round_state {
      stop_source source;
      std::unique_ptr<int> touched = std::make_unique<int>(0);
    };
    std::vector<round_state> states(rounds);
    std::atomic<int> turn{0};
    std::thread requester{[&] {
      for (int round = 0; round < rounds; ++round) {
        while (turn.load(std::memory_order_acquire) <= round) std::this_thread::yield();
        states[static_cast<std::size_t>(round)].source.request_stop();
      }
    }};
    for (int round = 0; round < rounds; ++round) {
      auto& [source, touched] = states[static_cast<std::size_t>(round)];
      int calls = 0;
      {
        auto touch = [&calls, number = touched.get()] {
          for (int dwell = 0; dwell < 50; ++dwell) iowq::linux_policy::relax();
          ++*number, ++calls;
        };
        stop_callback callback{source.get_token(), touch};
        turn.store(round + 1, std::memory_order_release);
        for (int wait = round % 64; wait > 0; --wait) iowq::linux_policy::relax();
      }
      touched.reset();
      CHECK(calls <= 1);
    }
    requester.join();
  }

  TEST_CASE("of several threads that request, one alone is told that it was first") {
    for (int round = 0; round < 500; ++round) {
      stop_source source;
      std::atomic<int> first{0}, calls{0};
      stop_callback callback{source.get_token(), [&] { ++calls; }};
      std::vector<std::thread> threads;
      for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] { first += source.request_stop() ? 1 : 0; });
      for (auto& thread : threads) thread.join();
      REQUIRE(first == 1);
      REQUIRE(calls == 1);
    }
  }

  TEST_CASE("a source destroyed before its callbacks stops the program") {
    const auto end = iowq_test::death_output([] {
      auto source = std::make_unique<stop_source>();
      const stop_callback callback{source->get_token(), [] {}};
      source.reset();
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("a stop_source was destroyed before its callbacks"));
  }
}
