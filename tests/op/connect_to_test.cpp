// SPDX-License-Identifier: BSL-1.0
// op/connect and op/resolve.
#include <iowq/op/connect_to.hpp>  // first and alone

#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/flow/task_group.hpp>
#include <iowq/op/time.hpp>

#include "bounded.hpp"
#include "jobs.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

task<> stoppable(task<std::vector<iowq::endpoint>> question, iowq::stop_token token,
                 std::error_code& end) {
  co_await iowq_test::under{token};
  auto const r = co_await iowq::as_result(std::move(question));
  end = r.error();
}

iowq_test::gate asked, answer;  // what a slow name server waits for
int slowly(const char*, const char*, const ::addrinfo*, ::addrinfo**) {
  asked.open();
  (void)answer.wait();
  return EAI_AGAIN;
}
task<std::vector<iowq::endpoint>> ask_slowly() {
  return iowq::detail::resolve_by(&slowly, "slow", "80", 0, std::source_location::current());
}

/// A port of 127.0.0.1 where nobody listens.
iowq::endpoint closed_port() {
  iowq::fd const bound{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  iowq::endpoint const any = iowq::endpoint::ip("127.0.0.1", 0);
  REQUIRE(::bind(bound.get(), any.address(), any.size()) == 0);
  return iowq::endpoint::local_of(bound.get());
}
/// A Unix socket whose backlog is full: a connect to it waits until somebody accepts.
struct full_listener {
  full_listener() : socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)} {
    ::sockaddr_un any{};
    any.sun_family = AF_UNIX;  // and no name: the kernel finds one
    REQUIRE(::bind(socket.get(), reinterpret_cast<::sockaddr*>(&any), sizeof any.sun_family) == 0);
    REQUIRE(::listen(socket.get(), 0) == 0);
    where = iowq::endpoint::local_of(socket.get());
    REQUIRE(::connect(first.get(), where.address(), where.size()) == 0);
  }
  iowq::fd socket, first{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  iowq::endpoint where;
};

task<> waits_at(const iowq::endpoint& where, way go, iowq::stop_token token, int& cancelled) {
  co_await iowq_test::under{token};
  iowq::fd const socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  auto attempt = as(go, iowq::connect(socket, where));
  auto const end = co_await iowq::as_result(std::move(attempt));
  cancelled += end.error() == std::errc::operation_canceled;
}

/// The result of getaddrinfo(3) for `host`: 0, or the number of its error.
int getaddrinfo_error(const char* host) {
  ::addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  ::addrinfo* found = nullptr;
  int const error = ::getaddrinfo(host, "1", &hints, &found);
  if (error == 0) ::freeaddrinfo(found);
  return error;
}
}  // namespace

TEST_SUITE("op/connect_to") {
  TEST_CASE("a connect to a full backlog ends when it is stopped, wherever it is just then") {
    // Goal: a stop that is lost while the kernel hands the request from a poll, which is ready at
    // once, to a worker, which waits without end. Method: many rounds, each some time later.
    static constexpr int rounds = 60;
    auto const body = [](way go) -> task<> {
      full_listener const full;
      int cancelled = 0;
      for (int round = 0; round < rounds; ++round) {
        iowq::stop_source source;
        iowq::task_group group;
        group.spawn(waits_at(full.where, go, source.get_token(), cancelled));
        co_await iowq_test::reach(iowq_test::all_moments[round % 3], "connect");
        if (round % 5 == 0) co_await iowq::sleep_for(std::chrono::microseconds{round});
        source.request_stop();
        for (iowq_test::wait_limit limit; group.size() != 0; limit.check())
          co_await iowq::sleep_for(std::chrono::microseconds{100});
        co_await group.join();
      }
      CHECK(cancelled == rounds);
    };
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("resolve finds addresses in numbers and names of this machine, each once") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      auto const v4 = co_await iowq::resolve("127.0.0.1", "80");
      REQUIRE(v4.size() == 1);
      CHECK(v4[0].to_string() == "127.0.0.1:80");
      auto const v6 = co_await iowq::resolve("::1", "443");
      REQUIRE(v6.size() == 1);
      CHECK(v6[0].to_string() == "[::1]:443");
      auto const here = co_await iowq::as_result(iowq::resolve("localhost", "1"));
      if (int const error = getaddrinfo_error("localhost"); error == 0) {
        REQUIRE(here.has_value());
        CHECK(here->size() >= 1);
      } else {  // for example there is no /etc/hosts
        CHECK(here.error() == std::error_code{error, iowq::resolve_category()});
      }
      auto const any = co_await iowq::resolve("", "1", AI_PASSIVE);
      CHECK(any.size() >= 1);
      auto const none = co_await iowq::as_result(iowq::resolve("127.0.0.1", "no-such-service"));
      CHECK(none.error() == std::error_code{EAI_SERVICE, iowq::resolve_category()});
      CHECK(none.error().message() == ::gai_strerror(EAI_SERVICE));
      std::string_view const nul{"a\0b", 3};
      auto const cut = co_await iowq::as_result(iowq::resolve(nul, "80"));
      CHECK(cut.error() == std::errc::invalid_argument);
      auto const nothing = co_await iowq::as_result(iowq::resolve("", ""));
      CHECK(nothing.error() == std::error_code{EAI_NONAME, iowq::resolve_category()});
    };
    iowq::run(body());
  }

  TEST_CASE("a resolve is stopped at once, though its worker still asks") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      iowq::stop_source source;
      std::error_code end;
      iowq::executor::current().spawn(stoppable(ask_slowly(), source.get_token(), end));
      co_await iowq_test::until([&] { return iowq_test::unbound_in_hand() != 0; });
      CHECK(asked.wait());
      source.request_stop();
      co_await iowq_test::until([&] { return end.value() != 0; });
      CHECK(end == std::errc::operation_canceled);
      answer.open();  // nobody listens any more
    };
    iowq::run(body());
  }

  TEST_CASE("a resolve that no worker has begun is taken back when it is stopped") {
    iowq_test::leak_check books;
    iowq::executor_options one_worker;
    one_worker.pool.max_workers.unbound = 1;
    auto const body = []() -> task<> {
      iowq_test::gate inside, hold;
      auto keep = [&] {
        inside.open();
        (void)hold.wait();
      };
      auto const keeper = [](auto& call) -> task<> {
        co_await iowq::punt(call, {.unbound = true});
      };
      auto& here = iowq::executor::current();
      iowq::task_group group;
      group.spawn(keeper(keep));
      co_await iowq_test::until([&] { return iowq_test::unbound_in_hand() != 0; });
      CHECK(inside.wait());
      iowq::stop_source source;
      std::error_code end;
      here.spawn(stoppable(iowq::resolve("127.0.0.1", "80"), source.get_token(), end));
      co_await iowq_test::until([&] { return here.stats().pool.unbound.queued != 0; });
      source.request_stop();
      co_await iowq_test::until([&] { return end.value() != 0; });
      CHECK(end == std::errc::operation_canceled);
      CHECK(here.stats().pool.unbound.queued == 0);
      hold.open();
      co_await group.join();  // the worker uses `hold` until then
    };
    iowq::run(body(), std::move(one_worker));
  }

  TEST_CASE("listen_on listens, connect_to connects, and the socket blocks as others do") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    auto const body = [](iowq_test::scratch& in) -> task<> {
      iowq::endpoint const local[] = {iowq::endpoint::ip("127.0.0.1", 0),
                                      iowq::endpoint::local(in / "socket")};
      for (const iowq::endpoint& where : local) {
        iowq::fd listener = co_await iowq::listen_on(where);
        std::vector<iowq::endpoint> const there{iowq::endpoint::local_of(listener.get())};
        iowq::fd here = co_await iowq::connect_to(there);
        iowq::fd other = co_await iowq::accept(listener);
        CHECK((::fcntl(here.get(), F_GETFL) & O_NONBLOCK) == 0);
        CHECK((::fcntl(here.get(), F_GETFD) & FD_CLOEXEC) != 0);
        CHECK(co_await iowq::send(here, "hi") == 2);
        std::array<char, 2> text{};
        CHECK(co_await iowq::recv(other, text) == 2);
      }
      iowq::fd listener = co_await iowq::listen_on(iowq::endpoint::ip("127.0.0.1", 0));
      auto const port = iowq::endpoint::local_of(listener.get()).port();
      iowq::fd here = co_await iowq::connect_to("127.0.0.1", std::to_string(port));
      CHECK(iowq::endpoint::peer_of(here.get()).port() == port);
      iowq::endpoint const taken = iowq::endpoint::local_of(listener.get());
      auto const twice = co_await iowq::as_result(iowq::listen_on(taken));
      CHECK(twice.error() == std::errc::address_in_use);
    };
    iowq::run(body(dir));
  }

  TEST_CASE("connect_to goes on past addresses that refuse, and past one that never answers") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      iowq::fd good = co_await iowq::listen_on(iowq::endpoint::ip("127.0.0.1", 0));
      iowq::endpoint const answers = iowq::endpoint::local_of(good.get());
      std::vector<iowq::endpoint> const refused{closed_port(), closed_port(), answers};
      iowq::fd past = co_await iowq::connect_to(refused);
      CHECK(iowq::endpoint::peer_of(past.get()).port() == answers.port());

      // A listener whose queue is full lets further ones wait without a word.
      iowq::fd full = co_await iowq::listen_on(iowq::endpoint::ip("127.0.0.1", 0), 0);
      iowq::endpoint const silent = iowq::endpoint::local_of(full.get());
      std::vector<iowq::fd> callers;
      for (short ready = POLLOUT; ready != 0;) {
        auto& caller =
            callers.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        REQUIRE(::connect(caller.get(), silent.address(), silent.size()) != 0);
        ::pollfd one{caller.get(), POLLOUT, 0};
        ::poll(&one, 1, 100);
        ready = one.revents;
        REQUIRE(callers.size() < 20);
      }
      std::vector<iowq::endpoint> const slow{silent, answers};
      iowq::fd beside = co_await iowq::connect_to(slow);
      CHECK(iowq::endpoint::peer_of(beside.get()).port() == answers.port());

      std::vector<iowq::endpoint> const dead{closed_port()};
      auto const none = co_await iowq::as_result(iowq::connect_to(dead));
      CHECK(none.error() == std::errc::connection_refused);
      std::vector<iowq::endpoint> const nobody;
      auto const nothing = co_await iowq::as_result(iowq::connect_to(nobody));
      CHECK(nothing.error() == std::errc::address_not_available);

      iowq::stop_source source;
      std::error_code end;
      auto const waiter = [](std::vector<iowq::endpoint> where, iowq::stop_token token,
                             std::error_code& e) -> task<> {
        co_await iowq_test::under{token};
        auto const r = co_await iowq::as_result(iowq::connect_to(std::move(where)));
        e = r.error();
      };
      iowq::executor::current().spawn(waiter({silent, silent}, source.get_token(), end));
      co_await iowq_test::until_waiting("poll");
      source.request_stop();
      co_await iowq_test::until([&] { return end.value() != 0; });
      CHECK(end == std::errc::operation_canceled);
    };
    iowq::run(body());
  }

  TEST_CASE("the families take turns, beginning with the first") {
    auto const ip = [](const char* text) { return iowq::endpoint::ip(text, 1); };
    std::vector<std::string> names;
    for (const iowq::endpoint& one :
         iowq::detail::interleave({ip("::1"), ip("::2"), ip("::3"), ip("1.0.0.1"), ip("1.0.0.2")}))
      names.push_back(one.to_string());
    CHECK(names ==
          std::vector<std::string>{"[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"});
  }
}
