// SPDX-License-Identifier: BSL-1.0
#include <iowq/base/stop_token.hpp>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
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

static_assert(sizeof(stop_source) <= 40);
static_assert(sizeof(plain) <= 56);

/// Who does what is the test's choice, and so is what happens while another thread is within its
/// critical section; counts the accesses to the lists.
struct puppets : iowq::detail::linux_policy {
  static constexpr int home = 1, other = 2;
  static inline int self = home;
  static inline int accesses = 0;
  static inline std::function<void()> meanwhile;  // at home, as the other is within

  [[nodiscard]] static int thread_id() noexcept { return self; }
  [[nodiscard]] static bool is_thread(int id) noexcept { return self == id; }
  static void relax() noexcept { FAIL("it waits"); }

  template <class T>
  class guarded {
   public:
    guarded(T value = {}) : value_{value} {}
    operator T() const { return ++accesses, value_; }
    guarded& operator=(T value) {
      ++accesses;
      if (self == other && meanwhile) {
        self = home;
        std::exchange(meanwhile, {})();
        self = other;
      }
      value_ = value;
      return *this;
    }

   private:
    T value_;
  };
};
using puppet_list = iowq::detail::stop_list<puppets>;

class puppet : iowq::detail::basic_stop_node<puppets> {
 public:
  explicit puppet(puppet_list& source) : basic_stop_node{&call} { attach(&source); }
  ~puppet() { detach(); }
  bool called = false;

 private:
  static void call(basic_stop_node* self) noexcept { static_cast<puppet*>(self)->called = true; }
};

/// Lets two threads go on together, round by round.
class rendezvous {
 public:
  void meet() {
    int const round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == 1) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
    } else {
      while (round_.load(std::memory_order_acquire) == round) std::this_thread::yield();
    }
  }

 private:
  std::atomic<int> arrived_{0}, round_{0};
};
}  // namespace

TEST_SUITE("base/stop_token") {
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

  TEST_CASE("a registration and its end touch as much of a list of 10,000 as of a list of three") {
    for (int const who : {puppets::home, puppets::other}) {
      puppet_list source;
      puppets::self = who;
      std::vector<std::unique_ptr<puppet>> few, many;
      auto const touches = [](auto&& deed) {
        int const before = puppets::accesses;
        deed();
        return puppets::accesses - before;
      };
      auto const begin = [&](auto& into) {
        return touches([&] { into.push_back(std::make_unique<puppet>(source)); });
      };
      begin(few);
      begin(few);
      int const to_begin = begin(few);
      int const to_end = touches([&] { few[1].reset(); });
      few.clear();
      int most_to_begin = 0, most_to_end = 0;
      constexpr std::size_t count = 10'000;
      for (std::size_t i = 0; i < count; ++i) most_to_begin = std::max(most_to_begin, begin(many));
      for (std::size_t i = 0; i < count; ++i)
        most_to_end = std::max(most_to_end, touches([&] { many[i * 7'368'787 % count].reset(); }));
      CHECK(most_to_begin == to_begin);
      CHECK(most_to_end == to_end);
    }
    puppets::self = puppets::home;
  }

  TEST_CASE("at home nothing waits for a thread that is registering a callback of its own") {
    puppet_list source;
    std::optional<puppet> theirs, before, within;
    before.emplace(source);
    bool done = false;
    puppets::self = puppets::other;
    puppets::meanwhile = [&] {  // the other has the lock, and does not go on
      within.emplace(source);
      before.reset();
      done = true;
    };
    theirs.emplace(source);
    puppets::self = puppets::home;
    REQUIRE(done);
    CHECK(source.request());
    CHECK(theirs->called);
    CHECK(within->called);
  }

  TEST_CASE(
      "a callback ends on another thread than it was registered on, before and after a stop") {
    for (bool const stopped : {false, true})
      for (bool const began_at_home : {false, true}) {
        puppet_list source;
        std::optional<puppet> stays, moved;
        stays.emplace(source);
        puppets::self = began_at_home ? puppets::home : puppets::other;
        moved.emplace(source);
        if (stopped) CHECK(source.request());
        puppets::self = began_at_home ? puppets::other : puppets::home;
        CHECK(moved->called == stopped);
        moved.reset();
        puppets::self = puppets::home;
        CHECK(source.request() != stopped);
        CHECK(stays->called);
      }
  }

  TEST_CASE("the callbacks of the source's own thread run before those of others") {
    stop_source source;
    std::vector<int> log;
    std::optional<stop_callback<appends>> first, second, third;
    first.emplace(source.get_token(), appends{&log, 1});
    std::thread{[&] { second.emplace(source.get_token(), appends{&log, 2}); }}.join();
    third.emplace(source.get_token(), appends{&log, 3});
    source.request_stop();
    CHECK(log == std::vector{3, 1, 2});
  }

  TEST_CASE("a thread that sees the request sees everything written before it") {
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
          for (int dwell = 0; dwell < 50; ++dwell) iowq::detail::linux_policy::relax();
          ++*number, ++calls;
        };
        stop_callback callback{source.get_token(), touch};
        turn.store(round + 1, std::memory_order_release);
        for (int wait = round % 64; wait > 0; --wait) iowq::detail::linux_policy::relax();
      }
      touched.reset();
      CHECK(calls <= 1);
    }
    requester.join();
  }

  TEST_CASE("every callback runs once, in every order of request, registration and end") {
    // Goal: a callback that is lost, called twice, or called after its end; a list torn apart.
    // Method: in each round the source's thread and another do one thing each, at once; what is
    // left when both are done must have been called if a stop was requested, and once.
    constexpr int rounds = 20'000;
    using counting = stop_callback<std::function<void()>>;
    std::optional<stop_source> source;
    std::optional<counting> own, moving, theirs, late;
    int calls[4];
    rendezvous both;
    auto const count = [&](int which) {
      return std::function<void()>{[&, which] { ++calls[which]; }};
    };
    auto const dwell = [](int turns) {
      for (; turns > 0; --turns) iowq::detail::linux_policy::relax();
    };
    std::thread other{[&] {
      for (int round = 0; round < rounds; ++round) {
        both.meet();
        dwell(round / 6 % 32);
        if (round % 3 == 0) source->request_stop();
        if (round % 3 == 1) theirs.emplace(source->get_token(), count(2));
        if (round % 3 == 2) moving.reset();
        both.meet();
      }
    }};
    int wrong = 0;
    for (int round = 0; round < rounds; ++round) {
      source.emplace();
      for (int& each : calls) each = 0;
      own.emplace(source->get_token(), count(0));
      moving.emplace(source->get_token(), count(1));
      both.meet();
      dwell(round / 192 % 32);
      if (round % 6 < 3) {
        late.emplace(source->get_token(), count(3));
        own.reset();
        wrong += calls[0] > 1;
      } else {
        source->request_stop();
      }
      both.meet();
      bool const stopped = source->stop_requested();
      wrong += stopped != (round % 3 == 0 || round % 6 >= 3);
      if (own) wrong += calls[0] != stopped;
      if (late) wrong += calls[3] != stopped;
      if (theirs) wrong += calls[2] != stopped;
      if (moving) wrong += calls[1] != stopped;
      wrong += calls[1] > 1;
      own.reset(), moving.reset(), theirs.reset(), late.reset();
    }
    other.join();
    CHECK(wrong == 0);
  }

  TEST_CASE("if several threads request a stop, exactly one gets true") {
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
