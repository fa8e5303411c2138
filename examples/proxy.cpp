// SPDX-License-Identifier: BSL-1.0
// Forwards TCP connections. Data from a client goes to the server, and data from the server to the
// client, by splice(2) through a pipe, so no byte is copied into this process.
//
// The two directions of a connection end separately. When one side shuts down its sending
// direction, the proxy shuts down the same direction towards the other side and keeps forwarding
// the opposite direction. A reset is forwarded as a reset.
//
// A blocking splice would occupy a worker. So splice never blocks here: the sockets are O_NONBLOCK,
// and the proxy waits on the ring until they are ready. An idle connection uses no thread.
#include <fcntl.h>
#include <netinet/tcp.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <iostream>
#include <string>
#include <system_error>
#include <utility>

#include <iowq/iowq.hpp>

#include "report.hpp"

namespace {

using namespace std::chrono_literals;

struct options {
  std::string host, service;
  std::string address = "127.0.0.1";
  std::uint16_t port = 0;
  unsigned connections = 1000;
  bool stats = false;
};

constexpr std::size_t pipe_size = 65536;

/// A splice(2) that waits on the ring until the end that is not ready becomes ready.
iowq::task<std::size_t> splice_when_ready(const iowq::fd& from, const iowq::fd& to,
                                          const iowq::fd& socket, short events, std::size_t size) {
  for (;;) {
    auto const moved = co_await iowq::as_result(
        iowq::splice(from, {}, to, {}, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK));
    if (moved) co_return *moved;
    if (moved.error() != std::errc::resource_unavailable_try_again)
      throw std::system_error{moved.error()};
    co_await iowq::poll(socket, events);
  }
}

/// Forwards one direction until its sender shuts down.
iowq::task<> relay(const iowq::fd& from, const iowq::fd& to) {
  auto ends = co_await iowq::pipe();
  for (;;) {
    co_await iowq::poll(from, POLLIN);
    std::size_t left = co_await splice_when_ready(from, ends.second, from, POLLIN, pipe_size);
    if (left == 0) break;
    while (left != 0) left -= co_await splice_when_ready(ends.first, to, to, POLLOUT, left);
  }
  co_await iowq::shutdown(to, SHUT_WR);
}

iowq::task<> pass_on(iowq::fd client, const options& wanted) {
  iowq::fd server = co_await iowq::connect_to(wanted.host, wanted.service);
  ::fcntl(server.get(), F_SETFL, ::fcntl(server.get(), F_GETFL) | O_NONBLOCK);
  for (const iowq::fd* end : {&client, &server})
    co_await iowq::setsockopt(*end, IPPROTO_TCP, TCP_NODELAY, true);
  // A connection that was reset can be neither read nor written, so both directions end together.
  auto both = iowq::when_all(relay(client, server), relay(server, client));
  auto const ended = co_await iowq::as_result(std::move(both));
  if (!ended) {
    // Reset the other side too, so that it does not take the data it has received for complete.
    ::linger const at_once{.l_onoff = 1, .l_linger = 0};
    for (const iowq::fd* end : {&client, &server})
      co_await iowq::setsockopt(*end, SOL_SOCKET, SO_LINGER, at_once);
  }
  co_await iowq::close(std::move(server));
  co_await iowq::close(std::move(client));
}

iowq::task<> connection(iowq::fd client, const options& wanted, iowq::semaphore& room) {
  try {
    co_await pass_on(std::move(client), wanted);
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::operation_canceled)
      std::cerr << "proxy: " << error.what() << '\n';
  }
  room.release();
}

iowq::task<> serve(const options& wanted) {
  auto const listener = co_await iowq::listen_on(iowq::endpoint::ip(wanted.address, wanted.port));
  std::cout << "passing " << iowq::endpoint::local_of(listener.get()).to_string() << " on to "
            << wanted.host << ':' << wanted.service << std::endl;
  iowq::semaphore room{wanted.connections};
  iowq::task_group all;
  for (;;) {
    co_await room.acquire();
    auto client = co_await iowq::as_result(iowq::accept(listener, SOCK_NONBLOCK));
    if (client) {
      all.spawn(connection(*std::move(client), wanted, room));
      continue;
    }
    room.release();
    if (client.error() == std::errc::operation_canceled) break;
    // Out of descriptors: wait until other connections end. Any other error concerns one client
    // only.
    if (client.error() == std::errc::too_many_files_open) co_await iowq::sleep_for(10ms);
  }
  co_await all.join();
}

iowq::executor* running = nullptr;

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Passes TCP connections on, until SIGINT or SIGTERM", "proxy"};
  options wanted;
  app.add_option("host", wanted.host, "the server")->required();
  app.add_option("service", wanted.service, "its port, or a name")->required();
  app.add_option("--address", wanted.address, "where to listen")->capture_default_str();
  app.add_option("--port", wanted.port, "0: any that is free")->capture_default_str();
  app.add_option("--connections", wanted.connections, "at once")
      ->check(CLI::Range(1U, 1'000'000U))
      ->capture_default_str();
  app.add_flag("--stats", wanted.stats, "say at the end where the work went");
  CLI11_PARSE(app, argc, argv);
  try {
    iowq::executor executor;
    running = &executor;
    struct sigaction stop{};
    stop.sa_handler = [](int) { running->request_stop(); };
    for (int const signal : {SIGINT, SIGTERM}) ::sigaction(signal, &stop, nullptr);
    executor.run(serve(wanted));
    if (wanted.stats) example::print_where_the_work_went(std::cerr, executor.stats());
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "proxy: " << error.what() << '\n';
    return 1;
  }
}
