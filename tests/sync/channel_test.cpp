// SPDX-License-Identifier: BSL-1.0
#include <iowq/sync/channel.hpp>  // first and alone

#include <atomic>
#include <memory>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/time.hpp>

#include "allocations.hpp"
#include "bounded.hpp"
#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::channel;
using iowq::task;

task<> send_all(channel<int>& to, int from, int count) {
  for (int n = from; n < from + count; ++n) co_await to.send(n);
}
task<> recv_all(channel<int>& from, std::vector<int>& all) {
  while (auto n = co_await from.recv()) all.push_back(*n);
}
task<> recv_one(channel<int>& from, int place, std::vector<int>& order) {
  auto const n = co_await from.recv();
  if (n) order.push_back(place * 100 + *n);
}
}  // namespace

TEST_SUITE("sync/channel") {
  TEST_CASE("values come in the order in which they were sent, whatever the capacity") {
    for (std::size_t const capacity : {0u, 1u, 3u, 100u}) {
      CAPTURE(capacity);
      std::vector<int> all;
      auto const body = [](std::size_t n, std::vector<int>& got) -> task<> {
        channel<int> numbers{n};
        auto const produce = [](channel<int>& to) -> task<> {
          co_await send_all(to, 0, 200);
          to.close();
        };
        iowq::executor::current().spawn(produce(numbers));
        co_await recv_all(numbers, got);
        CHECK(numbers.is_closed());
        CHECK(numbers.size() == 0);
        auto const after = co_await numbers.recv();
        CHECK_FALSE(after);
      };
      iowq::run(body(capacity, all));
      std::vector<int> expected(200);
      std::iota(expected.begin(), expected.end(), 0);
      CHECK(all == expected);
    }
  }

  TEST_CASE("a sender waits for room, and a receiver for a value; both lines are FIFO") {
    auto const body = []() -> task<> {
      std::vector<int> order;
      channel<int> c{2};
      for (int place = 1; place <= 3; ++place)
        iowq::executor::current().spawn(recv_one(c, place, order));
      co_await iowq::yield();
      co_await send_all(c, 1, 3);
      co_await iowq::yield();
      CHECK(order == std::vector{101, 202, 303});

      for (int n = 0; n < 5; ++n) iowq::executor::current().spawn(send_all(c, n, 1));
      co_await iowq::yield();
      CHECK(c.size() == 2);
      CHECK_FALSE(c.try_send(9));
      for (int n = 0; n < 5; ++n) {
        auto const got = co_await c.recv();
        CHECK(*got == n);
      }
      CHECK_FALSE(c.try_recv());
      CHECK(c.try_send(7));
      CHECK(*c.try_recv() == 7);
    };
    iowq::run(body());
  }

  TEST_CASE("close() drains what is in it, and fails those who wait to send") {
    auto const body = []() -> task<> {
      channel<std::unique_ptr<int>> c{1};
      co_await c.send(std::make_unique<int>(1));
      std::error_code end;
      auto const late = [](channel<std::unique_ptr<int>>& to, std::error_code& error) -> task<> {
        auto const result = co_await iowq::as_result(to.send(std::make_unique<int>(2)));
        error = result.error();
      };
      iowq::executor::current().spawn(late(c, end));
      co_await iowq::yield();
      c.close();
      c.close();
      co_await iowq::yield();
      CHECK(end == std::errc::broken_pipe);
      co_await late(c, end);
      CHECK(end == std::errc::broken_pipe);
      auto kept = std::make_unique<int>(3);
      CHECK_FALSE(c.try_send(std::move(kept)));
      CHECK(*kept == 3);  // NOLINT(bugprone-use-after-move): not taken
      auto const first = co_await c.recv();
      CHECK(**first == 1);
      auto const none = co_await c.recv();
      CHECK_FALSE(none);
    };
    iowq::run(body());
  }

  TEST_CASE(
      "who is cancelled in line has sent, or received, nothing; the others keep their places") {
    auto const body = []() -> task<> {
      channel<int> c{1};
      iowq::stop_source stop;
      std::vector<int> order;
      int cancelled = 0;
      auto const recv = [](channel<int>& from, iowq::stop_token token, int& count) -> task<> {
        co_await iowq_test::under{token};
        auto const end = co_await iowq::as_result(from.recv());
        count += end.error() == std::errc::operation_canceled;
      };
      auto const send = [](channel<int>& to, iowq::stop_token token, int& count) -> task<> {
        co_await iowq_test::under{token};
        auto const end = co_await iowq::as_result(to.send(5));
        count += end.error() == std::errc::operation_canceled;
      };
      auto& here = iowq::executor::current();
      here.spawn(recv(c, stop.get_token(), cancelled));
      here.spawn(recv_one(c, 1, order));
      co_await iowq::yield();
      stop.request_stop();
      co_await c.send(1);
      co_await iowq::yield();
      co_await iowq::yield();
      CHECK(order == std::vector{101});
      CHECK(cancelled == 1);

      iowq::stop_source second;
      co_await c.send(2);
      here.spawn(send(c, second.get_token(), cancelled));
      here.spawn(send_all(c, 3, 1));
      co_await iowq::yield();
      second.request_stop();
      co_await iowq::yield();
      CHECK(cancelled == 2);
      auto const two = co_await c.recv();
      auto const three = co_await c.recv();
      CHECK(*two == 2);
      CHECK(*three == 3);
      CHECK(c.size() == 0);
    };
    iowq::run(body());
  }

  TEST_CASE("the stop of the executor reaches both lines") {
    channel<int> empty{1}, full{0};
    int cancelled = 0;
    auto const body = [](channel<int>& e, channel<int>& f, int& count) -> task<> {
      auto const recv = [](channel<int>& c, int& n) -> task<> {
        auto const end = co_await iowq::as_result(c.recv());
        n += end.error() == std::errc::operation_canceled;
      };
      auto const send = [](channel<int>& c, int& n) -> task<> {
        auto const end = co_await iowq::as_result(c.send(1));
        n += end.error() == std::errc::operation_canceled;
      };
      iowq::executor::current().spawn(recv(e, count));
      iowq::executor::current().spawn(send(f, count));
      co_await iowq::yield();
      iowq::executor::current().request_stop();
      co_await iowq::sleep_for(1h);
    };
    iowq::run(body(empty, full, cancelled));
    CHECK(cancelled == 2);
  }

  TEST_CASE("between executors: each value once, those of one sender in order") {
    constexpr int senders = 2, receivers = 2, count = 3000;
    for (std::size_t const capacity : {0u, 1u, 64u}) {
      CAPTURE(capacity);
      iowq_test::leak_check books;
      channel<int> c{capacity};
      std::atomic<int> still{senders};
      std::vector<std::vector<int>> got(receivers);
      std::vector<std::thread> threads;
      for (int s = 0; s < senders; ++s)
        threads.emplace_back([&c, &still, s] {
          auto const body = [](channel<int>& to, std::atomic<int>& left, int from) -> task<> {
            co_await send_all(to, from, count);
            if (left.fetch_sub(1) == 1) to.close();
          };
          iowq::run(body(c, still, s * count));
        });
      for (int r = 0; r < receivers; ++r)
        threads.emplace_back(
            [&c, &mine = got[static_cast<std::size_t>(r)]] { iowq::run(recv_all(c, mine)); });
      for (auto& thread : threads) thread.join();
      std::vector<int> all;
      for (auto const& part : got) {
        int last[senders] = {-1, -1};
        bool in_order = true;
        for (int const n : part) {
          in_order = in_order && n > last[n / count];
          last[n / count] = n;
        }
        CHECK(in_order);
        all.insert(all.end(), part.begin(), part.end());
      }
      std::sort(all.begin(), all.end());
      std::vector<int> expected(senders * count);
      std::iota(expected.begin(), expected.end(), 0);
      CHECK(all == expected);
    }
  }

  TEST_CASE("hazard-5: a stop that races with a send from another executor: no value is lost") {
    constexpr int count = 2000;
    channel<int> c{0};
    std::vector<int> got;
    std::thread sender{[&c] {
      auto const body = [](channel<int>& to) -> task<> {
        co_await send_all(to, 0, count);
        to.close();
      };
      iowq::run(body(c));
    }};
    auto const body = [](channel<int>& from, std::vector<int>& all) -> task<> {
      bool closed = false;
      auto const one = [](channel<int>& source, iowq::stop_token token, std::vector<int>& into,
                          bool& end, bool& over) -> task<> {
        co_await iowq_test::under{token};
        auto const n = co_await iowq::as_result(source.recv());
        if (n && *n) into.push_back(**n);
        if (n && !*n) end = true;
        over = true;
      };
      while (!closed) {
        iowq::stop_source stop;
        bool over = false;
        iowq::executor::current().spawn(one(from, stop.get_token(), all, closed, over));
        co_await iowq::yield();
        stop.request_stop();
        co_await iowq_test::until([&] { return over; });
      }
    };
    iowq::run(body(c, got));
    sender.join();
    std::vector<int> expected(count);
    std::iota(expected.begin(), expected.end(), 0);
    CHECK(got == expected);
  }

  TEST_CASE("a thread without an executor may try, and close") {
    channel<int> c{1};
    std::vector<int> got;
    std::thread other{[&c] {
      for (int n = 0; n < 100; ++n) iowq_test::spin_until([&] { return c.try_send(int{n}); });
      c.close();
    }};
    iowq::run(recv_all(c, got));
    other.join();
    CHECK(got.size() == 100);
    CHECK(got.back() == 99);
  }

  TEST_CASE("an executor that is awake is sent no wake-up, however many values it is sent") {
    std::vector<int> order;
    auto const body = [](std::vector<int>& all) -> task<> {
      channel<int> c{50};
      for (int place = 0; place < 50; ++place) iowq::executor::current().spawn(recv_one(c, 0, all));
      co_await iowq::yield();
      auto const before = iowq::executor::current().stats().pool.kicks;
      std::thread sender{[&c] {
        for (int n = 0; n < 100; ++n) CHECK(c.try_send(int{n}));
      }};
      sender.join();
      co_await iowq_test::until([&] { return all.size() >= 50; });
      CHECK(iowq::executor::current().stats().pool.kicks == before);
      CHECK(c.size() == 50);
    };
    iowq::run(body(order));
    CHECK(order.back() == 49);
  }

  TEST_CASE("a channel that is always ready leaves the others their turn") {
    auto const body = []() -> task<> {
      channel<int> c{1};
      bool others = false;
      auto const other = [](bool& flag) -> task<> {
        flag = true;
        co_return;
      };
      iowq::executor::current().spawn(other(others));
      int rounds = 0;
      while (!others) {
        co_await c.send(1);
        (void)co_await c.recv();
        ++rounds;
      }
      CHECK(rounds <= 64);
    };
    iowq::run(body());
  }

  TEST_CASE("sending takes no memory from the heap") {
    if (!iowq_test::allocations::counted) return;
    auto const body = []() -> task<> {
      channel<int> there{0}, back{0};
      auto const echo = [](channel<int>& in, channel<int>& out) -> task<> {
        while (auto n = co_await in.recv()) co_await out.send(*n);
      };
      iowq::executor::current().spawn(echo(there, back));
      co_await iowq::yield();
      auto const before = iowq_test::allocations::now();
      for (int n = 0; n < 1000; ++n) {
        co_await there.send(n);
        auto const same = co_await back.recv();
        REQUIRE(*same == n);
      }
      CHECK((iowq_test::allocations::now() - before).made == 0);
      there.close();
      co_await iowq::yield();
    };
    iowq::run(body());
  }

  TEST_CASE("a send that is awaited twice, and a channel that dies while it is used, are named") {
    auto const twice = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        channel<int> c{5};
        auto send = c.send(1);
        co_await send;
        co_await send;
      };
      iowq::run(body());
    });
    CHECK(twice.says("an operation was awaited twice"));
    auto const dying = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        std::vector<int> order;
        channel<int> c{5};
        iowq::executor::current().spawn(recv_one(c, 1, order));
        co_await iowq::yield();
      };
      iowq::run(body());
    });
    CHECK(dying.says("a channel was destroyed while coroutines wait for it"));
  }
}
