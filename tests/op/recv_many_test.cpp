// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/multishot/recv_many.hpp>  // first and alone

#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/connect_to.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/time.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "shots.hpp"
#include "turns.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::buffer_ring;
using iowq::buffer_view;
using iowq::multishot;
using iowq::task;
using iowq_test::turns;
constexpr multishot both[] = {multishot::automatic, multishot::off};

struct socket_pair {
  explicit socket_pair(int type) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
    in.reset(ends[0]);
    out.reset(ends[1]);
  }
  iowq::fd in, out;
};

task<socket_pair> tcp() {
  iowq::fd listener = co_await iowq::listen_on(iowq::endpoint::ip("127.0.0.1", 0));
  socket_pair both_ends{SOCK_STREAM};
  both_ends.out = co_await iowq::socket(AF_INET, SOCK_STREAM);
  co_await iowq::connect(both_ends.out, iowq::endpoint::local_of(listener.get()));
  both_ends.in = co_await iowq::accept(listener);
  co_return both_ends;
}

struct outcome {
  bool over = false;
  std::error_code error;
  int items = 0;
  std::string text;
};
task<> pull(iowq::stream<buffer_view>& from, iowq::stop_token token, outcome& end) {
  co_await iowq_test::under{token};
  try {
    while (auto one = co_await from.next()) {
      ++end.items;
      end.text += one->text();
    }
  } catch (const std::system_error& e) {
    end.error = e.code();
  }
  end.over = true;
}
}  // namespace

TEST_SUITE("op/recv_many") {
  TEST_CASE("hazard-29: 10^5 datagrams come in order, whatever the number of buffers") {
    for (multishot how : both)
      for (unsigned count : {1U, 2U, 64U}) {
        CAPTURE(how);
        CAPTURE(count);
        iowq_test::leak_check books;
        auto const body = [](multishot h, unsigned n) -> task<> {
          constexpr std::uint32_t all = 100'000;
          socket_pair pair{SOCK_DGRAM};
          buffer_ring buffers{n, 64, h};
          std::uint32_t sent = 0;
          auto const sender = [](int to, std::uint32_t& i) -> task<> {
            for (; i < all; ++i)
              co_await iowq::send(to, std::span{reinterpret_cast<const char*>(&i), sizeof i});
          };
          iowq::executor::current().spawn(sender(pair.out.get(), sent));
          auto incoming = iowq::recv_many(pair.in, buffers);
          std::uint32_t in_place = 0;
          for (std::uint32_t i = 0; i < all; ++i) {
            auto one = co_await incoming.next();
            std::uint32_t serial = ~i;
            if (one && one->size() == sizeof serial)
              std::memcpy(&serial, one->data(), sizeof serial);
            in_place += serial == i;
          }
          CHECK(in_place == all);
          char more;
          CHECK(::recv(pair.in.get(), &more, 1, MSG_DONTWAIT) < 0);  // and no other
          // The last one can be received before its sender hears of it.
          co_await iowq_test::until([&] { return sent >= all; });
        };
        iowq::run(body(how, count));
      }
  }

  TEST_CASE("hazard-28: a request that a full CQ ends early begins again; nothing is lost") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      socket_pair pair{SOCK_SEQPACKET};
      buffer_ring buffers{64, 16};
      auto incoming = iowq::recv_many(pair.in, buffers);
      unsigned in_place = 0, next = 0;
      for (int round = 0; round < 300; ++round) {
        for (unsigned i = 0; i < 60; ++i) {
          unsigned const serial = next + i;
          REQUIRE(::send(pair.out.get(), &serial, sizeof serial, 0) == sizeof serial);
        }
        for (unsigned i = 0; i < 60; ++i) {
          auto const one = co_await incoming.next();
          REQUIRE(one->size() == sizeof(unsigned));
          unsigned serial;
          std::memcpy(&serial, one->data(), sizeof serial);
          in_place += serial == next++;
        }
      }
      CHECK(in_place == next);
    };
    iowq::run(body(), {.entries = 1});  // and four CQEs
  }

  TEST_CASE("a byte stream arrives whole through leases that end out of order; wrap-around") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        socket_pair pair = co_await tcp();
        buffer_ring buffers{8, 1000, h};
        std::string sent(3'000'000, ' ');
        unsigned seed = 7;
        for (char& c : sent) c = static_cast<char>((seed = seed * 1664525U + 1013904223U) >> 24);
        auto const sender = [](iowq::fd& to, const std::string& text) -> task<> {
          co_await iowq::send_all(to, text);
          co_await iowq::shutdown(to, SHUT_WR);
        };
        iowq::executor::current().spawn(sender(pair.out, sent));
        auto incoming = iowq::recv_many(pair.in, buffers);
        std::string got;
        std::deque<buffer_view> kept;
        while (auto one = co_await incoming.next()) {
          got += one->text();
          CHECK(one->size() <= 1000);
          kept.push_back(std::move(*one));
          while (kept.size() > seed % 7) {  // in any order
            seed = seed * 1664525U + 1013904223U;
            kept.erase(kept.begin() + static_cast<std::ptrdiff_t>((seed >> 16) % kept.size()));
          }
        }
        CHECK(got.size() == sent.size());
        CHECK((got == sent));
        CHECK_FALSE(co_await incoming.next());  // and ever after
        kept.clear();
        CHECK(buffers.taken() == 0);
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("hazard-30: what came before the end comes before the end, and before a reset") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        buffer_ring buffers{4, 16, h};
        {
          socket_pair pair = co_await tcp();
          auto incoming = iowq::recv_many(pair.in, buffers);
          co_await iowq::send_all(pair.out, "first");
          CHECK((*co_await incoming.next()).text() == "first");
          co_await iowq::send_all(pair.out, std::string(200, 'x'));
          co_await iowq::shutdown(pair.out, SHUT_WR);
          outcome end;
          co_await pull(incoming, {}, end);
          CHECK(end.text == std::string(200, 'x'));
          CHECK_FALSE(end.error);
        }
        socket_pair pair = co_await tcp();
        auto incoming = iowq::recv_many(pair.in, buffers);
        co_await iowq::send_all(pair.out, "last");
        CHECK((*co_await incoming.next()).text() == "last");
        ::linger const hard{1, 0};
        ::setsockopt(pair.out.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        pair.out.reset();
        outcome end;
        co_await pull(incoming, {}, end);
        CHECK(end.error == std::errc::connection_reset);
        CHECK(buffers.taken() == 0);
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("an empty datagram is an item, a closed peer's socket of packets the end") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        buffer_ring buffers{2, 16, h};
        socket_pair pair{SOCK_DGRAM};
        for (const char* text : {"a", "", "bc", "", ""})
          REQUIRE(::send(pair.out.get(), text, std::strlen(text), 0) >= 0);
        auto incoming = iowq::recv_many(pair.in, buffers);
        for (const char* text : {"a", "", "bc", "", ""})
          CHECK((*co_await incoming.next()).text() == text);
        socket_pair packets{SOCK_SEQPACKET};
        auto few = iowq::recv_many(packets.in, buffers);
        co_await iowq::send(packets.out, "one");
        co_await iowq::send(packets.out, "a packet that fits no buffer");
        packets.out.reset();
        CHECK((*co_await few.next()).text() == "one");
        CHECK((*co_await few.next()).text() == "a packet that fi");
        CHECK_FALSE(co_await few.next());
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("without a free buffer it waits for a lease to end, and can be stopped there") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        buffer_ring buffers{2, 16, h};
        socket_pair pair{SOCK_DGRAM};
        for (const char* text : {"1", "2", "3", "4"})
          co_await iowq::send(pair.out, std::string_view{text});
        std::vector<buffer_view> kept;
        iowq::stop_source source;
        outcome end;
        {
          auto incoming = iowq::recv_many(pair.in, buffers);
          for (int i = 0; i < 2; ++i) kept.push_back(std::move(*co_await incoming.next()));
          CHECK(buffers.taken() == 2);
          iowq::executor::current().spawn(pull(incoming, source.get_token(), end));
          co_await iowq_test::until_waiting("buffer_ring");
          CHECK(end.items == 0);
          kept.pop_back();
          co_await iowq_test::until([&] { return end.items == 2; });
          CHECK(end.text == "34");
          source.request_stop();
          co_await iowq_test::until([&] { return end.over; });
          CHECK(end.error == std::errc::operation_canceled);
        }
        co_await iowq::send(pair.out, "5");
        co_await iowq::send(pair.out, "6");
        auto incoming = iowq::recv_many(pair.in, buffers);
        kept.push_back(std::move(*co_await incoming.next()));
        iowq::stop_source again;
        outcome stopped;
        iowq::executor::current().spawn(pull(incoming, again.get_token(), stopped));
        co_await iowq_test::until_waiting("buffer_ring");
        again.request_stop();
        co_await iowq_test::until([&] { return stopped.over; });
        CHECK(stopped.error == std::errc::operation_canceled);
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("hazard-05: a stop gives what had come before it ends; bytes are not lost") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        buffer_ring buffers{8, 16, h};
        for (int stage = 0; stage < 20; ++stage) {
          socket_pair pair = co_await tcp();
          auto incoming = iowq::recv_many(pair.in, buffers);
          iowq::stop_source source;
          outcome end;
          iowq::executor::current().spawn(pull(incoming, source.get_token(), end));
          if (stage >= 10) co_await iowq_test::until_waiting("*");
          co_await iowq::send_all(pair.out, "bytes");
          co_await turns(stage % 10);
          source.request_stop();
          co_await iowq_test::until([&] { return end.over; });
          CHECK(end.error == std::errc::operation_canceled);
          std::array<char, 16> rest;
          auto const left = co_await iowq::as_result(iowq::recv(pair.in, rest, MSG_DONTWAIT));
          CHECK(end.text.size() + (left ? *left : 0) == 5);
          CHECK(buffers.taken() == 0);
        }
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE(
      "hazard-06: a stream that is dropped gives its buffers back, those that come late too") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        buffer_ring buffers{8, 16, h};
        for (int after = 0; after < 5; ++after) {
          socket_pair pair{SOCK_DGRAM};
          {
            auto incoming = iowq::recv_many(pair.in, buffers);
            co_await iowq::send(pair.out, "first");
            CHECK(co_await incoming.next());
            for (int i = 0; i < 3; ++i) co_await iowq::send(pair.out, "more");
            co_await turns(after);
          }
          co_await iowq::send(pair.out, "late");
          co_await iowq_test::until([] { return iowq_test::look_at("*").all == 0; });
          CHECK(buffers.taken() == 0);
        }
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("hazard-32: leases outlive their ring, its streams and the executor") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      std::vector<buffer_view> kept;
      auto const body = [](multishot h, std::vector<buffer_view>& leases) -> task<> {
        buffer_ring buffers{4, 16, h};
        socket_pair pair{SOCK_DGRAM};
        auto incoming = iowq::recv_many(pair.in, buffers);
        for (int i = 0; i < 3; ++i) {
          co_await iowq::send(pair.out, "kept");
          leases.push_back(std::move(*co_await incoming.next()));
        }
      };
      iowq::run(body(how, kept));
      for (const auto& one : kept) CHECK(one.text() == "kept");
    }
  }

  TEST_CASE("a buffer_ring serves one executor after another") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      buffer_ring buffers{2, 16, how};
      std::optional<buffer_view> kept;
      for (int round = 0; round < 3; ++round) {
        auto const body = [](buffer_ring& b, std::optional<buffer_view>& lease) -> task<> {
          socket_pair pair{SOCK_DGRAM};
          auto incoming = iowq::recv_many(pair.in, b);
          for (int i = 0; i < 10; ++i) {
            co_await iowq::send(pair.out, "text");
            buffer_view one = std::move(*co_await incoming.next());
            CHECK(one.text() == "text");
            lease = std::move(one);
          }
        };
        iowq::run(body(buffers, kept));
        CHECK(buffers.taken() == 1);
      }
    }
  }

  TEST_CASE("a hundred connections share two buffers") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        constexpr std::size_t count = 100;
        buffer_ring buffers{2, 8, h};
        std::vector<socket_pair> pairs;
        std::vector<iowq::stream<buffer_view>> streams;
        std::vector<outcome> ends(count);
        for (std::size_t i = 0; i < count; ++i) pairs.push_back(co_await tcp());
        for (auto& one : pairs) streams.push_back(iowq::recv_many(one.in, buffers));
        for (std::size_t i = 0; i < count; ++i)
          iowq::executor::current().spawn(pull(streams[i], {}, ends[i]));
        std::string const text(100, 'm');
        for (int round = 0; round < 3; ++round)
          for (auto& one : pairs) co_await iowq::send_all(one.out, text);
        for (auto& one : pairs) one.out.reset();
        for (auto& end : ends) {
          co_await iowq_test::until([&] { return end.over; });
          CHECK(end.text == text + text + text);
        }
        CHECK(buffers.taken() == 0);
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("sockets with O_NONBLOCK are waited for; what is no socket is an error") {
    for (multishot how : both) {
      CAPTURE(how);
      iowq_test::leak_check books;
      auto const body = [](multishot h) -> task<> {
        buffer_ring buffers{2, 16, h};
        socket_pair pair{SOCK_STREAM | SOCK_NONBLOCK};
        auto incoming = iowq::recv_many(pair.in, buffers);
        outcome end;
        iowq::executor::current().spawn(pull(incoming, {}, end));
        for (int i = 0; i < 3; ++i) {
          co_await iowq_test::until_waiting("*");
          co_await iowq::send_all(pair.out, "abc");
        }
        pair.out.reset();
        co_await iowq_test::until([&] { return end.over; });
        CHECK(end.text == "abcabcabc");
        CHECK_FALSE(end.error);
        iowq_test::pipe_pair pipe;
        auto none = iowq::recv_many(pipe.in, buffers);
        outcome refused;
        co_await pull(none, {}, refused);
        CHECK(refused.error == std::errc::not_a_socket);
      };
      iowq::run(body(how));
    }
  }

  TEST_CASE("sizes that cannot be are refused") {
    CHECK_THROWS_AS((buffer_ring{0, 16}), std::system_error);
    CHECK_THROWS_AS((buffer_ring{1, 0}), std::system_error);
    CHECK_THROWS_AS((buffer_ring{1U << 16, 16}), std::system_error);
    CHECK((buffer_ring{3, 16}.count()) == 4);
  }
}
