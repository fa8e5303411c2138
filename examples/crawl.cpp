// SPDX-License-Identifier: BSL-1.0
// Fetches a list of URLs, at most `--jobs` at a time. Each attempt has a time limit. A failure that
// may be temporary is retried, with a longer pause each time: no answer, a broken connection, or a
// server that says it is busy. A permanent failure, such as 404, is not retried.
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <iowq/iowq.hpp>

#include "http_response.hpp"
#include "report.hpp"

namespace {

using example::response_parser;
using std::chrono::milliseconds;

struct options {
  unsigned jobs = 16, attempts = 4;
  milliseconds timeout{2000}, pause{50};
};

struct address {
  std::string host, port, path;
};

/// Splits "http://host[:port][/path]". Throws invalid_argument for anything else.
address address_of(std::string_view url) {
  auto const fail = [] { throw std::system_error{EINVAL, std::system_category(), "not a URL"}; };
  constexpr std::string_view scheme = "http://";
  if (!url.starts_with(scheme)) fail();
  url.remove_prefix(scheme.size());
  auto const slash = std::min(url.find('/'), url.size());
  std::string_view authority = url.substr(0, slash);
  auto const colon = authority.rfind(':');
  bool const has_port = colon != authority.npos && authority.back() != ']';
  address found{std::string{authority.substr(0, has_port ? colon : authority.npos)},
                has_port ? std::string{authority.substr(colon + 1)} : "80",
                slash == url.size() ? "/" : std::string{url.substr(slash)}};
  if (found.host.starts_with('[') && found.host.ends_with(']'))
    found.host = found.host.substr(1, found.host.size() - 2);
  bool const clean = found.path.find_first_of(" \r\n\t") == found.path.npos;
  if (found.host.empty() || found.port.empty() || !clean) fail();
  return found;
}

struct answer {
  int status;
  std::size_t bytes;
};

iowq::task<answer> fetch_once(const address& from) {
  iowq::fd server = co_await iowq::connect_to(from.host, from.port);
  std::string const request = "GET " + from.path + " HTTP/1.1\r\nHost: " + from.host + ':' +
                              from.port + "\r\nConnection: close\r\n\r\n";
  co_await iowq::send_all(server, request);
  response_parser parser;
  std::array<char, 16384> buffer;
  for (;;) {
    std::size_t const got = co_await iowq::recv(server, buffer);
    switch (parser.feed({buffer.data(), got})) {
      case response_parser::state::incomplete:
        continue;
      case response_parser::state::complete:
        co_return answer{parser.status(), parser.body()};
      case response_parser::state::malformed:
        // The response was cut off, or is not HTTP.
        throw std::system_error{EPROTO, std::system_category(), "the response"};
    }
  }
}

/// Too many requests, or an error of the server: both may be temporary.
bool may_pass(int status) { return status == 429 || status >= 500; }

iowq::task<bool> fetch(const options& wanted, const std::string& url) {
  address const from = address_of(url);
  std::string why;
  for (unsigned attempt = 1; attempt <= wanted.attempts; ++attempt) {
    if (attempt != 1) co_await iowq::sleep_for(wanted.pause * (1U << (attempt - 2)));
    auto limited = iowq::as_result(iowq::timeout(fetch_once(from), wanted.timeout));
    auto const got = co_await limited;
    if (got && !may_pass(got->status)) {
      std::cout << got->status << ' ' << got->bytes << ' ' << attempt << ' ' << url << '\n';
      co_return got->status < 400;
    }
    if (!got && got.error() == std::errc::operation_canceled)
      throw std::system_error{got.error(), url};  // this program was asked to stop
    why = got ? "status " + std::to_string(got->status) : got.error().message();
  }
  std::cout << "failed: " << why << ": " << url << '\n';
  co_return false;
}

iowq::task<unsigned> crawl(const options& wanted, const std::vector<std::string>& urls) {
  unsigned failed = 0;
  auto const one = [&wanted, &failed](const std::string& url) {
    auto const counted = [](const options& o, const std::string& u, unsigned& n) -> iowq::task<> {
      try {
        if (!co_await fetch(o, u)) ++n;
      } catch (const std::system_error& error) {
        if (error.code() == std::errc::operation_canceled) throw;
        std::cout << "failed: " << error.code().message() << ": " << u << '\n';
        ++n;
      }
    };
    return counted(wanted, url, failed);
  };
  co_await iowq::for_each(urls, wanted.jobs, one);
  co_return failed;
}

iowq::executor* running = nullptr;

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli{"Fetches URLs, a line each: status, bytes, attempts. Exit status 1 if any failed."};
  options wanted;
  std::vector<std::string> urls;
  std::string list;
  cli.add_option("urls", urls, "http://...");
  cli.add_option("--from", list, "a file with a URL a line; -: the standard input");
  cli.add_option("--jobs", wanted.jobs, "at a time")->check(CLI::Range(1U, 10'000U));
  cli.add_option("--attempts", wanted.attempts, "for each")->check(CLI::Range(1U, 20U));
  unsigned timeout = 2000, pause = 50;
  cli.add_option("--timeout", timeout, "of an attempt, in ms")->capture_default_str();
  cli.add_option("--pause", pause, "before the second attempt, in ms; then twice as long each time")
      ->capture_default_str();
  CLI11_PARSE(cli, argc, argv);
  wanted.timeout = milliseconds{timeout};
  wanted.pause = milliseconds{pause};
  try {
    std::ifstream file;
    if (!list.empty() && list != "-") {
      file.open(list);
      if (!file) throw std::system_error{errno, std::system_category(), list};
    }
    if (!list.empty())
      for (std::string url; std::getline(list == "-" ? std::cin : file, url);)
        if (!url.empty()) urls.push_back(url);

    iowq::executor executor;
    running = &executor;
    struct sigaction stop{};
    stop.sa_handler = [](int) { running->request_stop(); };
    for (int const signal : {SIGINT, SIGTERM}) ::sigaction(signal, &stop, nullptr);
    unsigned const failed = executor.run(crawl(wanted, urls));
    example::print_where_the_work_went(std::cerr, executor.stats());
    return failed == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "crawl: " << error.what() << '\n';
    return 2;
  }
}
