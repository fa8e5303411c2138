// SPDX-License-Identifier: BSL-1.0
// Passes TCP connections on: what comes from a client goes to the server and back, by splice(2)
// through a pipe, so that no byte is ever copied into this process.
//
// The two directions of a connection end one by one: whoever has no more to say shuts down his
// side, which is passed on, and goes on listening. A reset is passed on as a reset.
//
// A splice that waits would keep a worker, so it never does: the sockets are O_NONBLOCK, and their
// readiness is waited for on the ring. An idle connection costs no thread.
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

/// splice(2) that waits on the ring, for whichever end is not ready.
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

/// One direction, until whoever speaks has no more to say.
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
  // Who is reset can neither be read nor written: the other direction ends with this one.
  auto both = iowq::when_all(relay(client, server), relay(server, client));
  auto const ended = co_await iowq::as_result(std::move(both));
  if (!ended) {
    // ... and the other side shall not take what came for all there was.
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
    // Out of descriptors: others must end first. Other errors are one client's.
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
