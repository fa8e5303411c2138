// SPDX-License-Identifier: BSL-1.0
// The cost of an await compared with the same work on the bare system interface. Floor and layer
// run in one process, in random order, many times. The result is the ratio of their medians.
//
//   await                      the table of ratios (Google Benchmark's options apply)
//   await --count WAY N        runs WAY for N operations and nothing else: for callgrind
//
// Floor of the ring rows: a loop on liburing with the same set-up flags, submit-and-wait and one
// pass over the CQEs. Floor of the task call: a plain function that cannot be inlined.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <iowq/iowq.hpp>

#include "ratio.hpp"
#include "raw_ring.hpp"

namespace {

constexpr unsigned file_size = 1U << 20;

/// A warm 1 MiB file that has no name.
int warm_file() {
  static int const fd = [] {
    char name[] = "/var/tmp/iowq-await-XXXXXX";  // a real file system: tmpfs behaves differently
    int const made = ::mkstemp(name);
    std::vector<char> const block(file_size, 'x');
    if (made < 0 || ::write(made, block.data(), block.size()) != file_size) {
      std::perror("a file of 1 MiB in /var/tmp");
      std::exit(1);
    }
    ::unlink(name);
    return made;
  }();
  return fd;
}

/// The buffer for the reads of a slot. It is aligned, and the same for floor and layer: at an
/// address a few bytes into a page, which malloc() returns, some processors copy a page ten times
/// more slowly.
struct alignas(4096) page : std::array<char, 4096> {};
page& buffer_of(unsigned slot) {
  static std::vector<page> all(64);
  return all[slot];
}

unsigned next_offset(unsigned& seed) {
  seed = seed * 1664525U + 1013904223U;
  return seed % (file_size / 4096) * 4096;
}

// ---- The floor ----

enum class what { nop, pread };

class raw_loop {
 public:
  explicit raw_loop(unsigned in_flight) : ring_{in_flight} {}

  template <what What>
  ratio::tally run(std::uint64_t operations) {
    return ring_.run(operations, [&](io_uring_sqe* sqe, [[maybe_unused]] unsigned slot) {
      if constexpr (What == what::nop)
        io_uring_prep_nop(sqe);
      else
        io_uring_prep_read(sqe, warm_file(), buffer_of(slot).data(), 4096, next_offset(seed_));
    });
  }

 private:
  bench::raw_ring ring_;
  unsigned seed_ = 1;
};

// ---- The layer ----

iowq::task<> nops(std::uint64_t n) {
  for (; n != 0; --n)
    co_await iowq::raw([](io_uring_sqe& sqe) {
      sqe.opcode = IORING_OP_NOP;
      sqe.fd = -1;
    });
}

/// All coroutines share `seed`, so the blocks are read in the same order as by the floor.
iowq::task<> preads(std::uint64_t n, unsigned slot, unsigned& seed) {
  page& buffer = buffer_of(slot);
  for (; n != 0; --n) {
    std::int64_t const offset = next_offset(seed);
    if (co_await iowq::pread(warm_file(), buffer, offset) != buffer.size()) std::abort();
  }
}

/// The same file in a slot of the ring's file table.
iowq::fixed_file in_slot(int number) {
  static iowq::fixed_files table{256};
  return table.add(iowq::fd{::fcntl(number, F_DUPFD_CLOEXEC, 0)});
}
iowq::task<> slot_preads(std::uint64_t n, unsigned slot, unsigned& seed) {
  page& buffer = buffer_of(slot);
  static iowq::fixed_file const file = in_slot(warm_file());
  for (; n != 0; --n) {
    std::int64_t const offset = next_offset(seed);
    if (co_await iowq::pread(file, buffer, offset) != buffer.size()) std::abort();
  }
}

/// Sends a byte and receives it back, through sockets of one thread.
template <class Socket>
iowq::task<> answers(const Socket& there, std::uint64_t n) {
  char byte;
  for (; n != 0; --n) {
    co_await iowq::recv(there, iowq::mutable_bytes{&byte, 1});
    co_await iowq::send(there, iowq::const_bytes{&byte, 1});
  }
}
template <class Socket>
iowq::task<> asks(Socket here, Socket there, std::uint64_t n) {
  iowq::task_group both;
  both.spawn(answers(there, n));
  char byte = 'x';
  for (; n != 0; --n) {
    co_await iowq::send(here, iowq::const_bytes{&byte, 1});
    co_await iowq::recv(here, iowq::mutable_bytes{&byte, 1});
  }
  co_await both.join();
}
template <class Socket>
iowq::task<> to_and_fro(std::uint64_t n, unsigned) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  iowq::fd one{ends[0]}, other{ends[1]};
  if constexpr (std::is_same_v<Socket, iowq::fd>)
    return asks(std::move(one), std::move(other), n);
  else
    return asks(in_slot(one.get()), in_slot(other.get()), n);
}

iowq::task<> yields(std::uint64_t n) {
  for (; n != 0; --n) co_await iowq::yield();
}

iowq::task<int> one(int n) { co_return n; }

iowq::task<> calls(std::uint64_t n) {
  int sum = 0;
  for (; n != 0; --n) sum += co_await one(1);
  benchmark::DoNotOptimize(sum);
}

template <class Make>
iowq::task<> side_by_side(unsigned coroutines, std::uint64_t each, Make make) {
  for (unsigned i = 1; i < coroutines; ++i) iowq::executor::current().spawn(make(each, i));
  co_await make(each, 0U);
}

template <class Make>
ratio::tally run_coroutines(iowq::executor& here, unsigned coroutines, std::uint64_t operations,
                            Make make) {
  std::uint64_t const entered = here.stats().entered;
  here.run(side_by_side(coroutines, operations / coroutines, make));
  return {operations, {{"enters", here.stats().entered - entered}}};
}

__attribute__((noinline)) int plain_call(int n) {
  asm volatile("" : "+r"(n));
  return n;
}

ratio::tally plain_calls(std::uint64_t n) {
  int sum = 0;
  for (std::uint64_t i = 0; i < n; ++i) sum += plain_call(1);
  benchmark::DoNotOptimize(sum);
  return {n};
}

// ---- The measured ways ----

struct way {
  std::string name;
  std::function<ratio::tally(std::uint64_t)> run;
  std::uint64_t operations;  // in each sample
};

std::vector<way> all_ways() {
  static iowq::executor here;
  auto floor = [](what w, unsigned depth) {
    return [w, loop = std::make_shared<raw_loop>(depth)](std::uint64_t n) {
      return w == what::nop ? loop->run<what::nop>(n) : loop->run<what::pread>(n);
    };
  };
  auto layer = [](unsigned coroutines, auto make) {
    return [=](std::uint64_t n) { return run_coroutines(here, coroutines, n, make); };
  };
  auto nop = [](std::uint64_t n, unsigned) { return nops(n); };
  static unsigned seed = 1;
  auto pread = [](std::uint64_t n, unsigned slot) { return preads(n, slot, seed); };
  auto slot_pread = [](std::uint64_t n, unsigned slot) { return slot_preads(n, slot, seed); };
  auto yield = [](std::uint64_t n, unsigned) { return yields(n); };
  auto call = [](std::uint64_t n, unsigned) { return calls(n); };
  return {
      {"nop 1/liburing", floor(what::nop, 1), 20'000},
      {"nop 1/iowq", layer(1, nop), 20'000},
      {"nop 64/liburing", floor(what::nop, 64), 640'000},
      {"nop 64/iowq", layer(64, nop), 640'000},
      {"pread 1/liburing", floor(what::pread, 1), 20'000},
      {"pread 1/iowq", layer(1, pread), 20'000},
      {"pread 1/iowq, slot", layer(1, slot_pread), 20'000},
      {"pread 64/liburing", floor(what::pread, 64), 64'000},
      {"pread 64/iowq", layer(64, pread), 64'000},
      {"pread 64/iowq, slot", layer(64, slot_pread), 64'000},
      {"to and fro 1/descriptor", layer(1, to_and_fro<iowq::fd>), 10'000},
      {"to and fro 1/slot", layer(1, to_and_fro<iowq::fixed_file>), 10'000},
      {"to and fro 64/descriptor", layer(64, to_and_fro<iowq::fd>), 64'000},
      {"to and fro 64/slot", layer(64, to_and_fro<iowq::fixed_file>), 64'000},
      {"yield 1/plain call", plain_calls, 1'000'000},
      {"yield 1/iowq", layer(1, yield), 1'000'000},
      {"yield 1000/plain call", plain_calls, 1'000'000},
      {"yield 1000/iowq", layer(1000, yield), 1'000'000},
      {"task call/plain call", plain_calls, 1'000'000},
      {"task call/iowq", layer(1, call), 1'000'000},
  };
}

}  // namespace

int main(int argc, char** argv) {
  auto const ways = all_ways();
  if (argc == 4 && std::strcmp(argv[1], "--count") == 0) {
    for (const way& w : ways)
      if (w.name == argv[2]) return w.run(std::strtoull(argv[3], nullptr, 10)), 0;
    std::cerr << "await: no way is called \"" << argv[2] << "\"\n";
    return 2;
  }
  for (const way& w : ways)
    ratio::add(w.name, [&w](benchmark::State& state) {
      ratio::measure(state, ratio::crosses::no, [&w] { return w.run(w.operations); });
    });
  return ratio::main(argc, argv);
}
