// SPDX-License-Identifier: BSL-1.0
// A TCP server that sends back what it receives, one coroutine per connection; ends at SIGINT.
#include <array>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <system_error>

#include <iowq/iowq.hpp>

iowq::task<> echo(iowq::fd peer) try {
  std::array<std::byte, 4096> buffer;
  while (auto size = co_await iowq::recv(peer, buffer))
    co_await iowq::send_all(peer, std::span{buffer}.first(size));
} catch (const std::system_error&) {  // the peer is gone
}

iowq::task<> serve(iowq::endpoint where) {
  iowq::fd listener = co_await iowq::listen_on(where);
  for (;;) iowq::executor::current().spawn(echo(co_await iowq::accept(listener)));
}

iowq::task<> until_asked(iowq::endpoint where) {
  co_await iowq::when_any(serve(where), iowq::until_signal({SIGINT, SIGTERM}));
  iowq::executor::current().request_stop();  // ends the connections
}

int main(int argc, char** argv) {
  auto const port = static_cast<std::uint16_t>(argc > 1 ? std::atoi(argv[1]) : 7777);
  iowq::run(until_asked(iowq::endpoint::ip("127.0.0.1", port)));
}
