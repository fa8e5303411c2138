// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/zero_copy.hpp>  // first and alone

#include <sys/mman.h>

#include <algorithm>
#include <string>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/connect_to.hpp>
#include <iowq/op/file.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

/// Pages that are gone, not reused, when it ends: who still reads them shows.
struct pages {
  explicit pages(std::size_t n) : size{n} {
    data = static_cast<char*>(
        ::mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(data != MAP_FAILED);
  }
  ~pages() { ::munmap(data, size); }
  std::size_t size;
  char* data;
};

struct two {
  iowq::fd here, there;
};
task<two> connected(bool local) {
  two both;
  if (local) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    both.here.reset(ends[0]);
    both.there.reset(ends[1]);
    co_return both;
  }
  iowq::fd listener = co_await iowq::listen_on(iowq::endpoint::ip("127.0.0.1", 0));
  both.here = co_await iowq::socket(AF_INET, SOCK_STREAM);
  co_await iowq::connect(both.here, iowq::endpoint::local_of(listener.get()));
  both.there = co_await iowq::accept(listener);
  co_return both;
}
}  // namespace

TEST_SUITE("op/zero_copy") {
  TEST_CASE("hazard-31: send_zc yields the count, and the bytes are the program's again") {
    for (way go : iowq_test::all_ways)
      for (bool local : {false, true}) {
        CAPTURE(go);
        CAPTURE(local);
        iowq_test::leak_check books;
        auto const body = [](way w, bool unix_socket) -> task<> {
          two both = co_await connected(unix_socket);
          std::string got;
          std::size_t sent = 0;
          bool at_end = false;
          auto const reader = [](int from, std::string& all, bool& over) -> task<> {
            all = co_await iowq::read_all(from);
            over = true;
          };
          iowq::executor::current().spawn(reader(both.there.get(), got, at_end));
          for (int i = 0; i < 20; ++i) {
            pages block{100'000};
            std::fill_n(block.data, block.size, static_cast<char>('a' + i));
            for (std::size_t done = 0; done < block.size;) {
              auto const n = co_await as(
                  w, iowq::send_zc(both.here, std::span{block.data + done, block.size - done}));
              done += n;
              sent += n;
            }
          }
          both.here.reset();
          co_await iowq_test::until([&] { return at_end; });
          CHECK(got.size() == sent);
          for (int i = 0; i < 20; ++i)
            CHECK(std::count(got.begin(), got.end(), static_cast<char>('a' + i)) == 100'000);
        };
        iowq::run(body(go, local));
      }
  }

  TEST_CASE("hazard-31: a stop while the peer does not read keeps what was taken") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::leak_check books;
      auto const body = [](way w) -> task<> {
        two both = co_await connected(false);
        pages block{1 << 22};
        iowq::stop_source source;
        std::size_t taken = 0;
        bool over = false;
        auto const sender = [&](iowq::stop_token token) -> task<> {
          co_await iowq_test::under{token};
          for (;;) {
            auto const n = co_await iowq::as_result(
                as(w, iowq::send_zc(both.here, std::span{block.data, block.size})));
            if (!n) break;
            taken += *n;
          }
          over = true;
        };
        iowq::executor::current().spawn(sender(source.get_token()));
        co_await iowq_test::until_waiting("send_zc");
        source.request_stop();
        std::string buffer(1 << 16, ' ');
        std::size_t got = 0;
        bool at_end = false;
        auto const reader = [&]() -> task<> {
          while (std::size_t const n = co_await iowq::recv(both.there, buffer)) got += n;
          at_end = true;
        };
        iowq::executor::current().spawn(reader());
        co_await iowq_test::until([&] { return over; });
        both.here.reset();
        co_await iowq_test::until([&] { return at_end; });
        CHECK(got == taken);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("sendmsg_zc gathers; a closed peer is an error and no signal") {
    for (way go : iowq_test::all_ways)
      for (bool local : {false, true}) {
        CAPTURE(go);
        CAPTURE(local);
        iowq_test::leak_check books;
        auto const body = [](way w, bool unix_socket) -> task<> {
          two both = co_await connected(unix_socket);
          std::string first = "first, ", second = "second";
          ::iovec parts[2] = {{first.data(), first.size()}, {second.data(), second.size()}};
          ::msghdr message{};
          message.msg_iov = parts;
          message.msg_iovlen = 2;
          CHECK(co_await as(w, iowq::sendmsg_zc(both.here, message)) == 13);
          std::array<char, 16> got;
          std::size_t const n = co_await iowq::recv(both.there, got);
          CHECK(std::string_view{got.data(), n} == "first, second");
          both.there.reset();
          auto sent = co_await iowq::as_result(as(w, iowq::send_zc(both.here, first)));
          if (sent) sent = co_await iowq::as_result(as(w, iowq::send_zc(both.here, first)));
          CHECK((sent.error() == std::errc::broken_pipe ||
                 sent.error() == std::errc::connection_reset));
        };
        iowq::run(body(go, local));
      }
  }
}
