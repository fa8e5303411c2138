// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/runtime.hpp>  // first and alone

#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/time.hpp>
#include <iowq/sync/channel.hpp>

#include "death.hpp"
#include "leak_check.hpp"
#include "skip.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::executor;
using iowq::runtime;
using iowq::task;

constexpr unsigned sizes[] = {1, 2, 3, 8, 16};

int thread() { return iowq::detail::linux_policy::thread_id(); }

/// Who ran what, from any thread.
struct notes {
  std::mutex mutex;
  std::map<const executor*, int> at;
  std::set<int> threads;
};
task<> note(notes& all) {
  std::lock_guard const held{all.mutex};
  ++all.at[&executor::current()];
  all.threads.insert(thread());
  co_return;
}
task<> count(std::atomic<int>& n) {
  ++n;
  co_return;
}
task<> sleep_long() { co_await iowq::sleep_for(1h); }
task<> read_for_ever() {
  iowq_test::pipe_pair pipe;
  char byte;
  co_await iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1});
}
task<> yield_for_ever() {
  for (;;) co_await iowq::yield();
}
task<> hop_for_ever(runtime& all) {
  for (std::size_t i = 0;; ++i) co_await iowq::resume_on(all.at(i % all.size()));
}
task<> punt_for_ever() {
  for (;;) co_await iowq::punt([] { return 1; });
}
/// Everything that waits, or does not, and does not end by itself.
void spawn_endless(runtime& all) {
  for (std::size_t i = 0; i < all.size(); ++i) {
    all.spawn(sleep_long());
    all.spawn(read_for_ever());
    all.spawn(yield_for_ever());
    all.spawn(hop_for_ever(all));
    all.spawn(punt_for_ever());
  }
}
task<bool> has_message_ring() {
  co_return iowq::detail::loop::current().backend().features().has(IORING_OP_MSG_RING);
}
runtime* signalled = nullptr;
}  // namespace

TEST_SUITE("exec/runtime") {
  TEST_CASE("spawn() goes round, as many to each; each executor has a thread of its own") {
    for (unsigned const n : sizes) {
      CAPTURE(n);
      iowq_test::leak_check books;
      notes all;
      {
        runtime r{{.threads = n}};
        CHECK(r.size() == n);
        for (unsigned i = 0; i < 10 * n; ++i) r.spawn(note(all));
      }
      CHECK(all.at.size() == n);
      CHECK(all.threads.size() == n);
      CHECK(all.threads.count(thread()) == 0);
      for (auto const& [where, times] : all.at) CHECK(times == 10);
    }
  }

  TEST_CASE("without a number there is an executor for each processor that we may use") {
    cpu_set_t own;
    ::sched_getaffinity(0, sizeof own, &own);
    runtime r;
    CHECK(r.size() == static_cast<std::size_t>(CPU_COUNT(&own)));
  }

  TEST_CASE("calls with one key always run on the same executor, and keys are spread") {
    notes all;
    {
      runtime r{{.threads = 4}};
      std::atomic<int> elsewhere{0};
      auto const check = [](const executor*& first, std::atomic<int>& other) -> task<> {
        if (first == nullptr) first = &executor::current();
        other += first != &executor::current();
        co_return;
      };
      std::vector<const executor*> first(64, nullptr);  // no atomics: one key, one thread
      for (int round = 0; round < 5; ++round)
        for (std::uint64_t key = 0; key < 64; ++key)
          r.spawn(key * 4096, check(first[key], elsewhere));
      for (std::uint64_t key = 0; key < 64; ++key) r.spawn(key * 4096, note(all));
      while (true) {
        std::lock_guard const held{all.mutex};
        int sum = 0;
        for (auto const& [where, times] : all.at) sum += times;
        if (sum == 64) break;
      }
      CHECK(elsewhere == 0);
    }
    CHECK(all.at.size() == 4);
    for (auto const& [where, times] : all.at) CHECK(times >= 8);
  }

  TEST_CASE("the destructor waits for all spawned tasks, from any thread and at any time") {
    for (unsigned const n : sizes) {
      CAPTURE(n);
      iowq_test::leak_check books;
      std::atomic<int> ended{0};
      {
        // A task that has spawned one elsewhere is over before that begins: all executors may have
        // had nothing to do when the destructor came, and still be far from the end.
        struct chain {
          static task<> link(runtime& all, std::atomic<int>& done, int left) {
            if (left % 3 == 0) co_await iowq::sleep_for(10us);
            if (left > 0) all.spawn(link(all, done, left - 1));
            ++done;
          }
        };
        runtime r{{.threads = n}};
        for (int i = 0; i < 4; ++i) r.spawn(chain::link(r, ended, 99));
      }
      CHECK(ended == 400);
    }
  }

  TEST_CASE("a stop at every phase ends everything: before, right after, during, from a handler") {
    for (unsigned const n : sizes) {
      CAPTURE(n);
      iowq_test::leak_check books;
      {
        runtime r{{.threads = n}};
        r.request_stop();
        spawn_endless(r);
      }
      {
        runtime r{{.threads = n}};
        spawn_endless(r);
        r.request_stop();
      }
      for (int microseconds : {50, 500, 5000}) {
        runtime r{{.threads = n}};
        spawn_endless(r);
        iowq_test::within(1, [&, end = iowq::detail::steady_clock::now() +
                                       std::chrono::microseconds{microseconds}] {
          return iowq::detail::steady_clock::now() >= end;
        });
        r.request_stop();
      }
      {
        runtime r{{.threads = n}};
        std::thread spawner{[&] {
          for (int i = 0; i < 20; ++i) spawn_endless(r);
        }};
        std::thread stopper{[&] { r.request_stop(); }};
        spawner.join();
        stopper.join();
      }
      {
        runtime r{{.threads = n}};
        signalled = &r;
        struct sigaction action{}, before{};
        action.sa_handler = [](int) { signalled->request_stop(); };
        ::sigaction(SIGUSR1, &action, &before);
        spawn_endless(r);
        ::kill(::getpid(), SIGUSR1);  // to the process: our thread takes it, theirs block it
        ::sigaction(SIGUSR1, &before, nullptr);
      }
      {
        runtime r{{.threads = n}};
        auto const stop_all = [](runtime& all) -> task<> {
          co_await iowq::yield();
          all.request_stop();
        };
        spawn_endless(r);
        r.spawn(stop_all(r));
      }
    }
  }

  TEST_CASE("a hundred runtimes, with nothing to do or with little, leave nothing behind") {
    iowq_test::leak_check books;
    std::atomic<int> n{0};
    for (int i = 0; i < 50; ++i) {
      {
        runtime r{{.threads = 3}};
      }
      runtime r{{.threads = 2}};
      r.spawn(count(n));
    }
    CHECK(n == 50);
  }

  TEST_CASE(
      "if the ring of one thread cannot be made, the constructor throws and leaves no thread") {
    iowq_test::leak_check books;
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    int thrown = 0;
    for (rlim_t more = 0; more < 12; ++more) {
      rlimit tight{static_cast<rlim_t>(iowq_test::open_descriptors()) + 3 + more, before.rlim_max};
      ::setrlimit(RLIMIT_NOFILE, &tight);
      try {
        runtime r{{.threads = 8}};
      } catch (const std::system_error& error) {
        ++thrown;
        CHECK(error.code() == std::errc::too_many_files_open);
      }
      ::setrlimit(RLIMIT_NOFILE, &before);
    }
    CHECK(thrown > 0);
  }

  TEST_CASE("where one thread cannot be made, the constructor throws why") {
    if (::geteuid() != 0) SKIP_CASE("only root can become a user whose threads are limited");
    auto const end = iowq_test::death_output([] {
      int const before = iowq_test::threads() + IOWQ_TSAN;  // which has one of its own
      rlimit few{3, 3};
      ::setrlimit(RLIMIT_NPROC, &few);
      if (::setgroups(0, nullptr) != 0 || ::setuid(64999) != 0) ::_exit(3);
      try {
        runtime r{{.threads = 16}};
      } catch (const std::system_error& error) {
        bool const alone = iowq_test::within(5, [&] { return iowq_test::threads() <= before; });
        std::fprintf(stderr, "%d %s", error.code().value(), error.what());
        ::_exit(alone ? 1 : 2);
      }
    });
    CHECK(end.exit_code == 1);
    CHECK(end.says("11 runtime (pthread_create: raise RLIMIT_NPROC"));
  }

  TEST_CASE("an exception of a spawned task reaches on_unhandled on the executor's own thread") {
    std::atomic<int> heard{0}, on_main{0};
    auto const thrown = []() -> task<> {
      throw std::runtime_error("on purpose");
      co_return;
    };
    int const here = thread();
    {
      runtime r{{.threads = 2, .executor = {.on_unhandled = [&](std::exception_ptr) {
                                 ++heard;
                                 on_main += thread() == here;
                               }}}};
      for (int i = 0; i < 10; ++i) r.spawn(thrown());
    }
    CHECK(heard == 10);
    CHECK(on_main == 0);
    auto const end = iowq_test::death_output([&] {
      runtime r{{.threads = 2}};
      r.spawn(thrown());
    });
    CHECK(end.signal == SIGABRT);
    CHECK(end.says("an exception left a spawned task: on purpose"));
  }

  TEST_CASE("pinned: each thread has one processor, and its workers have all permitted ones") {
    cpu_set_t own;
    ::sched_getaffinity(0, sizeof own, &own);
    std::atomic<int> wrong{0};
    auto const nodes = iowq::topology::system().resolve();
    auto const look = [](const iowq::topology& all, int ours, std::atomic<int>& bad) -> task<> {
      auto const allowed = [] {
        cpu_set_t mine;
        ::sched_getaffinity(0, sizeof mine, &mine);
        return CPU_COUNT(&mine);
      };
      // Of several nodes a worker keeps to its own.
      auto const as_many_as_it_may = [&allowed, &all, ours] {
        unsigned const node = all.node_of(iowq::detail::linux_policy::current_cpu());
        return allowed() == (all.size() == 1 ? ours : CPU_COUNT(&all.cpus(node).native()));
      };
      bad += allowed() != 1;
      bad += !co_await iowq::punt(as_many_as_it_may);
    };
    {
      runtime r{{.threads = 4, .pin = true}};
      for (int i = 0; i < 4; ++i) r.spawn(look(nodes, CPU_COUNT(&own), wrong));
    }
    CHECK(wrong == 0);
    cpu_set_t after;
    ::sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_EQUAL(&own, &after));
  }

  TEST_CASE("one pool for all, if told to: its items end where they were awaited") {
    iowq_test::leak_check books;
    std::atomic<int> wrong{0}, peak{0};
    auto const work = [](int creator, std::atomic<int>& bad, std::atomic<int>& most) -> task<> {
      int const home = thread();
      for (int i = 0; i < 200; ++i) {
        auto const name = co_await iowq::punt([] {
          char text[16];
          ::pthread_getname_np(::pthread_self(), text, sizeof text);
          return std::string{text};
        });
        bad += thread() != home;
        bad += name != "iow-wrk-" + std::to_string(creator);
      }
      auto const stats = executor::current().stats().pool;
      most = static_cast<int>(stats.bound.max_workers);
    };
    {
      runtime r{{.threads = 4,
                 .share_pool = true,
                 .executor = {.pool = {.max_workers = {.bound = 2, .unbound = 2}}}}};
      for (int i = 0; i < 8; ++i) r.spawn(work(thread(), wrong, peak));
    }
    CHECK(wrong == 0);
    CHECK(peak == 2);
    {
      runtime r{{.threads = 4, .share_pool = true}};
      spawn_endless(r);
      r.request_stop();
    }
  }

  TEST_CASE("an item handed from ring to ring wakes the other loop once, by an SQE of the turn") {
    constexpr int waiting = 100;
    if (!iowq::run(has_message_ring())) SKIP_CASE("no IORING_OP_MSG_RING");
    struct counts {
      static task<std::uint64_t> kicks_of(executor& there) {
        co_await iowq::resume_on(there);
        co_return executor::current().stats().pool.kicks;
      }
      static task<> receive(iowq::channel<int>& from, std::atomic<int>& n) {
        (void)co_await from.recv();
        ++n;
      }
      static task<> send(runtime& all, iowq::channel<int>& to, std::atomic<int>& received) {
        executor& home = executor::current();
        for (int round = 0; round < 50; ++round) {
          received = 0;
          for (int i = 0; i < waiting; ++i) all.at(1).post(receive(to, received));
          auto const before = co_await kicks_of(all.at(1));  // behind them: now they wait
          co_await iowq::resume_on(home);
          auto const submitted = home.stats().submitted;
          for (int i = 0; i < waiting; ++i) CHECK(to.try_send(int{i}));
          co_await iowq_test::until([&] { return received >= waiting; });
          auto const sent = home.stats().submitted - submitted;
          auto const kicks = co_await kicks_of(all.at(1)) - before;
          co_await iowq::resume_on(home);
          // One for all that was sent in the turn, and one for the question; none if it ran.
          CHECK(kicks <= 2);
          CHECK(sent <= 1);
        }
      }
    };
    iowq::channel<int> values{waiting};
    std::atomic<int> received{0};
    runtime r{{.threads = 2}};
    r.at(0).post(counts::send(r, values, received));
  }

  TEST_CASE("two that only answer each other: no more wake-ups than sleeps, each by an SQE") {
    if (!iowq::run(has_message_ring())) SKIP_CASE("no IORING_OP_MSG_RING");
    constexpr int rounds = 500;
    struct both {
      static task<> echo(iowq::channel<int>& in, iowq::channel<int>& out,
                         iowq::executor_stats& mine) {
        while (auto n = co_await in.recv()) co_await out.send(*n);
        mine = executor::current().stats();
      }
      static task<> ask(iowq::channel<int>& out, iowq::channel<int>& in,
                        iowq::executor_stats& mine) {
        for (int n = 0; n < rounds; ++n) {
          co_await out.send(n);
          auto const same = co_await in.recv();
          CHECK(*same == n);
        }
        out.close();
        mine = executor::current().stats();
      }
    };
    iowq::channel<int> there{1}, back{1};
    iowq::executor_stats asked, answered;
    {
      runtime r{{.threads = 2}};
      r.at(0).post(both::echo(there, back, answered));
      r.at(1).post(both::ask(there, back, asked));
    }
    for (auto const* one : {&asked, &answered}) {
      auto const& other = one == &asked ? answered : asked;
      CHECK(one->pool.kicks <= one->entered);
      CHECK(one->pool.kicks <= rounds + 4U);
      // All but those of this thread, which has no ring: the tasks, and the last question.
      CHECK(one->pool.kicks <= other.submitted + 4);
    }
  }

  TEST_CASE("its threads block signals: a signal to the process goes to an older thread") {
    std::atomic<int> open{0};
    auto const look = [](std::atomic<int>& n) -> task<> {
      sigset_t blocked;
      ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
      for (int const each : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD, SIGALRM})
        n += ::sigismember(&blocked, each) == 0;
      n += ::sigismember(&blocked, SIGSEGV) == 1;
      co_return;
    };
    {
      runtime r{{.threads = 3}};
      for (int i = 0; i < 3; ++i) r.spawn(look(open));
    }
    CHECK(open == 0);
  }

  TEST_CASE("a runtime that a coroutine destroys is named") {
    auto const end = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        runtime r{{.threads = 1}};
        co_return;
      };
      iowq::run(body());
    });
    CHECK(end.says("a runtime was destroyed by a coroutine"));
  }
}
