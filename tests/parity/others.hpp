// SPDX-License-Identifier: BSL-1.0
// Programs of tests/parity: what has no file. Each makes what it needs, and leaves nothing.
#pragma once

#include <linux/futex.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "loopback.hpp"
#include "machine.hpp"

namespace parity {

using iowq::task;

inline task<> pipes(machine& m) {
  iowq::fd in, out, in2, out2;
  co_await m.both(
      "pipe",
      [&] {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0) return -1;
        in.reset(ends[0]), out.reset(ends[1]);
        return 0;
      },
      [&] { return iowq::pipe(); },
      [&](std::pair<iowq::fd, iowq::fd> ends) {
        in = std::move(ends.first), out = std::move(ends.second);
        return 0L;
      });
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) co_return;
  in2.reset(ends[0]), out2.reset(ends[1]);
  std::size_t const n = 1 + m.below(8000), k = 1 + m.below(8000);
  iowq::const_bytes const bytes{m.bytes(), n};
  iowq::fd& f = m.file();
  std::int64_t at = m.offset();
  iowq::file_offset const where = m.once_in(2) ? iowq::file_offset{at} : iowq::file_offset{};
  co_await m.both(
      "write", [&] { return ::write(out.get(), m.bytes(), n); },
      [&] { return iowq::write(out, bytes); });
  co_await m.both(
      "tee", [&] { return ::tee(in.get(), out2.get(), k, 0); },
      [&] { return iowq::tee(in, out2, k); });
  co_await m.both(
      "splice", [&] { return ::splice(in.get(), nullptr, f.get(), where ? &at : nullptr, k, 0); },
      [&] { return iowq::splice(in, {}, f, where, k); });
  short const events = m.one_of<short>({POLLIN, POLLOUT, POLLIN | POLLPRI});
  iowq::fd& end = events == POLLOUT ? out2 : in2;
  co_await m.both(
      "poll",
      [&] {
        ::pollfd one{end.get(), events, 0};
        return ::poll(&one, 1, -1) < 0 ? -1 : one.revents;
      },
      [&] { return iowq::poll(end, events); });
  long const got = co_await m.both(
      "read", [&] { return ::read(in2.get(), m.room(), k); },
      [&] { return iowq::read(in2, iowq::mutable_bytes{m.room(), k}); });
  m.note_bytes(m.room(), got);
  in.reset();
  co_await m.both(
      "write", [&] { return ::write(out.get(), "x", 1); }, [&] { return iowq::write(out, "x"); });
  out2.reset();
  do {
    iowq::mutable_bytes const into{m.room(), machine::buffer_size};
    long const more = co_await m.both(
        "readv",
        [&] {
          ::iovec const one{m.room(), machine::buffer_size};
          return ::readv(in2.get(), &one, 1);
        },
        [&] { return iowq::readv(in2, {into}); });
    if (more <= 0) break;
  } while (true);
}

inline task<> sockets(machine& m) {
  iowq::fd listener, client, server;
  int const family = m.one_of({AF_INET, AF_UNIX, AF_INET6});
  std::string const path = m.directory() + "/socket";
  iowq::endpoint where = family == AF_UNIX
                             ? iowq::endpoint::local(path)
                             : iowq::endpoint::ip(family == AF_INET ? "127.0.0.1" : "::1", 0);
  auto const stream = [&](iowq::fd& into) {
    return m.both_into(
        into, "socket", [=] { return ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0); },
        [=] { return iowq::socket(family, SOCK_STREAM); });
  };
  co_await stream(listener);
  co_await stream(client);
  co_await m.both(
      "setsockopt",
      [&] {
        int const on = 1;
        return ::setsockopt(listener.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
      },
      [&] { return iowq::setsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, true); });
  co_await m.both(
      "getsockopt",
      [&] {
        int on = 0;
        ::socklen_t size = sizeof on;
        return ::getsockopt(listener.get(), SOL_SOCKET, SO_KEEPALIVE, &on, &size) < 0 ? -1 : on;
      },
      [&] { return iowq::getsockopt(listener, SOL_SOCKET, SO_KEEPALIVE); });
  bool const listens = !m.once_in(4);  // else it is refused
  co_await m.both(
      "bind", [&] { return ::bind(listener.get(), where.address(), where.size()); },
      [&] { return iowq::bind(listener, where); });
  if (listens)
    co_await m.both(
        "listen", [&] { return ::listen(listener.get(), 5); },
        [&] { return iowq::listen(listener, 5); });
  where = iowq::endpoint::local_of(listener.get());
  long const connected = co_await m.both(
      "connect", [&] { return ::connect(client.get(), where.address(), where.size()); },
      [&] { return iowq::connect(client, where); });
  if (connected == 0) {
    co_await m.both_into(
        server, "accept", [&] { return ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC); },
        [&] { return iowq::accept(listener); });
    std::size_t const n = 1 + m.below(4000);
    iowq::const_bytes const bytes{m.bytes(), n};
    iowq::mutable_bytes const into{m.room(), n};
    co_await m.both(
        "send", [&] { return ::send(client.get(), m.bytes(), n, MSG_NOSIGNAL); },
        [&] { return iowq::send(client, bytes); });
    long const got = co_await m.both(
        "recv", [&] { return ::recv(server.get(), m.room(), n, MSG_WAITALL); },
        [&] { return iowq::recv(server, into, MSG_WAITALL); });
    m.note_bytes(m.room(), got);
    ::iovec part{m.bytes(), n}, room{m.room(), n};
    ::msghdr out{}, in{};
    out.msg_iov = &part, in.msg_iov = &room;
    out.msg_iovlen = in.msg_iovlen = 1;
    co_await m.both(
        "sendmsg", [&] { return ::sendmsg(server.get(), &out, MSG_NOSIGNAL); },
        [&] { return iowq::sendmsg(server, out); });
    co_await m.both(
        "recvmsg", [&] { return ::recvmsg(client.get(), &in, MSG_WAITALL); },
        [&] { return iowq::recvmsg(client, in, MSG_WAITALL); });
    int const how = m.one_of<int>({SHUT_WR, SHUT_RDWR, 7});
    long const shut = co_await m.both(
        "shutdown", [&] { return ::shutdown(client.get(), how); },
        [&] { return iowq::shutdown(client, how); });
    if (shut == 0)
      co_await m.both(
          "recv", [&] { return ::recv(server.get(), m.room(), n, 0); },
          [&] { return iowq::recv(server, into); });
    if (shut == 0)
      co_await m.both(
          "send", [&] { return ::send(client.get(), "x", 1, MSG_NOSIGNAL); },
          [&] { return iowq::send(client, "x"); });
  }
  ::unlink(path.c_str());
}

inline task<> datagrams(machine& m) {
  iowq::fd const a{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  iowq::fd const b{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  auto const any = iowq::endpoint::ip("127.0.0.1", 0);
  if (::bind(a.get(), any.address(), any.size()) != 0) co_return;
  iowq::endpoint const where = iowq::endpoint::local_of(a.get());
  std::size_t const n = m.one_of<std::size_t>({0, 1, 1000, 70'000});  // the last is too long
  std::vector<char> const bytes(n, 'x');
  long const sent = co_await m.both(
      "sendto",
      [&] {
        return ::sendto(b.get(), bytes.data(), n, MSG_NOSIGNAL, where.address(), where.size());
      },
      [&] { return iowq::sendto(b, bytes, where); });
  if (sent < 0) co_return;
  std::size_t const room = m.one_of<std::size_t>({10, 2000});
  co_await m.both(
      "recvfrom", [&] { return ::recvfrom(a.get(), m.room(), room, 0, nullptr, nullptr); },
      [&] { return iowq::recvfrom(a, iowq::mutable_bytes{m.room(), room}); },
      [](const iowq::datagram& got) { return static_cast<long>(got.size); });
}

inline task<> waits(machine& m) {
  std::uint32_t const word = 5;
  std::uint32_t const expected = 6;  // it is not: nobody waits here
  co_await m.both(
      "futex_wait",
      [&] { return ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr); },
      [&] { return iowq::futex_wait(word, expected); });
  co_await m.both(
      "futex_wake", [&] { return ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 3); },
      [&] { return iowq::futex_wake(word, 3); });
  iowq::fd const set{::epoll_create1(EPOLL_CLOEXEC)}, counter{::eventfd(1, EFD_CLOEXEC)};
  ::epoll_event event{.events = EPOLLIN, .data = {}}, events[4];
  if (::epoll_ctl(set.get(), EPOLL_CTL_ADD, counter.get(), &event) != 0) co_return;
  co_await m.both(
      "epoll_wait", [&] { return ::epoll_wait(set.get(), events, 4, -1); },
      [&] { return iowq::epoll_wait(set, events); });
  rows_used().insert("sleep");
  if (m.bare()) {
    ::timespec const brief{0, 1000};
    m.note("sleep " + std::to_string(::clock_nanosleep(CLOCK_MONOTONIC, 0, &brief, nullptr)));
  } else {
    auto const slept = co_await iowq::as_result(iowq::sleep_for(std::chrono::microseconds{1}));
    m.note("sleep " + std::to_string(slept.error().value()));
  }
  rows_used().insert("sleep_until");
  if (m.bare()) {
    ::timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    int const slept = ::clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &now, nullptr);
    m.note("sleep_until " + std::to_string(slept));
  } else {
    auto const now = std::chrono::system_clock::now();
    auto const slept = co_await iowq::as_result(iowq::sleep_until(now));
    m.note("sleep_until " + std::to_string(slept.error().value()));
  }
}

inline task<> processes(machine& m) {
  std::string const program = m.one_of<std::string>({"true", "false", "/no/such/program"});
  iowq::process child;
  ::pid_t id = -1;
  long const started = co_await m.both(
      "spawn_process",
      [&] {
        char* argv[] = {const_cast<char*>(program.c_str()), nullptr};
        errno = ::posix_spawnp(&id, program.c_str(), nullptr, nullptr, argv, environ);
        return errno == 0 ? 0 : -1;
      },
      [&] { return iowq::spawn_process({program}); },
      [&](iowq::process made) {
        id = made.id();
        child = std::move(made);
        return 0L;
      });
  int const options = m.one_of({WEXITED, WEXITED | WNOWAIT});
  ::siginfo_t info{};
  auto const status = [&](const ::siginfo_t& of) {
    return static_cast<long>(of.si_status + 1000 * of.si_code);
  };
  ::id_t const whose = started == 0 ? static_cast<::id_t>(id) : static_cast<::id_t>(INT_MAX);
  co_await m.both(
      "waitid", [&] { return ::waitid(P_PID, whose, &info, options) != 0 ? -1 : status(info); },
      [&] { return iowq::waitid(P_PID, whose, options); }, status);
  if (started == 0 && (options & WNOWAIT) != 0)
    co_await m.both(
        "waitid", [&] { return ::waitid(P_PID, whose, &info, WEXITED) != 0 ? -1 : info.si_status; },
        [&] { return iowq::wait_for(child); },
        [](const iowq::exit_status& end) { return static_cast<long>(end.code()); });
}

/// Streams of what comes, beside loops of the single calls.
inline task<> many(machine& m) {
  rows_used().insert({"accept_many", "recv_many", "buffer_ring", "poll_many"});
  std::size_t const count = 1 + m.below(5), size = 1 + m.below(20'000);
  iowq_test::listening const listener;
  std::vector<iowq::fd> clients, servers;
  while (clients.size() < count) clients.push_back(listener.call());
  if (m.bare()) {
    while (servers.size() < count) servers.push_back(listener.take());
  } else {
    auto all = iowq::accept_many(listener.socket);
    while (servers.size() < count) {
      auto one = co_await all.next();
      servers.push_back(std::move(*one));
    }
  }
  bool open = true;
  for (const iowq::fd& one : servers) open = open && ::fcntl(one.get(), F_GETFD) == FD_CLOEXEC;
  m.note("accept_many " + std::to_string(servers.size()) + (open ? " open" : " not open"));

  std::vector<char> const bytes(size, 'z');
  if (::send(clients[0].get(), bytes.data(), size, 0) < 0) co_return;
  clients[0].reset();
  short ready = 0;  // the first that came is the first that was accepted
  if (m.bare()) {
    ::pollfd one{servers[0].get(), POLLIN, 0};
    if (::poll(&one, 1, -1) == 1) ready = one.revents;
  } else {
    auto events = iowq::poll_many(servers[0], POLLIN);
    auto first = co_await events.next();
    ready = *first;
  }
  m.note("poll_many " + std::to_string(ready & POLLIN));
  std::size_t got = 0;
  if (m.bare()) {
    for (long n; (n = ::recv(servers[0].get(), m.room(), 4096, 0)) > 0;)
      got += static_cast<std::size_t>(n);
  } else {
    iowq::buffer_ring buffers{1, 4096};
    auto parts = iowq::recv_many(servers[0], buffers);
    while (auto part = co_await parts.next()) got += part->size();
  }
  m.note("recv_many " + std::to_string(got));
}

/// Buffers that the kernel keeps for longer than a call.
inline task<> kept_buffers(machine& m) {
  iowq::fd& f = m.file();
  auto const n = m.one_of<std::size_t>({1, 512, 4096});
  auto const at = m.one_of<std::int64_t>({0, 512, 5000});
  iowq::fixed_buffers buffers{2, 4096};
  std::copy_n(m.bytes(), 4096, reinterpret_cast<char*>(buffers[1].data()));
  co_await m.both(
      "write_fixed", [&] { return ::pwrite(f.get(), buffers[1].data(), n, at); },
      [&] { return iowq::write_fixed(f, buffers, 1, n, at); });
  long const got = co_await m.both(
      "read_fixed", [&] { return ::pread(f.get(), buffers[0].data(), n, at); },
      [&] { return iowq::read_fixed(f, buffers, 0, n, at); });
  m.note_bytes(reinterpret_cast<const char*>(buffers[0].data()), got);

  iowq_test::listening const listener;
  iowq::fd const client = listener.call(), server = listener.take();
  iowq::const_bytes const bytes{m.bytes(), n};
  ::iovec part{m.bytes(), n};
  ::msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  co_await m.both(
      "send_zc", [&] { return ::send(client.get(), m.bytes(), n, MSG_NOSIGNAL); },
      [&] { return iowq::send_zc(client, bytes); });
  co_await m.both(
      "sendmsg_zc", [&] { return ::sendmsg(client.get(), &message, MSG_NOSIGNAL); },
      [&] { return iowq::sendmsg_zc(client, message); });
  m.note_bytes(m.room(), ::recv(server.get(), m.room(), 2 * n, MSG_WAITALL));
}

/// Files in slots of a table.
inline task<> slots(machine& m) {
  iowq::fd& f = m.file();
  iowq::fixed_files table{2};
  iowq::fixed_file in_slot, accepted;
  iowq::fd bare;  // what the first column has in their place
  std::size_t const n = 1 + m.below(5000);
  iowq::const_bytes const bytes{m.bytes(), n};
  iowq::mutable_bytes const into{m.room(), n};
  std::int64_t const at = m.offset();
  if (iowq::fd same{::fcntl(f.get(), F_DUPFD_CLOEXEC, 0)}) {
    if (!m.bare()) in_slot = table.add(std::move(same));
    co_await m.both(
        "write", [&] { return ::pwrite(f.get(), m.bytes(), n, at); },
        [&] { return iowq::pwrite(in_slot, bytes, at); });
    long const got = co_await m.both(
        "read", [&] { return ::pread(f.get(), m.room(), n, at); },
        [&] { return iowq::pread(in_slot, into, at); });
    m.note_bytes(m.room(), got);
    co_await m.both(
        "fsync", [&] { return ::fsync(f.get()); }, [&] { return iowq::fsync(in_slot); });
    iowq::fd copy;
    co_await m.both_into(
        copy, "dup_fixed", [&] { return ::fcntl(f.get(), F_DUPFD_CLOEXEC, 0); },
        [&] { return iowq::dup(in_slot); });
    co_await m.both(
        "close_fixed", [&] { return ::close(same.release()); },
        [&] { return iowq::close(std::move(in_slot)); });
  }
  iowq_test::listening const listener;
  iowq::fd const client = listener.call();
  co_await m.both(
      "accept_into",
      [&] {
        bare = listener.take();
        return 0;
      },
      [&] { return iowq::accept_into(listener.socket, table); },
      [&](iowq::fixed_file made) { return accepted = std::move(made), 0L; });
  co_await m.both(
      "send", [&] { return ::send(bare.get(), m.bytes(), n, MSG_NOSIGNAL); },
      [&] { return iowq::send(accepted, bytes); });
  m.note_bytes(m.room(), ::recv(client.get(), m.room(), n, MSG_WAITALL));
  co_await m.both(
      "poll",
      [&] {
        ::pollfd one{bare.get(), POLLOUT, 0};
        return ::poll(&one, 1, -1) < 0 ? -1 : one.revents;
      },
      [&] { return iowq::poll(accepted, POLLOUT); });
  if (::send(client.get(), m.bytes(), n, MSG_NOSIGNAL) < 0) co_return;
  long const got = co_await m.both(
      "recv", [&] { return ::recv(bare.get(), m.room(), n, MSG_WAITALL); },
      [&] { return iowq::recv(accepted, into, MSG_WAITALL); });
  m.note_bytes(m.room(), got);
  int const how = m.one_of<int>({SHUT_WR, SHUT_RDWR, 7});
  co_await m.both(
      "shutdown", [&] { return ::shutdown(bare.get(), how); },
      [&] { return iowq::shutdown(accepted, how); });
  co_await m.both(
      "close_fixed", [&] { return ::close(bare.release()); },
      [&] { return iowq::close(std::move(accepted)); });
}

/// What the user gives: an SQE, a callable, a name.
inline task<> the_users_own(machine& m) {
  iowq::fd& f = m.file();
  int const file = f.get();
  if (m.has_ring())
    co_await m.both(
        "raw", [=] { return ::fsync(file); },
        [=] {
          auto fill = [file](io_uring_sqe& sqe) {
            sqe.opcode = IORING_OP_FSYNC;
            sqe.fd = file;
          };
          return iowq::raw(fill);
        },
        [](iowq::raw_result end) { return static_cast<long>(end.res); });
  else
    m.note("raw " + std::to_string(::fsync(file) == 0 ? 0 : -errno));  // an SQE needs a ring
  auto call = [] { return 7; };
  co_await m.both("punt", call, [&] { return iowq::punt(call); });
  std::string const host = m.one_of<std::string>({"127.0.0.1", "::1", "not an address"});
  rows_used().insert("resolve");
  std::string found;
  if (m.bare()) {
    ::addrinfo wanted{}, *all = nullptr;
    wanted.ai_socktype = SOCK_STREAM;
    wanted.ai_flags = AI_NUMERICHOST;
    if (::getaddrinfo(host.c_str(), "80", &wanted, &all) == 0)
      found = iowq::endpoint{all->ai_addr, all->ai_addrlen}.to_string();
    if (all != nullptr) ::freeaddrinfo(all);
  } else {
    try {
      auto const all = co_await iowq::resolve(host, "80", AI_NUMERICHOST);
      found = all.front().to_string();
    } catch (const std::system_error&) {
    }
  }
  m.note("resolve " + found);
}

}  // namespace parity
