// SPDX-License-Identifier: BSL-1.0
// A static-file HTTP/1.1 server: GET, HEAD, keep-alive, pipelining, ranges, directories.
//
// A connection is one coroutine. A connection that stalls costs the memory of its coroutine frame,
// not a thread. Every path is opened beneath the root by openat2(RESOLVE_BENEATH), so neither "..",
// nor a link, nor a rename during the request leads out of the root. The server sends the file that
// it has opened, and never resolves a name a second time.
#include <fcntl.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include <iowq/iowq.hpp>

#include "http_reply.hpp"
#include "http_request.hpp"
#include "report.hpp"

namespace {

using namespace std::chrono_literals;
using example::http_request;
using example::request_parser;

struct server {
  iowq::fd root;
  unsigned most_connections = 10'000;
  unsigned connections = 0;
};

/// Thrown if a client left or a file shrank while it was sent: the connection then ends without a
/// reply.
struct connection_over {};

std::string head_of(int status, std::string_view type, std::uint64_t length, bool keep_alive,
                    std::string_view more = {}) {
  std::string head = "HTTP/1.1 " + std::to_string(status) + ' ';
  head.append(example::reason_of(status)).append("\r\nServer: iowq\r\nDate: ");
  head.append(example::http_date(std::time(nullptr))).append("\r\nContent-Type: ").append(type);
  head.append("\r\nContent-Length: ").append(std::to_string(length)).append("\r\n").append(more);
  return head.append(keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
}

iowq::task<> reply(int client, int status, std::string type, std::string body,
                   const http_request& request, std::string more = {}) {
  std::string text = head_of(status, type, body.size(), request.keep_alive, more);
  if (request.method != "HEAD") text += body;
  co_await iowq::send_all(client, text);
}

iowq::task<> reply_error(int client, int status, const http_request& request) {
  std::string body = std::to_string(status);
  body.append(" ").append(example::reason_of(status)).append("\n");
  return reply(client, status, "text/plain; charset=utf-8", std::move(body), request,
               status == 405 ? "Allow: GET, HEAD\r\n" : "");
}

int status_of(std::error_code error) {
  switch (error.value()) {
    case ENOENT:
    case ENOTDIR:
      return 404;
    case ENAMETOOLONG:
      return 414;
    case EINVAL:
      return 400;
    case EMFILE:
    case ENFILE:
      return 503;
    case EACCES:
    case EPERM:
    case EXDEV:  // the path leads out of the root
    case ELOOP:
    case ENXIO:
      return 403;  // the file is a socket
    default:
      return 500;
  }
}

iowq::task<> send_file(int client, iowq::fd file, iowq::file_status status, std::string type,
                       const http_request& request) {
  std::string const etag = '"' + std::to_string(status.inode()) + '-' +
                           std::to_string(status.modified().time_since_epoch().count()) + '"';
  auto answer = example::range_of(request.range, status.size());
  if (!request.if_range.empty() && request.if_range != etag)
    answer = {example::range_answer::whole, {0, status.size()}};
  std::string more = "Accept-Ranges: bytes\r\nETag: " + etag + "\r\nLast-Modified: " +
                     example::http_date(std::chrono::system_clock::to_time_t(
                         std::chrono::floor<std::chrono::seconds>(status.modified()))) +
                     "\r\n";
  std::string const size = std::to_string(status.size());
  if (answer.kind == example::range_answer::unsatisfiable) {
    more += "Content-Range: bytes */" + size + "\r\n";
    co_await reply(client, 416, "text/plain; charset=utf-8", "", request, more);
    co_return;
  }
  bool const part = answer.kind == example::range_answer::part;
  auto [next, left] = answer.bytes;
  if (part)
    more += "Content-Range: bytes " + std::to_string(next) + '-' + std::to_string(next + left - 1) +
            '/' + size + "\r\n";
  std::string const head = head_of(part ? 206 : 200, type, left, request.keep_alive, more);
  if (request.method == "HEAD") left = 0;
  // The head is sent with the first bytes of the file, so most files need one packet and one call.
  std::array<char, 32768> buffer;
  std::size_t filled = head.copy(buffer.data(), buffer.size());
  while (filled != 0) {
    while (left != 0 && filled < buffer.size()) {
      std::size_t const want = std::min<std::uint64_t>(buffer.size() - filled, left);
      std::size_t const got = co_await iowq::pread(file, std::span(buffer).subspan(filled, want),
                                                   static_cast<std::int64_t>(next));
      if (got == 0) throw connection_over{};  // the file shrank below the announced length
      filled += got, next += got, left -= got;
    }
    co_await iowq::send_all(client, std::span(buffer).first(filled));
    filled = 0;
    if (left == 0) break;
    filled = co_await iowq::pread(
        file, std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), left)),
        static_cast<std::int64_t>(next));
    if (filled == 0) throw connection_over{};
    next += filled, left -= filled;
  }
  co_await iowq::close(std::move(file));
}

iowq::task<> send_listing(int client, iowq::fd directory, std::string path,
                          const http_request& request) {
  std::vector<std::string> names;
  auto entries = iowq::read_directory(std::move(directory));
  while (auto entry = co_await entries.next()) {
    names.emplace_back(entry->name());
    if (entry->type() == iowq::file_type::directory) names.back() += '/';
  }
  std::sort(names.begin(), names.end());
  std::string const title = example::html_escaped('/' + path);
  std::string page =
      "<!doctype html>\n<title>" + title + "</title>\n<h1>" + title + "</h1>\n<ul>\n";
  if (!path.empty()) page += "<li><a href=\"../\">../</a>\n";
  for (const std::string& name : names)
    page += "<li><a href=\"./" + example::url_encoded(name) + "\">" + example::html_escaped(name) +
            "</a>\n";
  co_await reply(client, 200, "text/html; charset=utf-8", page + "</ul>\n", request);
}

iowq::task<> answer(server& here, int client, const http_request& request) {
  if (request.method != "GET" && request.method != "HEAD")
    co_return co_await reply_error(client, 405, request);
  auto const path = example::path_of(request.target);
  if (!path) co_return co_await reply_error(client, 400, request);

  // O_NONBLOCK: opening a FIFO does not block, and the FIFO is then refused. Regular files ignore
  // it.
  ::open_how how{};
  how.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  std::string const name = path->empty() ? "." : *path;
  auto opened = co_await iowq::as_result(iowq::openat2(here.root, name, how));
  if (!opened) co_return co_await reply_error(client, status_of(opened.error()), request);
  iowq::fd file = *std::move(opened);
  auto status = co_await iowq::fstat(file);
  if (status.is_directory()) {
    if (!path->empty() && path->back() != '/') {
      std::string const location = '/' + example::url_encoded(*path) + '/';
      co_return co_await reply(client, 301, "text/plain; charset=utf-8", "", request,
                               "Location: " + location + "\r\n");
    }
    auto index = co_await iowq::as_result(iowq::openat2(file, "index.html", how));
    if (!index) co_return co_await send_listing(client, std::move(file), *path, request);
    file = *std::move(index);
    status = co_await iowq::fstat(file);
    if (!status.is_regular()) co_return co_await reply_error(client, 403, request);
    co_return co_await send_file(client, std::move(file), status, "text/html; charset=utf-8",
                                 request);
  }
  if (!status.is_regular()) co_return co_await reply_error(client, 403, request);
  co_await send_file(client, std::move(file), status, std::string{example::content_type_of(*path)},
                     request);
}

/// Serves the requests of one client in order, until the client or the server closes the
/// connection.
iowq::task<> converse(server& here, int client) {
  request_parser parser;
  std::array<char, 4096> buffer;
  std::string_view unread;
  for (;;) {
    if (unread.empty()) {
      std::size_t const got = co_await iowq::recv(client, buffer);
      if (got == 0) co_return;
      unread = {buffer.data(), got};
    }
    std::size_t used = 0;
    auto const state = parser.feed(unread, used);
    unread.remove_prefix(used);
    if (state == request_parser::state::incomplete) continue;
    if (state != request_parser::state::complete) {
      int const status = state == request_parser::state::target_too_long ? 414
                         : state == request_parser::state::head_too_long ? 431
                                                                         : 400;
      http_request const nonsense{.method = "GET", .target = {}, .range = {}, .if_range = {}};
      co_await reply_error(client, status, nonsense);
      co_await iowq::shutdown(client, SHUT_WR);
      // Read the data still in flight. Otherwise the reset could overtake the reply.
      for (int rounds = 0; rounds < 64; ++rounds) {
        std::size_t const more = co_await iowq::recv(client, buffer);
        if (more == 0) break;
      }
      co_return;
    }
    co_await answer(here, client, parser.request());
    if (!parser.request().keep_alive) co_return;
    parser.next();
  }
}

iowq::task<> connection(server& here, iowq::fd client) {
  struct count {
    unsigned& n;
    explicit count(unsigned& all) : n{++all} {}
    ~count() { --n; }
  } const counted{here.connections};
  try {
    co_await converse(here, client.get());
  } catch (const connection_over&) {
  } catch (const std::system_error&) {
    // The client left, reset the connection, or the server stops: no error to report.
  }
  co_await iowq::close(std::move(client));
}

iowq::task<> serve(server& here, iowq::endpoint where, std::string root) {
  here.root = co_await iowq::open(root, O_PATH | O_DIRECTORY);
  iowq::fd listener = co_await iowq::socket(where.family(), SOCK_STREAM);
  int const on = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  co_await iowq::bind(listener, where);
  co_await iowq::listen(listener);
  std::cout << "serving " << root << " on http://"
            << iowq::endpoint::local_of(listener.get()).to_string() << '/' << std::endl;
  for (;;) {
    auto client = co_await iowq::as_result(iowq::accept(listener));
    if (client) {
      ::setsockopt(client->get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      iowq::executor::current().spawn(connection(here, *std::move(client)));
    } else if (client.error() == std::errc::operation_canceled) {
      break;
    }
    // Out of descriptors or connections: wait until others end. Any other error concerns one client
    // only.
    // error() does not read the value, which was moved.  NOLINTNEXTLINE(bugprone-use-after-move)
    bool const exhausted = client.error() == std::errc::too_many_files_open ||
                           client.error() == std::errc::too_many_files_open_in_system;
    while (exhausted || here.connections >= here.most_connections) {
      co_await iowq::sleep_for(10ms);
      if (here.connections < here.most_connections) break;
    }
  }
}

iowq::executor* running = nullptr;

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli{"Serves the files of a directory over HTTP, until SIGINT or SIGTERM."};
  std::string root = ".", address = "127.0.0.1";
  std::uint16_t port = 8080;
  server here;
  cli.add_option("root", root, "the directory")->capture_default_str();
  cli.add_option("--address", address, "where to listen")->capture_default_str();
  cli.add_option("--port", port, "0: any that is free")->capture_default_str();
  cli.add_option("--connections", here.most_connections, "at once")
      ->check(CLI::Range(1U, 1'000'000U))
      ->capture_default_str();
  CLI11_PARSE(cli, argc, argv);

  try {
    iowq::executor executor;
    running = &executor;
    struct sigaction stop{};
    stop.sa_handler = [](int) { running->request_stop(); };
    for (int const signal : {SIGINT, SIGTERM}) ::sigaction(signal, &stop, nullptr);
    executor.run(serve(here, iowq::endpoint::ip(address, port), root));
    example::print_where_the_work_went(std::cout, executor.stats());
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "serve: " << root << " on " << address << ':' << port << ": " << error.what()
              << '\n';
    return 1;
  }
}
