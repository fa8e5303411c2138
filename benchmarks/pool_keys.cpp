// SPDX-License-Identifier: BSL-1.0
// Hashed work: the cost of the order of a key, with few keys and with a million. Also measures
// whether a long queue slows down its two ends: the cost of an item with a hundred and with a
// million queued items.
//
// The floor is the same pool without keys. The rival is an asio strand for each key.
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <semaphore>
#include <string>
#include <vector>

#include <iowq/iowq.hpp>

#include "load.hpp"
#include "ratio.hpp"
#include "rivals.hpp"

namespace {

constexpr unsigned nr_workers = 4, depth = 256;

struct random_keys {
  unsigned count;
  std::uint64_t state = 1;
  std::uint64_t operator()() {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (state >> 33) % count;
  }
};

__attribute__((noinline)) void nothing() { asm volatile(""); }

struct unkeyed {
  void operator()(unsigned) const noexcept { nothing(); }
};
struct keyed {
  void operator()(unsigned) const noexcept { nothing(); }
  [[nodiscard]] std::uint64_t key() { return (*next)(); }
  std::shared_ptr<random_keys> next;
};

#if BENCH_ASIO
class strands {
 public:
  explicit strands(unsigned keys) : next_{keys} {
    for (unsigned i = 0; i < keys; ++i) strands_.push_back(asio::make_strand(pool_));
  }
  ~strands() { pool_.join(); }
  ratio::tally run(std::uint64_t n) {
    asio::io_context here{1};
    auto const busy = asio::make_work_guard(here);
    std::uint64_t begun = 0, done = 0;
    std::function<void()> begin = [&] {
      ++begun;
      asio::post(strands_[next_()], [&] {
        nothing();
        asio::post(here, [&] {
          if (++done == n)
            here.stop();
          else if (begun < n)
            begin();
        });
      });
    };
    for (unsigned i = 0; i < depth && begun < n; ++i) begin();
    here.run();
    return {n};
  }

 private:
  asio::thread_pool pool_{nr_workers};
  std::vector<asio::strand<asio::thread_pool::executor_type>> strands_;
  random_keys next_;
};
#endif

void throughput(const std::string& row, unsigned keys) {
  static constexpr std::uint64_t n = 25'600;
  auto const options = bench::workers(nr_workers);
  bench::add(row + "/no key", n, [=] {
    return std::make_unique<bench::pool_load<unkeyed>>(bench::manner{.pool = options, .flags = {}},
                                                       depth, unkeyed{});
  });
  bench::add(row + "/pool", n, [=] {
    keyed const call{std::make_shared<random_keys>(random_keys{keys})};
    return std::make_unique<bench::pool_load<keyed>>(bench::manner{.pool = options, .flags = {}},
                                                     depth, call);
  });
#if BENCH_ASIO
  bench::add(row + "/asio strands", n, [=] { return std::make_unique<strands>(keys); });
  ratio::goal_rate(row, "pool", 1, {"asio strands"});
#endif
}

// ---- A long queue ----

/// Blocks the only worker, enqueues many items, then lets them run. Measures the cost of an item
/// when it is enqueued, and when it is taken, run and finished.
class backlog {
 public:
  backlog(std::size_t queued, bool with_keys) : queued_{queued}, with_keys_{with_keys} {
    items_.resize(queued_);
    for (item& one : items_) one.all = this;
  }

  ratio::tally run(std::uint64_t n) {
    double enqueued = 0, ran = 0;
    for (std::uint64_t done = 0; done < n; done += queued_) {
      gate door;
      pool_.enqueue(door);
      door.closed.acquire();
      auto const start = machine::clock::now();
      std::uint64_t key = 0;
      for (item& one : items_) {
        if (with_keys_) one.flags({.key = key++});
        pool_.enqueue(one);
      }
      enqueued += machine::ns_since(start);
      left_ = queued_;
      door.open.release();
      last_.acquire();
      ran += std::chrono::duration<double, std::nano>(ended_ - first_).count();
    }
    return {n,
            {{"enqueue ns", static_cast<std::uint64_t>(enqueued)},
             {"run ns", static_cast<std::uint64_t>(ran)}}};
  }

 private:
  struct gate final : iowq::work {
    void execute(const iowq::stop_token&) noexcept override {
      closed.release();
      open.acquire();
    }
    void finished(bool) noexcept override {}
    std::binary_semaphore closed{0}, open{0};
  };
  struct item final : iowq::work {
    void execute(const iowq::stop_token&) noexcept override {
      if (this == &all->items_.front()) all->first_ = machine::clock::now();
      nothing();
    }
    void finished(bool) noexcept override {
      if (--all->left_ != 0) return;
      all->ended_ = machine::clock::now();
      all->last_.release();
    }
    backlog* all = nullptr;
  };

  std::size_t queued_, left_ = 0;
  bool with_keys_;
  machine::clock::time_point first_, ended_;
  std::binary_semaphore last_{0};
  std::vector<item> items_;
  iowq::pool pool_{bench::workers(1)};
};

void long_queues() {
  struct {
    const char* name;
    std::size_t queued;
    bool keys;
  } static constexpr ways[] = {{"100", 100, false},
                               {"10^6", 1'000'000, false},
                               {"100, a key each", 100, true},
                               {"10^6, a key each", 1'000'000, true}};
  for (auto const& way : ways)
    bench::add("queued/" + std::string{way.name}, std::max<std::uint64_t>(way.queued, 100'000),
               [&way] { return std::make_unique<backlog>(way.queued, way.keys); });
}

}  // namespace

int main(int argc, char** argv) {
  throughput("1 key", 1);
  throughput("100 keys", 100);
  throughput("10^6 keys", 1'000'000);
  long_queues();
  if (!BENCH_ASIO) std::puts("libasio-dev is not installed: asio is left out");
  return ratio::main(argc, argv, 9);
}
