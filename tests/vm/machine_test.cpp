// SPDX-License-Identifier: BSL-1.0
// What only a virtual machine can do to us: two real NUMA nodes, processors that are taken away
// while the pool runs, a disk that fails, a clock that jumps. See tests/vm/run.py, which runs this
// as root on four processors; do not run it on a machine that you need.
#include <fcntl.h>
#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <fstream>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <iowq/iowq.hpp>

#include "death.hpp"
#include "pids_group.hpp"

namespace {
using namespace std::chrono_literals;

unsigned node_here() {
  unsigned cpu = 0, node = 0;
  REQUIRE(::getcpu(&cpu, &node) == 0);
  return node;
}

/// Waits until the other, too, has come; says on which node it runs then, and later where it ran.
struct visitor final : iowq::work {
  visitor(int wanted, std::latch* meets)
      : work{{.node = wanted, .concurrent = meets != nullptr}}, meeting{meets} {}
  void execute(const iowq::stop_token&) noexcept override {
    if (meeting != nullptr) meeting->arrive_and_wait();
    // The worker's thread puts itself onto its node's processors before its first item.
    node_seen = node_here();
  }
  void finished(bool cancelled) noexcept override {
    ran = !cancelled;
    ended.count_down();
  }
  std::latch* meeting;
  unsigned node_seen = ~0U;
  bool ran = false;
  std::latch ended{1};
};

/// Counts down, and does some work meanwhile.
struct counted final : iowq::work {
  counted(iowq::work_flags flags, std::latch& all) : work{flags}, left{all} {}
  void execute(const iowq::stop_token&) noexcept override {
    for (unsigned i = 0; i < 1000; ++i) sum = sum + i;
    ++runs;
  }
  void finished(bool cancelled) noexcept override {
    if (cancelled) ++cancels;
    left.count_down();
  }
  std::latch& left;
  volatile unsigned sum = 0;
  std::atomic<int> runs{0}, cancels{0};  // seq_cst: read after the latch
};

void set_online(unsigned cpu, bool on) {
  std::ofstream file{"/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/online"};
  file << (on ? '1' : '0') << std::flush;
  REQUIRE(file.good());
}

/// The processor is back when the test ends, however that is.
struct offline {
  explicit offline(unsigned c) : cpu{c} { set_online(cpu, false); }
  offline(const offline&) = delete;
  offline& operator=(const offline&) = delete;
  ~offline() { set_online(cpu, true); }
  unsigned cpu;
};

struct timespec seconds_of(int clock) {
  struct timespec now{};
  REQUIRE(::clock_gettime(clock, &now) == 0);
  return now;
}
void jump(std::time_t by) {
  struct timespec now = seconds_of(CLOCK_REALTIME);
  now.tv_sec += by;
  REQUIRE(::clock_settime(CLOCK_REALTIME, &now) == 0);
}

constexpr const char* failing_disk = "/dev/mapper/flaky";
}  // namespace

TEST_SUITE("vm/machine") {
  TEST_CASE("the machine's nodes are read from sysfs, each with its processors") {
    auto const nodes = iowq::topology::system().resolve();
    REQUIRE(nodes.size() == 2);
    CHECK(nodes.cpus(0) == iowq::cpu_set{0, 1});
    CHECK(nodes.cpus(1) == iowq::cpu_set{2, 3});
    CHECK(nodes.node_of(1) == 0);
    CHECK(nodes.node_of(2) == 1);
    CHECK(nodes.near(1).front() == 1);
  }

  TEST_CASE("items for two nodes run on those, if their workers are there in time") {
    // A hint, no promise: the first to be awake takes what there is, from wherever it is.
    bool kept = false;
    for (int attempt = 0; attempt < 20 && !kept; ++attempt) {
      iowq::pool pool;
      CHECK(pool.stats().nodes == 2);
      std::latch meeting{2};
      visitor first{0, &meeting}, second{1, &meeting};
      pool.enqueue(first);
      pool.enqueue(second);
      first.ended.wait();
      second.ended.wait();
      kept = first.node_seen == 0 && second.node_seen == 1;
    }
    CHECK(kept);
  }

  TEST_CASE(
      "hazard-105: processors that go offline and come back while the pool runs lose nothing") {
    constexpr unsigned rounds = 20, items = 2'000;
    iowq::pool pool;
    for (unsigned round = 0; round < rounds; ++round) {
      std::latch left{items};
      std::deque<counted> all;
      for (unsigned i = 0; i < items; ++i) {
        iowq::work_flags flags{.unbound = i % 5 == 0, .node = static_cast<int>(i % 2)};
        if (i % 3 == 0) flags.key = i % 7;
        all.emplace_back(flags, left);
      }
      for (counted& one : all) pool.enqueue(one);
      if (round % 2 == 0) {
        offline const one{3};
        offline const whole_node{2};
        left.wait();
        // A node without processors is served by the others.
        visitor late{1, nullptr};
        pool.enqueue(late);
        late.ended.wait();
        CHECK(late.ran);
        CHECK(late.node_seen == 0);
      } else {
        left.wait();
      }
      for (counted& one : all) {
        CHECK(one.runs == 1);
        CHECK(one.cancels == 0);
      }
    }
    CHECK(pool.stats().completed >= rounds * items);
  }

  TEST_CASE("hazard-86: an error of the disk reaches the awaiter, once, by whichever way") {
    if (::access(failing_disk, F_OK) != 0) {
      MESSAGE("skipped: there is no ", failing_disk);
      return;
    }
    auto outcome = [](auto operation) -> iowq::task<int> {
      auto result = co_await iowq::as_result(std::move(operation));
      co_return result ? 0 : result.error().value();
    };
    // What the system calls say of this disk: EIO once, or again where its flushes fail as well.
    static constexpr std::array<char, 4096> block{};
    iowq::fd plain{::open(failing_disk, O_RDWR | O_CLOEXEC)};
    REQUIRE(::pwrite(plain.get(), block.data(), block.size(), 0) == 4096);
    REQUIRE(::fsync(plain.get()) == -1);
    REQUIRE(errno == EIO);
    int const afterwards = ::fsync(plain.get()) == 0 ? 0 : errno;
    auto const program = [&](bool by_pool) -> iowq::task<> {
      auto const way = [by_pool](auto operation) {
        return by_pool ? iowq::on_pool(std::move(operation)) : std::move(operation);
      };
      iowq::fd disk = co_await iowq::open(failing_disk, O_RDWR);
      // It goes to the page cache: only fsync hears of the disk.
      CHECK(co_await outcome(way(iowq::pwrite(disk, block, 0))) == 0);
      CHECK(co_await outcome(way(iowq::fsync(disk))) == EIO);
      CHECK(co_await outcome(way(iowq::fsync(disk))) == afterwards);
      co_await iowq::close(std::move(disk));
    };
    iowq::run(program(false));
    iowq::run(program(true));

    alignas(4096) static std::array<char, 4096> page{};  // a frame is not aligned so
    auto const direct = [&]() -> iowq::task<> {
      iowq::fd disk = co_await iowq::open(failing_disk, O_RDWR | O_DIRECT);
      CHECK(co_await outcome(iowq::pwrite(disk, page, 0)) == EIO);
      CHECK(co_await outcome(iowq::on_pool(iowq::pwrite(disk, page, 0))) == EIO);
      CHECK(co_await iowq::pread(disk, page, 0) == page.size());  // reads do not fail
      co_await iowq::close(std::move(disk));
    };
    iowq::run(direct());
  }

  TEST_CASE("hazard-49: in a cgroup of few threads a program does all its work, or says why not") {
    for (const char* const backend : {"automatic", "poll"})
      for (int const threads : {1, 3, 4}) {
        iowq_test::pids_group group{threads};
        CAPTURE(group.why_not());
        REQUIRE(group);  // here it can always be had
        auto const target = std::string{"/tmp/copy-of-"} + backend + std::to_string(threads);
        auto const end = iowq_test::death_output([&] {
          group.enter();
          ::setenv("IOWQ_BACKEND", backend, 1);
          ::execl("/tests/vm_copy", "copy", "--jobs", "16", "/bin", target.c_str(), nullptr);
          ::_exit(127);
        });
        CAPTURE(backend);
        CAPTURE(threads);
        CAPTURE(end.text);
        // It compares the copy itself.
        CHECK(end.exit_code == (threads == 1 ? 1 : 0));
        CHECK(end.says("Resource temporarily unavailable") == (threads == 1));
      }
  }

  TEST_CASE("hazard-92: a sleep is by the steady clock, whatever the clock on the wall does") {
    auto program = [](std::time_t by) -> iowq::task<> {
      auto const before = std::chrono::steady_clock::now();
      auto sleep = [&]() -> iowq::task<> {
        co_await iowq::sleep_for(300ms);
        CHECK(std::chrono::steady_clock::now() - before >= 300ms);
      };
      auto jumps = [by]() -> iowq::task<> {
        co_await iowq::sleep_for(50ms);
        jump(by);
      };
      co_await iowq::when_all(sleep(), jumps());
    };
    iowq::run(program(3600));
    iowq::run(program(-3600));  // that it returns at all is what is tested
  }

  TEST_CASE("hazard-92: a sleep until a time of day ends when the clock is set past it") {
    auto const program = []() -> iowq::task<> {
      auto const due = std::chrono::system_clock::now() + 1h;
      auto const sleep = [](auto until) -> iowq::task<> {
        co_await iowq::sleep_until(until);
        CHECK(std::chrono::system_clock::now() >= until);
      };
      auto const jumps = []() -> iowq::task<> {
        co_await iowq::sleep_for(50ms);
        jump(2 * 3600);
      };
      co_await iowq::when_all(sleep(due), jumps());
    };
    for (auto const backend : {iowq::backend_kind::automatic, iowq::backend_kind::poll}) {
      iowq::run(program(), {.backend = backend});
      jump(-2 * 3600);
    }
  }

  TEST_CASE("hazard-92: workers still time out, and items still run, when the clock jumps") {
    iowq::pool pool{{.idle_timeout = 50ms}};
    for (std::time_t const by : {3600, -7200, 3600}) {
      visitor one{iowq::any_node, nullptr};
      pool.enqueue(one);
      one.ended.wait();
      CHECK(one.ran);
      jump(by);
      // The last of its class stays; the pool is asked again.
      visitor other{iowq::any_node, nullptr};
      pool.enqueue(other);
      other.ended.wait();
      CHECK(other.ran);
    }
  }
}
