// SPDX-License-Identifier: BSL-1.0
// What an await costs over the same work by hand. Floor and layer run in one process, in random
// order, many times; what counts is the ratio of their medians.
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
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <iowq/iowq.hpp>

#include "ratio.hpp"

namespace {

constexpr unsigned file_size = 1U << 20;

/// A warm 1 MiB file that has no name.
int warm_file() {
  static int const fd = [] {
    char name[] = "/var/tmp/iowq-await-XXXXXX";  // a real file system: tmpfs answers differently
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

unsigned next_offset(unsigned& seed) {
  seed = seed * 1664525U + 1013904223U;
  return seed % (file_size / 4096) * 4096;
}

struct work_done {
  std::uint64_t operations = 0;
  std::uint64_t system_calls = 0;
};

// ---- The floor ----

enum class what { nop, pread };

class raw_loop {
 public:
  explicit raw_loop(unsigned in_flight) : buffers_(in_flight) {
    io_uring_params params{};
    params.flags = iowq::compat::setup_single_issuer | iowq::compat::setup_defer_taskrun |
                   iowq::compat::setup_submit_all;
    if (io_uring_queue_init_params(256, &ring_, &params) < 0) {
      params = {};
      if (int const r = io_uring_queue_init_params(256, &ring_, &params); r < 0) {
        std::cerr << "io_uring_queue_init_params: " << std::strerror(-r) << '\n';
        std::exit(1);
      }
    }
    io_uring_register_ring_fd(&ring_);
  }
  raw_loop(const raw_loop&) = delete;
  raw_loop& operator=(const raw_loop&) = delete;
  ~raw_loop() { io_uring_queue_exit(&ring_); }

  template <what What>
  work_done run(std::uint64_t operations) {
    auto const depth = static_cast<unsigned>(buffers_.size());
    work_done done;
    unsigned seed = 1;
    std::uint64_t begun = 0;
    auto begin = [&](std::uint64_t slot) {
      io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
      if constexpr (What == what::nop)
        io_uring_prep_nop(sqe);
      else
        io_uring_prep_read(sqe, warm_file(), buffers_[slot].data(), 4096, next_offset(seed));
      io_uring_sqe_set_data64(sqe, slot);
      ++begun;
    };
    for (unsigned slot = 0; slot < depth; ++slot) begin(slot);
    while (done.operations < operations) {
      io_uring_submit_and_wait(&ring_, 1);
      ++done.system_calls;
      unsigned head, seen = 0;
      io_uring_cqe* cqe;
      io_uring_for_each_cqe(&ring_, head, cqe) {
        ++seen;
        if (cqe->res < 0) std::abort();
        if (begun < operations) begin(cqe->user_data);
      }
      io_uring_cq_advance(&ring_, seen);
      done.operations += seen;
    }
    return done;
  }

 private:
  io_uring ring_{};
  std::vector<std::array<char, 4096>> buffers_;
};

// ---- The layer ----

iowq::task<> nops(std::uint64_t n) {
  for (; n != 0; --n)
    co_await iowq::raw([](io_uring_sqe& sqe) {
      sqe.opcode = IORING_OP_NOP;
      sqe.fd = -1;
    });
}

iowq::task<> preads(std::uint64_t n, unsigned seed) {
  std::array<char, 4096> buffer;
  for (; n != 0; --n) {
    std::int64_t const offset = next_offset(seed);
    if (co_await iowq::pread(warm_file(), buffer, offset) != buffer.size()) std::abort();
  }
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
  for (unsigned i = 1; i < coroutines; ++i) iowq::executor::current().spawn(make(each));
  co_await make(each);
}

template <class Make>
work_done run_coroutines(iowq::executor& here, unsigned coroutines, std::uint64_t operations,
                         Make make) {
  std::uint64_t const entered = here.stats().entered;
  here.run(side_by_side(coroutines, operations / coroutines, make));
  return {operations, here.stats().entered - entered};
}

__attribute__((noinline)) int plain_call(int n) {
  asm volatile("" : "+r"(n));
  return n;
}

work_done plain_calls(std::uint64_t n) {
  int sum = 0;
  for (std::uint64_t i = 0; i < n; ++i) sum += plain_call(1);
  benchmark::DoNotOptimize(sum);
  return {n, 0};
}

// ---- The ways ----

struct way {
  std::string name;
  std::function<work_done(std::uint64_t)> run;
  std::uint64_t operations;  // a sample
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
  auto nop = [](std::uint64_t n) { return nops(n); };
  auto pread = [](std::uint64_t n) { return preads(n, 1); };
  auto yield = [](std::uint64_t n) { return yields(n); };
  auto call = [](std::uint64_t n) { return calls(n); };
  return {
      {"nop 1/liburing", floor(what::nop, 1), 20'000},
      {"nop 1/iowq", layer(1, nop), 20'000},
      {"nop 64/liburing", floor(what::nop, 64), 640'000},
      {"nop 64/iowq", layer(64, nop), 640'000},
      {"pread 1/liburing", floor(what::pread, 1), 20'000},
      {"pread 1/iowq", layer(1, pread), 20'000},
      {"pread 64/liburing", floor(what::pread, 64), 64'000},
      {"pread 64/iowq", layer(64, pread), 64'000},
      {"yield 1/plain call", plain_calls, 1'000'000},
      {"yield 1/iowq", layer(1, yield), 1'000'000},
      {"yield 1000/plain call", plain_calls, 1'000'000},
      {"yield 1000/iowq", layer(1000, yield), 1'000'000},
      {"task call/plain call", plain_calls, 1'000'000},
      {"task call/iowq", layer(1, call), 1'000'000},
  };
}

void measure(benchmark::State& state, const way& w) {
  work_done all;
  for (auto _ : state) {
    work_done const one_sample = w.run(w.operations);
    all.operations += one_sample.operations;
    all.system_calls += one_sample.system_calls;
  }
  auto const n = static_cast<double>(all.operations);
  state.counters["ns"] =
      benchmark::Counter(n, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["syscalls"] = static_cast<double>(all.system_calls) / n;
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
  for (const way& w : ways) ratio::add(w.name, [&w](benchmark::State& s) { measure(s, w); });
  return ratio::main(argc, argv);
}
