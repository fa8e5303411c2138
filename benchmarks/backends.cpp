// SPDX-License-Identifier: BSL-1.0
// The cost of a program without io_uring: the same coroutines on both backends, in one process, in
// random order. The floor of each row is the ring.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <iowq/iowq.hpp>

#include "ratio.hpp"

namespace {

using iowq::task;

/// A warm file of 1 MiB on a real file system. Its name remains in the directory.
const std::string& warm_path() {
  static std::string const path = [] {
    char name[] = "/var/tmp/iowq-backends-XXXXXX";
    int const made = ::mkstemp(name);
    std::vector<char> const block(1U << 20, 'x');
    if (made < 0 || ::write(made, block.data(), block.size()) != 1 << 20) {
      std::perror("a file of 1 MiB in /var/tmp");
      std::exit(1);
    }
    ::close(made);
    return std::string{name};
  }();
  return path;
}

struct alignas(4096) page : std::array<char, 4096> {};

/// One side sends a byte and the other replies with a byte, through sockets of one thread, like a
/// server.
task<> answers(int socket, std::uint64_t n) {
  char byte;
  for (; n != 0; --n) {
    co_await iowq::recv(socket, iowq::mutable_bytes{&byte, 1});
    co_await iowq::send(socket, iowq::const_bytes{&byte, 1});
  }
}
task<> asks(std::uint64_t n, unsigned) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  iowq::fd const here{ends[0]}, there{ends[1]};
  iowq::task_group both;
  both.spawn(answers(there.get(), n));
  char byte = 'x';
  for (; n != 0; --n) {
    co_await iowq::send(here, iowq::const_bytes{&byte, 1});
    co_await iowq::recv(here, iowq::mutable_bytes{&byte, 1});
  }
  co_await both.join();
}

task<> reads(std::uint64_t n, unsigned slot) {
  iowq::fd const file = co_await iowq::open(warm_path(), O_RDONLY);
  auto const into = std::make_unique<page>();
  for (; n != 0; --n) {
    auto const offset = static_cast<std::int64_t>((n * 7 + slot * 13) % 256 * 4096);
    if (co_await iowq::pread(file, *into, offset) != into->size()) std::abort();
  }
}
task<> opens(std::uint64_t n, unsigned) {
  for (; n != 0; --n) iowq::fd const file = co_await iowq::open(warm_path(), O_RDONLY);
}
task<> stats(std::uint64_t n, unsigned) {
  for (; n != 0; --n) (void)co_await iowq::stat(warm_path());
}
task<> sleeps(std::uint64_t n, unsigned) {
  for (; n != 0; --n) co_await iowq::sleep_for(std::chrono::nanoseconds{0});
}

using program = task<>(std::uint64_t n, unsigned slot);

task<> side_by_side(unsigned coroutines, std::uint64_t each, program* make) {
  for (unsigned i = 1; i < coroutines; ++i) iowq::executor::current().spawn(make(each, i));
  co_await make(each, 0U);
}

void add(const std::string& row, unsigned coroutines, std::uint64_t operations, program* make) {
  static iowq::executor ring{{.backend = iowq::backend_kind::io_uring}};
  static iowq::executor poll{{.backend = iowq::backend_kind::poll}};
  for (iowq::executor* const here : {&ring, &poll}) {
    char const* const rival = here == &ring ? "io_uring" : "poll";
    ratio::add(row + ' ' + std::to_string(coroutines) + '/' + rival, [=](benchmark::State& state) {
      ratio::measure(state, ratio::crosses::no, [=]() -> ratio::tally {
        std::uint64_t const entered = here->stats().entered;
        here->run(side_by_side(coroutines, operations / coroutines, make));
        return {operations, {{"enters", here->stats().entered - entered}}};
      });
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  add("round trip", 1, 5'000, asks);
  add("round trip", 64, 32'000, asks);
  add("pread", 1, 10'000, reads);
  add("pread", 64, 32'000, reads);
  add("open", 1, 5'000, opens);
  add("open", 64, 16'000, opens);
  add("stat", 1, 2'000, stats);
  add("stat", 64, 16'000, stats);
  add("sleep", 64, 64'000, sleeps);
  int const r = ratio::main(argc, argv);
  ::unlink(warm_path().c_str());
  return r;
}
