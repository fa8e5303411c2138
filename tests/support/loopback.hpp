// SPDX-License-Identifier: BSL-1.0
// A listening socket for tests to connect to, made with plain system calls. If a call fails, the
// program stops.
//
//     iowq_test::listening listener;
//     iowq::fd client = listener.call();
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>

#include <iowq/base/fd.hpp>
#include <iowq/op/endpoint.hpp>

namespace iowq_test {

/// True if a socket can be bound to ::1. A machine may have IPv6 switched off.
inline bool has_ipv6() {
  iowq::fd const socket{::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  auto const any = iowq::endpoint::ip("::1", 0);
  return socket && ::bind(socket.get(), any.address(), any.size()) == 0;
}

/// A listening socket on the loopback address.
struct listening {
  explicit listening(int mode = 0) : socket{stream(mode)} {
    int const yes = 1;  // the next bind of the port meets connections in TIME_WAIT
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    auto const any = iowq::endpoint::ip("127.0.0.1", 0);
    must(::bind(socket.get(), any.address(), any.size()) == 0, "bind");
    must(::listen(socket.get(), 1000) == 0, "listen");
    where = iowq::endpoint::local_of(socket.get());
  }
  /// Returns a connected client. It does not block while the backlog has room.
  [[nodiscard]] iowq::fd call() const {
    iowq::fd client = stream(0);
    must(::connect(client.get(), where.address(), where.size()) == 0, "connect");
    return client;
  }
  /// Accepts a connection and returns the server's end of it.
  [[nodiscard]] iowq::fd take() const {
    iowq::fd server{::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    must(static_cast<bool>(server), "accept4");
    return server;
  }

  iowq::fd socket;
  iowq::endpoint where;

 private:
  /// Creates a socket with TCP_NODELAY: small pieces are sent immediately. Accepted sockets inherit
  /// the option from the listener.
  [[nodiscard]] static iowq::fd stream(int mode) {
    iowq::fd made{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | mode, 0)};
    must(static_cast<bool>(made), "socket");
    int const yes = 1;
    ::setsockopt(made.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return made;
  }
  static void must(bool granted, const char* what) {
    if (granted) return;
    std::perror(what);
    std::abort();
  }
};

}  // namespace iowq_test
