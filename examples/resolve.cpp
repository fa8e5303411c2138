// SPDX-License-Identifier: BSL-1.0
// Prints the addresses of HOST and SERVICE, best first. With --connect it prints the address that a
// connection could be made to. With --timeout it gives up in time, although a blocked
// getaddrinfo(3) cannot be interrupted.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <iowq/iowq.hpp>

namespace {

struct options {
  std::string host, service;
  bool connect = false;
  double timeout = 0;  // seconds; 0: none
};

iowq::task<> give_up_after(double seconds) {
  co_await iowq::sleep_for(std::chrono::duration<double>{seconds});
  iowq::executor::current().request_stop();
}

iowq::task<int> answer(const options& wanted) {
  iowq::executor& here = iowq::executor::current();
  if (wanted.timeout > 0) here.spawn(give_up_after(wanted.timeout));
  int exit_code = 0;
  auto const found = co_await iowq::as_result(iowq::resolve(wanted.host, wanted.service));
  if (found) {
    for (const iowq::endpoint& one : *found) std::cout << one.to_string() << '\n';
    if (wanted.connect) {
      auto const socket = co_await iowq::as_result(iowq::connect_to(*found));
      if (socket)
        std::cout << "connected to " << iowq::endpoint::peer_of(socket->get()).to_string() << '\n';
      else
        std::cerr << "resolve: connect: " << socket.error().message() << '\n';
      exit_code = socket ? 0 : 1;
    }
  } else {
    std::cerr << "resolve: " << wanted.host << ": " << found.error().message() << '\n';
    exit_code = 1;
  }
  if (found.error() == std::errc::operation_canceled) {
    // The worker is still in getaddrinfo(3). An executor waits for its workers, but a program that
    // exits need not.
    std::cout.flush();
    std::_Exit(exit_code);
  }
  here.request_stop();  // cancel the timer
  co_return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Where a service is", "resolve"};
  options wanted;
  app.add_option("host", wanted.host, "a name, or an address in numbers")->required();
  app.add_option("service", wanted.service, "a name, or a port")->required();
  app.add_flag("--connect", wanted.connect, "connect to it, too");
  app.add_option("--timeout", wanted.timeout, "give up after so many seconds")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  return iowq::run(answer(wanted));
}
