// SPDX-License-Identifier: BSL-1.0
// A chat server with rooms, on all processors. Try it with several `nc localhost 7777`: the first
// line is your name, `/join ROOM` moves you to that room, and every other line is sent to your
// room.
//
// Each executor accepts connections on its own listener. All listeners share one port
// (SO_REUSEPORT: the kernel spreads the clients over them). Each room belongs to the executor that
// the hash of its name selects. Executors share no data and take no locks: a line goes to the
// channel of the room's executor, which sends it to the channel of each member, on whatever
// executor the member is. A member that does not read fills its own channel and is disconnected; no
// other member waits for it.
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <iowq/iowq.hpp>

namespace {

using namespace std::chrono_literals;
using line = std::shared_ptr<const std::string>;  // shared by all its receivers

constexpr std::size_t longest_line = 1024;
constexpr std::size_t patience = 4096;  // unread lines of a member, not counting its socket's

/// A connected client. Rooms on any thread fill its outbox.
struct member {
  std::string name;
  iowq::channel<line> outbox{patience};
  iowq::stop_source shown_out;
};
using guest = std::shared_ptr<member>;

struct happening {
  enum { joins, leaves, says } what = says;
  std::string room;
  guest who;
  std::string text = {};
};

/// The rooms of one executor, and the channel of events for them.
struct hall {
  iowq::channel<happening> news{128};
  std::map<std::string, std::set<guest>, std::less<>> rooms;
};

struct server {
  explicit server(std::size_t size) : halls(size) {
    for (auto& each : halls) each = std::make_unique<hall>();
  }
  hall& of(std::string_view room) {
    return *halls[std::hash<std::string_view>{}(room) % halls.size()];
  }
  std::vector<std::unique_ptr<hall>> halls;
};

void tell(std::set<guest>& room, std::string text) {
  auto const shared = std::make_shared<const std::string>(std::move(text));
  std::erase_if(room, [&](const guest& one) {
    if (one->outbox.try_send(line{shared})) return false;
    one->shown_out.request_stop();  // the member does not read, or has left
    return true;
  });
}

iowq::task<> run_rooms(hall& here) {
  while (auto news = co_await here.news.recv()) {
    auto& room = here.rooms[news->room];
    std::string const sign = news->room + ' ' + news->who->name;
    switch (news->what) {
      case happening::joins:
        room.insert(news->who);
        tell(room, "* " + sign + " joined\n");
        break;
      case happening::leaves:
        if (room.erase(news->who) != 0) tell(room, "* " + sign + " left\n");
        break;
      case happening::says:
        tell(room, sign + ": " + news->text + '\n');
        break;
    }
    if (room.empty()) here.rooms.erase(news->room);
  }
}

/// Splits what a client sends into lines.
class reader {
 public:
  explicit reader(int client) : client_{client} {}

  /// Returns std::nullopt at the end of the stream or if a line is too long.
  iowq::task<std::optional<std::string>> next() {
    for (;;) {
      if (auto const end = text_.find('\n'); end != text_.npos) {
        std::string one = text_.substr(0, end);
        text_.erase(0, end + 1);
        if (!one.empty() && one.back() == '\r') one.pop_back();
        co_return one;
      }
      if (text_.size() > longest_line) co_return std::nullopt;
      std::size_t const got = co_await iowq::recv(client_, buffer_);
      if (got == 0) co_return std::nullopt;
      text_.append(buffer_.data(), got);
    }
  }

 private:
  int client_;
  std::string text_;
  std::array<char, 1024> buffer_;
};

iowq::task<> report(server& all, happening news) {
  auto& there = all.of(news.room).news;
  co_await there.send(std::move(news));
}

/// Leaves `room` and joins `to`. An empty `to` means no room.
iowq::task<> go(server& all, guest self, std::string& room, std::string to) {
  if (!room.empty()) {
    happening left{happening::leaves, std::exchange(room, {}), self};
    co_await report(all, std::move(left));
  }
  if (to.empty()) co_return;
  room = to;
  happening joined{happening::joins, std::move(to), std::move(self)};
  co_await report(all, std::move(joined));
}

iowq::task<> listen_to(server& all, int client, guest self, std::string& room) {
  constexpr std::string_view join = "/join ";
  try {
    reader lines{client};
    auto name = co_await lines.next();
    if (!name || name->empty()) co_return;
    self->name = *std::move(name);
    line welcome = std::make_shared<const std::string>("welcome " + self->name + '\n');
    co_await self->outbox.send(std::move(welcome));
    while (auto said = co_await lines.next()) {
      if (said->starts_with(join)) {
        co_await go(all, self, room, said->substr(join.size()));
      } else if (*said == "/quit") {
        co_return;
      } else if (!room.empty() && !said->empty()) {
        happening spoken{happening::says, room, self, *std::move(said)};
        co_await report(all, std::move(spoken));
      }
    }
  } catch (const std::system_error&) {
    // The client left, reset the connection, was disconnected, or the server stops: no error to
    // report.
  }
}

iowq::task<> talk_to(int client, guest self) {
  try {
    while (auto first = co_await self->outbox.recv()) {
      std::string text = **first;
      while (text.size() < 65536) {  // lines that arrived since then are sent with it
        auto const more = self->outbox.try_recv();
        if (!more) break;
        text += **more;
      }
      co_await iowq::send_all(client, text);
    }
  } catch (const std::system_error&) {
  }
}

iowq::task<> connection(server& all, iowq::fd client) {
  auto const self = std::make_shared<member>();
  std::string room;
  {
    // Runs until one of the two ends. Both end when the member is disconnected or the server stops.
    iowq::stop_token const everything = co_await iowq::ambient_stop();
    auto const pass_on = [&self] { self->shown_out.request_stop(); };
    iowq::stop_callback<decltype(pass_on)> const inherited{everything, pass_on};
    auto both =
        iowq::when_any(listen_to(all, client.get(), self, room), talk_to(client.get(), self));
    (void)co_await iowq::with_stop(self->shown_out.get_token(), std::move(both));
  }
  auto goodbye = iowq::as_result(go(all, self, room, {}));
  (void)co_await goodbye;  // fails if the rooms are stopped already
  self->outbox.close();
  co_await iowq::close(std::move(client));
}

iowq::task<> accept_clients(server& all, iowq::fd listener) {
  for (;;) {
    auto client = co_await iowq::as_result(iowq::accept(listener));
    if (client)
      iowq::executor::current().spawn(connection(all, *std::move(client)));
    else if (client.error() == std::errc::operation_canceled)
      co_return;
    else  // out of descriptors: wait until other clients leave
      co_await iowq::sleep_for(10ms);
  }
}

iowq::task<std::vector<iowq::fd>> listen_on_all(iowq::endpoint where, std::size_t count) {
  std::vector<iowq::fd> listeners;
  int const on = 1;
  while (listeners.size() < count) {
    iowq::fd one = co_await iowq::socket(where.family(), SOCK_STREAM);
    ::setsockopt(one.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    ::setsockopt(one.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    co_await iowq::bind(one, where);
    co_await iowq::listen(one);
    where = iowq::endpoint::local_of(one.get());  // later listeners use the port of the first
    listeners.push_back(std::move(one));
  }
  std::cout << "chat on " << where.to_string() << ", " << count << " threads" << std::endl;
  co_return listeners;
}

iowq::task<> stop_on_signal(iowq::runtime& threads) {
  int const signal = co_await iowq::until_signal({SIGINT, SIGTERM});
  std::cout << "stopped by signal " << signal << std::endl;
  threads.request_stop();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli{"A chat server with rooms, until SIGINT or SIGTERM."};
  std::string address = "127.0.0.1";
  std::uint16_t port = 7777;
  iowq::runtime_options options{.threads = std::max(1U, std::thread::hardware_concurrency())};
  cli.add_option("--address", address, "where to listen")->capture_default_str();
  cli.add_option("--port", port, "0: any that is free")->capture_default_str();
  cli.add_option("--threads", options.threads, "one executor each")
      ->check(CLI::Range(1U, 1024U))
      ->capture_default_str();
  cli.add_flag("--pin", options.pin, "each thread to a processor");
  CLI11_PARSE(cli, argc, argv);

  try {
    server all{options.threads};  // outlives the coroutines that use it
    auto listeners = iowq::run(listen_on_all(iowq::endpoint::ip(address, port), options.threads));
    iowq::runtime threads{options};
    threads.at(0).post(stop_on_signal(threads));
    for (std::size_t i = 0; i < threads.size(); ++i) {
      threads.at(i).post(run_rooms(*all.halls[i]));
      threads.at(i).post(accept_clients(all, std::move(listeners[i])));
    }
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "chat: " << address << ':' << port << ": " << error.what() << '\n';
    return 1;
  }
}
