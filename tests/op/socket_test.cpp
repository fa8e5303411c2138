// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/socket.hpp>  // first and alone

#include <array>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/poll.hpp>

#include "leak_check.hpp"
#include "loopback.hpp"
#include "manual.hpp"
#include "skip.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

struct connected {
  iowq::fd here, there;
};
task<connected> pair_of(way w, iowq::endpoint where) {
  iowq::fd listener = co_await iowq::socket(where.family(), SOCK_STREAM);
  co_await iowq::bind(listener, where);
  co_await iowq::listen(listener);
  connected both;
  both.here = co_await iowq::socket(where.family(), SOCK_STREAM);
  co_await as(w, iowq::connect(both.here, iowq::endpoint::local_of(listener.get())));
  both.there = co_await as(w, iowq::accept(listener));
  co_return both;
}
}  // namespace

TEST_SUITE("op/socket") {
  TEST_CASE("bytes go both ways, and the end of one side is no error") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    std::vector<iowq::endpoint> where{iowq::endpoint::ip("127.0.0.1", 0), {}};
    if (iowq_test::has_ipv6())
      where.push_back(iowq::endpoint::ip("::1", 0));
    else
      iowq_test::note_skip("IPv6: there is no ::1");
    for (way go : iowq_test::all_ways)
      for (iowq::endpoint at : where) {
        CAPTURE(go);
        if (at.family() == 0)
          at = iowq::endpoint::local(dir / ("socket" + std::to_string(int(go))));
        auto const body = [](way w, iowq::endpoint end) -> task<> {
          connected both = co_await pair_of(w, end);
          CHECK((::fcntl(both.there.get(), F_GETFD) & FD_CLOEXEC) != 0);
          std::array<char, 8> buffer;
          CHECK(co_await as(w, iowq::send(both.here, "ping")) == 4);
          CHECK(co_await as(w, iowq::recv(both.there, buffer)) == 4);
          CHECK(std::string_view{buffer.data(), 4} == "ping");
          co_await as(w, iowq::shutdown(both.here, SHUT_WR));
          CHECK(co_await as(w, iowq::recv(both.there, buffer)) == 0);  // hazard-84
          CHECK(co_await as(w, iowq::send(both.there, "pong")) == 4);
          CHECK(co_await as(w, iowq::recv(both.here, std::span(buffer).first(4), MSG_WAITALL)) ==
                4);
          both.here.reset();
          auto sent = co_await iowq::as_result(as(w, iowq::send(both.there, "x")));
          if (sent) sent = co_await iowq::as_result(as(w, iowq::send(both.there, "x")));
          CHECK((sent.error() == std::errc::broken_pipe ||
                 sent.error() == std::errc::connection_reset));  // hazard-81: and no signal
        };
        iowq::run(body(go, at));
      }
  }

  TEST_CASE("bind and listen do the same inline, on the ring and on the pool") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::leak_check books;
      auto const body = [](way w) -> task<> {
        iowq_test::scratch dir;
        iowq_test::pipe_pair pipe;
        iowq::endpoint const ends[] = {iowq::endpoint::ip("127.0.0.1", 0),
                                       iowq::endpoint::local(dir / "socket")};
        for (const iowq::endpoint& where : ends) {
          iowq::fd listener = co_await iowq::socket(where.family(), SOCK_STREAM);
          co_await as(w, iowq::bind(listener, where));
          co_await as(w, iowq::listen(listener, 3));
          auto const twice = co_await iowq::as_result(as(w, iowq::bind(listener, where)));
          CHECK(twice.error() == (where.family() == AF_UNIX ? std::errc::address_in_use
                                                            : std::errc::invalid_argument));
          iowq::fd client = co_await iowq::socket(where.family(), SOCK_STREAM);
          co_await iowq::connect(client, iowq::endpoint::local_of(listener.get()));
        }
        auto const none = co_await iowq::as_result(as(w, iowq::listen(pipe.in)));
        CHECK(none.error() == std::errc::not_a_socket);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("a refused connection says so; bad sockets are errors") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        iowq::fd listener = co_await iowq::socket(AF_INET, SOCK_STREAM);
        co_await iowq::bind(listener, iowq::endpoint::ip("127.0.0.1", 0));
        auto const free = iowq::endpoint::local_of(listener.get());
        auto const taken = co_await iowq::as_result(iowq::bind(listener, free));
        CHECK(taken.error() == std::errc::invalid_argument);
        iowq::fd client = co_await iowq::socket(AF_INET, SOCK_STREAM);
        auto const refused = co_await iowq::as_result(as(w, iowq::connect(client, free)));
        CHECK(refused.error() == std::errc::connection_refused);
        auto const deaf = co_await iowq::as_result(as(w, iowq::accept(client)));
        CHECK(deaf.error() == std::errc::invalid_argument);
        auto const family = co_await iowq::as_result(iowq::socket(9999, SOCK_STREAM));
        CHECK(family.error() == std::errc::address_family_not_supported);
      };
      iowq::run(body(go));
    }
    CHECK_THROWS_AS((void)iowq::endpoint::ip("localhost", 80), std::system_error);
    CHECK(iowq::endpoint::ip("::1", 80).to_string() == "[::1]:80");
    CHECK(iowq::endpoint::ip("1.2.3.4", 80).port() == 80);
  }

  TEST_CASE("hazard-76: send_all fills a small socket, and says how much when it is stopped") {
    auto const body = []() -> task<> {
      connected both = co_await pair_of(way::usual, iowq::endpoint::ip("127.0.0.1", 0));
      int const small = 4096;
      ::setsockopt(both.here.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
      std::string const text(1 << 22, 'q');
      iowq::stop_source source;
      std::size_t sent = 0;
      auto const sender = [](int to, const std::string& all, iowq::stop_token token,
                             std::size_t& n) -> task<> {
        co_await iowq_test::under{token};
        n = co_await iowq::send_all(to, all);
      };
      iowq::executor::current().spawn(sender(both.here.get(), text, source.get_token(), sent));
      std::array<char, 1000> buffer;
      std::size_t got = co_await iowq::recv(both.there, buffer);
      source.request_stop();
      co_await iowq_test::until([&] { return sent != 0; });
      CHECK(sent < text.size());
      both.here.reset();
      for (std::size_t n = 1; n != 0; got += n) n = co_await iowq::recv(both.there, buffer);
      CHECK(got == sent);
    };
    iowq::run(body());
  }

  TEST_CASE("poll tells what a descriptor is ready for, and can be stopped") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        iowq_test::pipe_pair pipe;
        CHECK((co_await as(w, iowq::poll(pipe.out, POLLOUT)) & POLLOUT) != 0);
        iowq::stop_source source;
        std::error_code end;
        auto const waiter = [](way v, int file, iowq::stop_token token,
                               std::error_code& e) -> task<> {
          co_await iowq_test::under{token};
          auto const r = co_await iowq::as_result(as(v, iowq::poll(file, POLLIN)));
          e = r.error();
        };
        iowq::executor::current().spawn(waiter(w, pipe.in.get(), source.get_token(), end));
        co_await iowq_test::until_waiting("poll");
        source.request_stop();
        co_await iowq_test::until([&] { return end.value() != 0; });
        CHECK(end == std::errc::operation_canceled);
        pipe.out.reset();
        CHECK((co_await as(w, iowq::poll(pipe.in, POLLIN)) & POLLHUP) != 0);
      };
      iowq::run(body(go));
    }
  }
}
