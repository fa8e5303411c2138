// SPDX-License-Identifier: BSL-1.0
// op/message and op/socket_option.
#include <iowq/op/message.hpp>  // first and alone

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#include <array>
#include <csignal>
#include <cstring>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/socket_option.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"
#include "without.hpp"

namespace {
using iowq::task;
using iowq_test::way;

struct socket_pair {
  explicit socket_pair(int type = SOCK_STREAM) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
    here.reset(ends[0]);
    there.reset(ends[1]);
  }
  iowq::fd here, there;
};

/// A message of two parts, and room for a descriptor beside it.
struct letter {
  letter(std::string one, std::string two) : first{std::move(one)}, second{std::move(two)} {
    parts[0] = {first.data(), first.size()};
    parts[1] = {second.data(), second.size()};
    head.msg_iov = parts;
    head.msg_iovlen = 2;
  }
  letter(const letter&) = delete;
  letter& operator=(const letter&) = delete;

  void expect_descriptor() {
    head.msg_control = control;
    head.msg_controllen = sizeof control;
  }
  void enclose(int file) {
    expect_descriptor();
    ::cmsghdr* const c = CMSG_FIRSTHDR(&head);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof file);
    std::memcpy(CMSG_DATA(c), &file, sizeof file);
  }
  iowq::fd enclosed() {
    ::cmsghdr* const c = CMSG_FIRSTHDR(&head);
    if (c == nullptr) return {};
    int file = -1;
    std::memcpy(&file, CMSG_DATA(c), sizeof file);
    return iowq::fd{file};
  }

  std::string first, second;
  ::iovec parts[2];
  ::msghdr head{};
  alignas(::cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
};

/// Each fills a letter, or its first part, under that token, and says how far it came.
using receiver = task<> (*)(way, int, letter&, iowq::stop_token, std::size_t&);
task<> receive_parts(way w, int from, letter& into, iowq::stop_token token, std::size_t& n) {
  co_await iowq_test::under{token};
  n = co_await as(w, iowq::recvmsg(from, into.head, MSG_WAITALL));
}
task<> receive_bytes(way w, int from, letter& into, iowq::stop_token token, std::size_t& n) {
  co_await iowq_test::under{token};
  n = co_await as(w, iowq::recv(from, into.first, MSG_WAITALL));
}
task<> receive_from(way w, int from, letter& into, iowq::stop_token token, std::size_t& n) {
  co_await iowq_test::under{token};
  n = (co_await as(w, iowq::recvfrom(from, into.first, MSG_WAITALL))).size;
}

task<iowq::fd> udp() {
  iowq::fd made = co_await iowq::socket(AF_INET, SOCK_DGRAM);
  co_await iowq::bind(made, iowq::endpoint::ip("127.0.0.1", 0));
  co_return made;
}
}  // namespace

TEST_SUITE("op/message") {
  TEST_CASE("datagrams say whom they are for and from whom they came") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        iowq::fd one = co_await udp(), two = co_await udp();
        auto const to = iowq::endpoint::local_of(two.get());
        CHECK(co_await as(w, iowq::sendto(one, "hello", to)) == 5);
        CHECK(co_await as(w, iowq::sendto(one, "", to)) == 0);
        CHECK(co_await as(w, iowq::sendto(one, "again", to)) == 5);
        std::array<char, 16> buffer{};
        auto const [size, from] = co_await as(w, iowq::recvfrom(two, buffer));
        CHECK(std::string_view{buffer.data(), size} == "hello");
        CHECK(from.to_string() == iowq::endpoint::local_of(one.get()).to_string());
        CHECK((co_await as(w, iowq::recvfrom(two, buffer))).size == 0);
        // MSG_WAITALL means nothing to datagrams; of a long one the rest is lost.
        auto const cut = co_await as(
            w, iowq::recvfrom(two, std::span(buffer).first(2), MSG_WAITALL | MSG_TRUNC));
        CHECK(cut.size == 5);
        CHECK(buffer[1] == 'g');
        CHECK(co_await as(w, iowq::sendto(one, "x", to)) == 1);
        CHECK(co_await as(w, iowq::recv(two, buffer, MSG_WAITALL)) == 1);
        auto const none =
            co_await iowq::as_result(as(w, iowq::recvfrom(two, buffer, MSG_DONTWAIT)));
        CHECK(none.error() == std::errc::resource_unavailable_try_again);
        auto const odd =
            co_await iowq::as_result(as(w, iowq::sendto(one, "x", iowq::endpoint::ip("::1", 1))));
        CHECK(odd.error() == std::errc::address_family_not_supported);
        auto const large =
            co_await iowq::as_result(as(w, iowq::sendto(one, std::string(70'000, 'x'), to)));
        CHECK(large.error() == std::errc::message_size);
        socket_pair streams;
        co_await iowq::send(streams.here, "y");
        auto const nameless = co_await as(w, iowq::recvfrom(streams.there, buffer));
        CHECK(nameless.size == 1);
        CHECK(nameless.from.size() == 0);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("messages have parts, and carry descriptors, which are close-on-exec") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        socket_pair sockets;
        iowq_test::pipe_pair pipe{0};
        letter sent{"hello ", "world"};
        sent.enclose(pipe.out.get());
        CHECK(co_await as(w, iowq::sendmsg(sockets.here, sent.head)) == 11);
        letter got{"....", "............"};
        got.expect_descriptor();
        CHECK(co_await as(w, iowq::recvmsg(sockets.there, got.head)) == 11);
        CHECK(got.first == "hell");
        CHECK(got.second.starts_with("o world"));
        iowq::fd const received = got.enclosed();
        CHECK(received);
        CHECK((::fcntl(received.get(), F_GETFD) & FD_CLOEXEC) != 0);
        CHECK(::write(received.get(), "x", 1) == 1);

        sockets.there.reset();
        auto const broken = co_await iowq::as_result(as(w, iowq::sendmsg(sockets.here, sent.head)));
        CHECK(broken.error() == std::errc::broken_pipe);
        sigset_t pending;
        ::sigpending(&pending);
        CHECK(::sigismember(&pending, SIGPIPE) == 0);
        letter last{"a", "b"};
        CHECK(co_await as(w, iowq::recvmsg(sockets.here, last.head)) == 0);  // the end, no error
        auto const no_socket = co_await iowq::as_result(as(w, iowq::recvmsg(pipe.in, last.head)));
        CHECK(no_socket.error() == std::errc::not_a_socket);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("with MSG_WAITALL a message of a stream is complete") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        socket_pair sockets;
        letter got{"....", "...."};
        std::size_t size = 0;
        auto const reader = [](way v, int from, ::msghdr& into, std::size_t& n) -> task<> {
          n = co_await as(v, iowq::recvmsg(from, into, MSG_WAITALL));
        };
        auto& here = iowq::executor::current();
        here.spawn(reader(w, sockets.there.get(), got.head, size));
        for (std::string_view const some : {"012", "345", "67"}) {
          co_await iowq_test::until_waiting("recvmsg");
          CHECK(size == 0);
          co_await iowq::send(sockets.here, some);
        }
        co_await iowq_test::until([&] { return size != 0; });
        CHECK(size == 8);
        CHECK(got.first + got.second == "01234567");
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("what came of a receive with MSG_WAITALL is told when that is stopped") {
    iowq_test::leak_check books;
    auto const body = [](way w, receiver receives) -> task<> {
      socket_pair sockets;
      letter part{"....", "...."};
      std::size_t size = 0;
      iowq::stop_source source;
      auto& here = iowq::executor::current();
      here.spawn(receives(w, sockets.there.get(), part, source.get_token(), size));
      co_await iowq::send(sockets.here, "abc");
      co_await iowq_test::until([&] {  // the receive has taken them
        int left = 1;
        REQUIRE(::ioctl(sockets.there.get(), FIONREAD, &left) == 0);
        return left == 0;
      });
      source.request_stop();
      co_await iowq_test::until([&] { return size != 0; });
      CHECK(size == 3);
      CHECK(part.first + part.second == "abc.....");
      if (!iowq::detail::loop::current().backend().features().keeps_parts())
        for (auto const& line : here.stats().operations)
          if (std::string_view{line.name}.starts_with("recv")) CHECK(line.ring_ops == 0);
    };
    for (bool old : {false, true}) {
      CAPTURE(old);
      iowq::detail::lacking lacks;
      if (old) lacks.opcodes.set(IORING_OP_SENDMSG_ZC);
      iowq_test::without const hidden{lacks};
      for (way go : iowq_test::all_ways)
        for (receiver one : {&receive_parts, &receive_bytes, &receive_from}) {
          CAPTURE(go);
          iowq::run(body(go, one));
        }
    }
  }

  TEST_CASE("socket options are read and set, a bool as the int that the kernel wants") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        iowq::fd tcp = co_await iowq::socket(AF_INET, SOCK_STREAM);
        CHECK(co_await as(w, iowq::getsockopt(tcp, SOL_SOCKET, SO_TYPE)) == SOCK_STREAM);
        co_await as(w, iowq::setsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, true));
        CHECK(co_await as(w, iowq::getsockopt<bool>(tcp, IPPROTO_TCP, TCP_NODELAY)));
        co_await as(w, iowq::setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, 1));
        int plain = 0;
        ::socklen_t size = sizeof plain;
        REQUIRE(::getsockopt(tcp.get(), SOL_SOCKET, SO_REUSEADDR, &plain, &size) == 0);
        CHECK(plain == 1);
        co_await as(w, iowq::setsockopt(tcp, SOL_SOCKET, SO_LINGER, ::linger{1, 7}));
        CHECK((co_await as(w, iowq::getsockopt<::linger>(tcp, SOL_SOCKET, SO_LINGER))).l_linger ==
              7);
        co_await as(w, iowq::setsockopt(tcp, IPPROTO_TCP, TCP_CONGESTION, "reno"));
        auto const unknown = co_await iowq::as_result(as(w, iowq::getsockopt(tcp, 12345, 1)));
        CHECK(unknown.error() == std::errc::operation_not_supported);
        auto const bad = co_await iowq::as_result(as(w, iowq::setsockopt(-1, SOL_SOCKET, 1, 1)));
        CHECK(bad.error() == std::errc::bad_file_descriptor);
      };
      iowq::run(body(go));
    }
  }
}
