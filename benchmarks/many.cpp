// SPDX-License-Identifier: BSL-1.0
// The gain of multishot requests, for datagrams, bytes of a stream and connections. Each is
// received by one await for each result, by a stream of single operations, and by a stream of one
// multishot request. The other side is a plain system call in the same thread and is part of every
// number.
#include <benchmark/benchmark.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <iowq/iowq.hpp>

#include "ratio.hpp"

namespace {

using iowq::multishot;
using iowq::task;

constexpr unsigned burst = 64;

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

struct two {
  iowq::fd in, out;
};
two local(int type) {
  int ends[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) fail("socketpair");
  return {iowq::fd{ends[0]}, iowq::fd{ends[1]}};
}
iowq::fd listener(iowq::endpoint& where) {
  iowq::fd made{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  auto const any = iowq::endpoint::ip("127.0.0.1", 0);
  if (::bind(made.get(), any.address(), any.size()) != 0 || ::listen(made.get(), 1024) != 0)
    fail("listen");
  where = iowq::endpoint::local_of(made.get());
  return made;
}
two tcp() {
  iowq::endpoint where;
  iowq::fd const from = listener(where);
  two both;
  both.out.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(both.out.get(), where.address(), where.size()) != 0) fail("connect");
  int const yes = 1;  // else the end of a burst waits for an acknowledgement
  ::setsockopt(both.out.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  both.in.reset(::accept4(from.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return both;
}

enum class how { calls, awaits, stream_of_single, stream_of_many };

/// Receives `n` messages of `size` bytes. `at_once` messages are sent before the first is received.
task<> messages(how way, two& ends, unsigned n, std::size_t size, unsigned at_once) {
  std::vector<char> const text(size, 'm');
  std::vector<char> buffer(size);
  iowq::buffer_ring buffers{128, size,
                            way == how::stream_of_many ? multishot::automatic : multishot::off};
  auto incoming = iowq::recv_many(ends.in, buffers);
  for (unsigned done = 0; done < n; done += at_once) {
    for (unsigned i = 0; i < at_once; ++i)
      if (::send(ends.out.get(), text.data(), size, 0) < 0) fail("send");
    for (std::size_t left = at_once * size; left != 0;) {
      if (way == how::calls) {
        left -= static_cast<std::size_t>(::recv(ends.in.get(), buffer.data(), size, 0));
      } else if (way == how::awaits) {
        left -= co_await iowq::recv(ends.in, buffer);
      } else {
        auto one = co_await incoming.next();
        left -= one->size();
      }
    }
  }
}

/// Passes one message back and forth between two coroutines. The receiver waits before the message
/// is sent.
task<> player(how way, int in, int out, unsigned n, bool begins) {
  std::array<char, 64> text{};
  iowq::buffer_ring buffers{8, text.size(),
                            way == how::stream_of_many ? multishot::automatic : multishot::off};
  auto incoming = iowq::recv_many(in, buffers);
  for (; n != 0; --n) {
    if (begins && ::send(out, text.data(), text.size(), 0) < 0) fail("send");
    if (way == how::calls) {
      while (::recv(in, text.data(), text.size(), MSG_DONTWAIT) < 0) co_await iowq::yield();
    } else if (way == how::awaits) {
      static_cast<void>(co_await iowq::recv(in, text));
    } else {
      static_cast<void>(co_await incoming.next());
    }
    if (!begins && ::send(out, text.data(), text.size(), 0) < 0) fail("send");
  }
}
task<> ping_pong(how way, unsigned n) {
  two there = local(SOCK_DGRAM), back = local(SOCK_DGRAM);
  co_await iowq::when_all(player(way, back.in.get(), there.out.get(), n / 2, true),
                          player(way, there.in.get(), back.out.get(), n / 2, false));
}

task<> connections(how way, unsigned n) {
  iowq::endpoint where;
  iowq::fd const from = listener(where);
  auto incoming = iowq::accept_many(
      from, 0, way == how::stream_of_many ? multishot::automatic : multishot::off);
  std::vector<iowq::fd> clients(burst);
  ::linger const hard{1, 0};  // avoid too many sockets in TIME_WAIT
  for (unsigned done = 0; done < n; done += burst) {
    for (iowq::fd& one : clients) {
      one.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      ::setsockopt(one.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
      if (::connect(one.get(), where.address(), where.size()) != 0) fail("connect");
    }
    for (unsigned i = 0; i < burst; ++i) {
      iowq::fd accepted;
      if (way == how::calls) {
        accepted.reset(::accept4(from.get(), nullptr, nullptr, SOCK_CLOEXEC));
      } else if (way == how::awaits) {
        accepted = co_await iowq::accept(from);
      } else {
        auto one = co_await incoming.next();
        accepted = std::move(*one);
      }
      ::setsockopt(accepted.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
  }
}

void add(const std::string& row, std::function<task<>(how, unsigned)> job, unsigned operations) {
  struct rival {
    how way;
    const char* name;
  };
  for (rival const r : {rival{how::calls, "system calls"}, rival{how::awaits, "await each"},
                        rival{how::stream_of_single, "stream, single"},
                        rival{how::stream_of_many, "stream, multishot"}})
    ratio::add(row + '/' + r.name, [=](benchmark::State& state) {
      iowq::executor here;
      ratio::measure(state, ratio::crosses::no, [&] {
        std::uint64_t const entered = here.stats().entered;
        here.run(job(r.way, operations));
        return ratio::tally{operations, {{"enters", here.stats().entered - entered}}};
      });
    });
}

task<> datagrams(how way, unsigned n, unsigned at_once) {
  two ends = local(SOCK_DGRAM);
  co_await messages(way, ends, n, 64, at_once);
}
task<> bytes(how way, unsigned n) {
  two ends = tcp();
  co_await messages(way, ends, n, 4096, 16);
}

}  // namespace

int main(int argc, char** argv) {
  auto const of_64 = [](how way, unsigned n) { return datagrams(way, n, burst); };
  add("64 B to and fro", ping_pong, 4096);
  add("64 B of 64", of_64, 8192);
  add("4 KiB of TCP of 16", bytes, 4096);
  add("connection of 64", connections, 1024);
  return ratio::main(argc, argv);
}
