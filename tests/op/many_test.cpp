// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/multishot/many.hpp>  // first and alone

#include <sys/resource.h>

#include <chrono>
#include <optional>
#include <ostream>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/connect_to.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/time.hpp>

#include "leak_check.hpp"
#include "loopback.hpp"
#include "manual.hpp"
#include "shots.hpp"
#include "skip.hpp"
#include "turns.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::multishot;
using iowq::task;
using iowq_test::listening;
using iowq_test::turns;
constexpr multishot both[] = {multishot::automatic, multishot::off};

task<bool> accepts_ahead() {
  co_return iowq::detail::loop::current().backend().features().accepts_many();
}

/// The outcome of a next() that ran beside the test.
struct outcome {
  bool over = false;
  std::error_code error;
  int items = 0;
};
template <class T>
task<> pull_until_error(iowq::stream<T>& from, iowq::stop_token token, outcome& end) {
  co_await iowq_test::under{token};
  try {
    while (auto one = co_await from.next()) {
      [[maybe_unused]] T const taken = std::move(*one);
      ++end.items;
    }
  } catch (const std::system_error& e) {
    end.error = e.code();
  }
  end.over = true;
}
}  // namespace

TEST_SUITE("op/many") {
  TEST_CASE("every connection comes once, and is close-on-exec") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        listening listener;
        std::vector<iowq::fd> clients, accepted;
        auto connections = iowq::accept_many(listener.socket, 0, h);
        for (int i = 0; i < 300; ++i) {
          clients.push_back(listener.call());
          if (i % 7 != 0) continue;  // some come while others wait to be taken
          auto one = co_await connections.next();
          REQUIRE(one);
          CHECK((::fcntl(one->get(), F_GETFD) & FD_CLOEXEC) != 0);
          accepted.push_back(std::move(*one));
        }
        while (accepted.size() != 300) accepted.push_back(std::move(*co_await connections.next()));
        for (std::size_t i = 0; i < 300; ++i)
          CHECK(iowq::endpoint::peer_of(accepted[i].get()).port() ==
                iowq::endpoint::local_of(clients[i].get()).port());
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("accept_many pauses while no connection is taken, and continues when one is") {
    if (!iowq::run(accepts_ahead()))
      SKIP_CASE("no multishot accept (Linux 5.19): nothing is accepted ahead");
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      listening listener;
      std::vector<iowq::fd> clients;
      auto connections = iowq::accept_many(listener.socket);
      clients.push_back(listener.call());
      iowq::fd first = std::move(*co_await connections.next());
      int const before = iowq_test::open_descriptors();
      for (int i = 0; i < 500; ++i) {
        clients.push_back(listener.call());
        if (i % 10 == 0) co_await turns(1);  // the loop accepts the connections
      }
      int const waiting = iowq_test::open_descriptors() - before - 500;
      CHECK(waiting > 0);
      CHECK(waiting < 100);
      for (int i = 0; i < 500; ++i) {
        iowq::fd one = std::move(*co_await connections.next());
        CHECK(iowq::endpoint::peer_of(one.get()).port() ==
              iowq::endpoint::local_of(clients[static_cast<std::size_t>(i) + 1].get()).port());
      }
    };
    iowq::run(body());
  }

  TEST_CASE("hazard-06: a stream that is dropped closes what came late, and the port is free") {
    for (multishot how : both)
      for (int taken = 0; taken < 3; ++taken) {
        CAPTURE(how);
        CAPTURE(taken);
        iowq_test::leak_check books;
        std::optional<iowq::endpoint> where;
        auto const body = [](multishot h, int n, std::optional<iowq::endpoint>& at) -> task<> {
          listening listener;
          at = listener.where;
          std::vector<iowq::fd> clients;
          for (int i = 0; i < 5; ++i) clients.push_back(listener.call());
          {
            auto connections = iowq::accept_many(listener.socket, 0, h);
            for (int i = 0; i < n; ++i) iowq::fd one = std::move(*co_await connections.next());
          }
          clients.push_back(listener.call());
        };
        iowq::run(body(how, taken, where));
        iowq::fd again{::socket(AF_INET, SOCK_STREAM, 0)};
        int const yes = 1;
        ::setsockopt(again.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        CHECK(::bind(again.get(), where->address(), where->size()) == 0);
      }
  }

  TEST_CASE("hazard-08: a stop ends it while it waits, before it waits, and after what had come") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        listening listener;
        {
          iowq::stop_source source;
          auto connections = iowq::accept_many(listener.socket, 0, h);
          outcome end;
          iowq::executor::current().spawn(pull_until_error(connections, source.get_token(), end));
          iowq::fd client = listener.call();
          co_await iowq_test::until([&] { return end.items != 0; });
          co_await iowq_test::until_waiting("accept*");
          source.request_stop();
          co_await iowq_test::until([&] { return end.over; });
          CHECK(end.error == std::errc::operation_canceled);
          CHECK(end.items == 1);
        }
        iowq::stop_source stopped;
        stopped.request_stop();
        auto connections = iowq::accept_many(listener.socket, 0, h);
        outcome end;
        iowq::executor::current().spawn(pull_until_error(connections, stopped.get_token(), end));
        co_await iowq_test::until([&] { return end.over; });
        CHECK(end.error == std::errc::operation_canceled);
        CHECK(end.items == 0);
      };
      iowq::run(body(how));
    }
    if (!iowq::run(accepts_ahead())) return;  // nothing comes ahead
    iowq_test::leak_check books;
    auto const late = []() -> task<> {
      listening listener;
      std::vector<iowq::fd> clients;
      auto connections = iowq::accept_many(listener.socket);
      clients.push_back(listener.call());
      iowq::fd first = std::move(*co_await connections.next());
      int const before = iowq_test::open_descriptors();
      for (int i = 0; i < 5; ++i) clients.push_back(listener.call());
      co_await iowq_test::until([&] { return iowq_test::open_descriptors() == before + 10; });
      iowq::stop_source source;
      source.request_stop();
      outcome end;
      iowq::executor::current().spawn(pull_until_error(connections, source.get_token(), end));
      co_await iowq_test::until([&] { return end.over; });
      CHECK(end.items == 5);
      CHECK(end.error == std::errc::operation_canceled);
    };
    iowq::run(late());
  }

  TEST_CASE("executor::request_stop() ends streams, with and without a waiting coroutine") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        listening listener;
        iowq::fd client = listener.call();
        auto connections = iowq::accept_many(listener.socket, 0, h);
        iowq::fd one = std::move(*co_await connections.next());
        iowq::executor::current().request_stop();
        outcome end;
        co_await pull_until_error(connections, co_await iowq::ambient_stop(), end);
        CHECK(end.error == std::errc::operation_canceled);
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("a stream may outlive the run, and its executor") {
    iowq_test::leak_check books;
    listening listener;
    std::optional<iowq::stream<iowq::fd>> connections;
    {
      iowq::executor here;
      connections = iowq::accept_many(listener.socket);
      auto const body = [](iowq::stream<iowq::fd>& from, listening& at) -> task<> {
        iowq::fd client = at.call();
        iowq::fd one = std::move(*co_await from.next());
      };
      here.run(body(*connections, listener));
      here.run(body(*connections, listener));
    }
    iowq::fd late = listener.call();  // it is never accepted
    connections.reset();

    std::optional<iowq::executor> here{std::in_place};
    {
      auto dropped = iowq::accept_many(listener.socket);
      auto const body = [](iowq::stream<iowq::fd>& from) -> task<> {
        iowq::fd one = std::move(*co_await from.next());
      };
      here->run(body(dropped));
    }  // outside of run()
    here.reset();
  }

  TEST_CASE("a stream waits for a listener with O_NONBLOCK; other files are an error") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        listening listener{SOCK_NONBLOCK};
        auto connections = iowq::accept_many(listener.socket, SOCK_NONBLOCK, h);
        outcome end;
        iowq::stop_source source;
        iowq::executor::current().spawn(pull_until_error(connections, source.get_token(), end));
        for (int i = 1; i < 4; ++i) {
          co_await iowq_test::until_waiting("accept*");
          iowq::fd client = listener.call();
          co_await iowq_test::until([&] { return end.items == i; });
        }
        source.request_stop();
        co_await iowq_test::until([&] { return end.over; });

        iowq_test::pipe_pair pipe;
        auto none = iowq::accept_many(pipe.in, 0, h);
        outcome refused;
        co_await pull_until_error(none, {}, refused);
        CHECK(refused.error == std::errc::not_a_socket);
        CHECK_FALSE(co_await none.next());  // and it is over
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE(
      "hazard-45: without a free descriptor accept_many fails; it accepts the connection later") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        listening listener;
        iowq::fd client = listener.call();
        ::rlimit before{};
        ::getrlimit(RLIMIT_NOFILE, &before);
        iowq::fd const next{::dup(client.get())};
        ::rlimit const none{static_cast<::rlim_t>(next.get()) + 1, before.rlim_max};
        auto connections = iowq::accept_many(listener.socket, 0, h);
        ::setrlimit(RLIMIT_NOFILE, &none);
        outcome end;
        co_await pull_until_error(connections, {}, end);
        ::setrlimit(RLIMIT_NOFILE, &before);
        CHECK(end.error == std::errc::too_many_files_open);
        auto others = iowq::accept_many(listener.socket, 0, h);
        CHECK(co_await others.next());
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("poll_many tells of each time that something comes, and of many times at once") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        iowq_test::pipe_pair pipe{O_CLOEXEC | O_NONBLOCK};
        auto ready = iowq::poll_many(pipe.in, POLLIN, h);
        char byte;
        for (int i = 0; i < 100; ++i) {
          REQUIRE(::write(pipe.out.get(), "x", 1) == 1);
          if (i % 3 == 0) REQUIRE(::write(pipe.out.get(), "x", 1) == 1);
          co_await turns(i % 5);
          bool found = false;
          while (!found) {
            auto const now = co_await ready.next();
            REQUIRE(now);
            CHECK((*now & POLLIN) != 0);
            while (::read(pipe.in.get(), &byte, 1) == 1) found = true;
          }
        }
        pipe.out.reset();
        while (((*co_await ready.next()) & POLLHUP) == 0) {
        }
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("poll_many can be stopped and destroyed, and refuses a closed descriptor") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        iowq_test::pipe_pair pipe;
        {
          auto writable = iowq::poll_many(pipe.out, POLLOUT, h);
          CHECK(((*co_await writable.next()) & POLLOUT) != 0);
        }
        auto ready = iowq::poll_many(pipe.in, POLLIN, h);
        iowq::stop_source source;
        outcome end, bad;
        iowq::executor::current().spawn(pull_until_error(ready, source.get_token(), end));
        co_await iowq_test::until_waiting("poll*");
        source.request_stop();
        co_await iowq_test::until([&] { return end.over; });
        CHECK(end.error == std::errc::operation_canceled);
        auto nothing = iowq::poll_many(-1, POLLIN, h);
        co_await pull_until_error(nothing, {}, bad);
        CHECK(bad.error == std::errc::bad_file_descriptor);
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("hazard-23: in a ring of one entry streams wait for room, and can be stopped there") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      std::vector<listening> listeners(8);
      std::vector<iowq::stream<iowq::fd>> streams;
      std::vector<outcome> ends(8);
      iowq::stop_source source;
      for (auto& one : listeners) streams.push_back(iowq::accept_many(one.socket));
      for (std::size_t i = 0; i < 8; ++i)
        iowq::executor::current().spawn(pull_until_error(streams[i], source.get_token(), ends[i]));
      std::vector<iowq::fd> clients;
      for (int round = 0; round < 10; ++round)
        for (auto& one : listeners) clients.push_back(one.call());
      for (auto& end : ends) co_await iowq_test::until([&] { return end.items == 10; });
      source.request_stop();
      for (auto& end : ends) co_await iowq_test::until([&] { return end.over; });
    };
    iowq::run(body(), {.entries = 1});
  }
}
