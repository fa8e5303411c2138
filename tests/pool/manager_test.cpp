// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/manager.hpp>

#include <dirent.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "bounded.hpp"
#include "jobs.hpp"
#include "leak_check.hpp"
#include "scripted_policy.hpp"

namespace {
using namespace std::chrono_literals;
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;
using iowq_test::quiet;
using iowq_test::script;
using scripted_pool = iowq::basic_pool<iowq_test::scripted_policy>;

/// Counts the system calls of managers. The pool makes all of its calls through its policy, but
/// for those of its lock where threads meet there.
struct counting_policy : iowq::detail::linux_policy {
  static inline std::atomic<long> calls{0};
  static inline thread_local bool is_manager = false;
  static void count() { calls += is_manager; }

  static void thread_name(const char* name) noexcept {
    is_manager = std::string_view{name}.starts_with("iow-mgr");
    count();
    linux_policy::thread_name(name);
  }
  template <class Word>
  static bool futex_wait(Word& word, std::uint32_t expected,
                         iowq::detail::time_point deadline) noexcept {
    count();
    return linux_policy::futex_wait(word, expected, deadline);
  }
  template <class... Arguments>
  static void futex_wake(Arguments&&... arguments) noexcept {
    count();
    linux_policy::futex_wake(arguments...);
  }
  template <class... Arguments>
  static int thread_start(Arguments&&... arguments) noexcept {
    count();
    return linux_policy::thread_start(arguments...);
  }
  static void thread_join(thread joined) noexcept {
    count();
    linux_policy::thread_join(joined);
  }
  static int wake_open() noexcept {
    count();
    return linux_policy::wake_open();
  }
  static void wake_ring(int fd) noexcept {
    count();
    linux_policy::wake_ring(fd);
  }
  static void wake_drain(int fd) noexcept {
    count();
    linux_policy::wake_drain(fd);
  }
  static void wake_close(int fd) noexcept {
    count();
    linux_policy::wake_close(fd);
  }
  class thread_probe : public linux_policy::thread_probe {
   public:
    thread_probe() noexcept = default;
    iowq::detail::thread_state look(thread handle, int id) noexcept {
      count();
      return linux_policy::thread_probe::look(handle, id);
    }
  };
  static bool affinity(cpu_set_t& cpus) noexcept {
    count();
    return linux_policy::affinity(cpus);
  }
  static bool set_affinity(const cpu_set_t& cpus) noexcept {
    count();
    return linux_policy::set_affinity(cpus);
  }
  static int read_text(const char* path, char* text, std::size_t size) noexcept {
    count();
    return linux_policy::read_text(path, text, size);
  }
  static int read_link(const char* path, char* text, std::size_t size) noexcept {
    count();
    return linux_policy::read_link(path, text, size);
  }
};

job::body behind(gate& closed) {
  return [&closed](const iowq::stop_token&) { (void)closed.wait(); };
}
std::string first_line(const std::string& file) {
  std::string line;
  std::getline(std::ifstream{file}, line);
  return line;
}
/// The ids of this process's threads of that name.
std::vector<int> threads_named(const std::string& name) {
  std::vector<int> found;
  DIR* const tasks = ::opendir("/proc/self/task");
  while (dirent* const entry = ::readdir(tasks))
    if (first_line(std::string{"/proc/self/task/"} + entry->d_name + "/comm") == name)
      found.push_back(std::stoi(entry->d_name));
  ::closedir(tasks);
  return found;
}
/// How often a thread gave the processor up, or lost it: a sleeping one does neither.
long switches_of(int thread) {
  std::ifstream status{"/proc/self/task/" + std::to_string(thread) + "/status"};
  long all = 0;
  for (std::string line; std::getline(status, line);)
    if (line.find("ctxt_switches") != std::string::npos)
      all += std::stol(line.substr(line.find(':') + 1));
  return all;
}
}  // namespace

TEST_SUITE("pool/manager") {
  TEST_CASE("wq-16: a thread that is not to be had is asked for three times more, ever later") {
    script script;
    script.refuse(EAGAIN, 3, 1);  // the manager is to be had
    job one;
    scripted_pool pool;
    pool.enqueue(one);
    CHECK(one.wait());
    CHECK(one.cancellations() == 0);
    auto const log = script.creations();
    REQUIRE(log.size() == 5);
    CHECK(log[1].error == EAGAIN);
    CHECK(log[3].error == EAGAIN);
    CHECK(log[4].error == 0);
    for (int retry = 1; retry <= 3; ++retry)
      CHECK(log[static_cast<std::size_t>(retry) + 1].at - log[static_cast<std::size_t>(retry)].at >=
            5ms * retry);
    CHECK(pool.stats().create_failures == 0);
  }

  TEST_CASE("wq-17: if no worker can be had the queued items fail with the reason") {
    for (int const error : {EAGAIN, ENOMEM}) {
      script script;
      script.refuse(error, script::for_ever, 1);
      jobs all;
      scripted_pool pool{{.nodes = iowq::topology::of({{0}, {1}})}};
      for (int i = 0; i < 20; ++i) {
        iowq::work_flags flags{.unbound = i % 2 == 0, .node = i / 2 % 2};
        if (i % 3 == 0) flags.key = 1;
        all.add({}, flags);
      }
      all.enqueue_all(pool);
      REQUIRE(all.wait_all());
      for (auto& one : all) {
        CHECK(one->cancellations() == 1);
        CHECK(one->error() == error);
      }
      CHECK(pool.stats().create_failures >= 1);
      CHECK(pool.stats().keys == 0);
    }
  }

  TEST_CASE("wq-18: a failed creation is forgotten: a later one succeeds at the limit of 1") {
    script script;
    script.refuse(EAGAIN, script::for_ever, 1);
    scripted_pool pool{{.max_workers = {1, 1}}};
    job one;
    pool.enqueue(one);
    REQUIRE(one.wait());
    CHECK(one.error() == EAGAIN);
    script.refuse(0, 0);
    pool.enqueue(one);
    REQUIRE(one.wait(2));
    CHECK(one.error() == 0);
    CHECK(one.starts() == 1);
    CHECK(eventually([&] { return quiet(pool); }));
  }

  TEST_CASE("wq-17: if not even a manager can be had, the owner tries again each time") {
    script script;
    script.refuse(EPERM);
    job one;
    job key_head{{}, {.unbound = true, .key = 1}}, next_head{{}, {.key = 1}};
    scripted_pool pool;
    pool.enqueue(one);
    REQUIRE(one.ends() == 1);  // at once: nobody else would
    CHECK(one.error() == EPERM);
    pool.enqueue(key_head);
    pool.enqueue(next_head);
    CHECK(key_head.error() == EPERM);
    CHECK(next_head.error() == EPERM);
    std::jthread stranger{[&] { pool.enqueue(one); }};  // who must not fork
    CHECK(one.wait(2));
    stranger.join();
    int const me = iowq::detail::linux_policy::thread_id();
    for (auto& attempt : script.creations()) CHECK(attempt.by == me);
    script.refuse(0, 0);
    pool.enqueue(one);
    CHECK(one.wait(3));
    CHECK(one.starts() == 1);
  }

  TEST_CASE("wq-17: if the context changed and no manager can be had, what waits fails at once") {
    script script;
    gate hold;
    scripted_pool pool{{.max_workers = {1, 1}}};
    job bound{behind(hold)}, unbound{behind(hold), {.unbound = true}};
    job key_head{{}, {.unbound = true, .key = 1}}, next_head{{}, {.key = 1}}, plain;
    pool.enqueue(bound);
    pool.enqueue(unbound);
    REQUIRE(bound.wait_started());
    REQUIRE(unbound.wait_started());
    for (job* one : {&key_head, &next_head, &plain}) pool.enqueue(*one);
    script.refuse(EPERM);
    pool.context_changed();
    for (job* one : {&key_head, &next_head, &plain}) CHECK(one->error() == EPERM);
    CHECK(bound.ends() + unbound.ends() == 0);
    hold.open();
    CHECK(bound.wait());
    CHECK(unbound.wait());
    script.refuse(0, 0);
    for (job* one : {&key_head, &next_head, &plain}) {
      pool.enqueue(*one);
      CHECK(one->wait(2));
      CHECK(one->error() == 0);
    }
  }

  TEST_CASE("with a worker left, a failed creation fails no item") {
    script script;
    gate hold;
    job blocked{behind(hold)}, next;
    scripted_pool pool{{.max_workers = {4, 1}}};
    pool.enqueue(blocked);
    REQUIRE(blocked.wait_started());
    script.refuse(ENOMEM);
    pool.enqueue(next);
    CHECK(eventually([&] { return pool.stats().create_failures > 2; }));
    CHECK(next.ends() == 0);
    hold.open();
    CHECK(next.wait());
    CHECK(next.error() == 0);
    CHECK(blocked.wait());
  }

  TEST_CASE("wq-19: threads are named after the owner") {
    iowq::pool pool;
    job one;
    pool.enqueue(one);
    REQUIRE(one.wait());
    std::string const me = std::to_string(iowq::detail::linux_policy::thread_id());
    CHECK(threads_named("iow-wrk-" + me).size() == 1);
    CHECK(threads_named("iow-mgr-" + me).size() == 1);
  }

  TEST_CASE("wq-20: the owner forks the manager, the manager every worker, nobody else") {
    script script;
    scripted_pool pool{{.max_workers = {4, 4}}};
    gate hold;
    jobs all;
    for (int i = 0; i < 8; ++i) all.add(behind(hold), {.unbound = i % 2 == 0});
    {
      std::jthread stranger{[&] { all.enqueue_all(pool); }};
    }
    for (auto& one : all) REQUIRE(one->wait_started());
    int const me = iowq::detail::linux_policy::thread_id();
    std::vector<int> const managers = threads_named("iow-mgr-" + std::to_string(me));
    REQUIRE(managers.size() == 1);
    auto const log = script.creations();
    REQUIRE(log.size() == 9);
    CHECK(log[0].by == me);
    for (std::size_t i = 1; i < log.size(); ++i) CHECK(log[i].by == managers[0]);
    hold.open();
    CHECK(all.wait_all());

    pool.context_changed();  // another epoch, another manager
    job next;
    {
      std::jthread stranger{[&] { pool.enqueue(next); }};
    }
    REQUIRE(next.wait());
    std::vector<int> const later = threads_named("iow-mgr-" + std::to_string(me));
    REQUIRE(later.size() == 1);
    auto const both = script.creations();
    REQUIRE(both.size() >= 11);
    CHECK(both[9].by == me);
    for (std::size_t i = 10; i < both.size(); ++i) CHECK(both[i].by == later[0]);
  }

  TEST_CASE("wq-28: the manager makes no system call while no item waits for a worker") {
    counting_policy::calls = 0;
    iowq::basic_pool<counting_policy> pool{{.max_workers = {4, 4}, .idle_timeout = 1h}};
    job warm;
    pool.enqueue(warm);
    REQUIRE(warm.wait());
    int const me = iowq::detail::linux_policy::thread_id();
    std::vector<int> const managers = threads_named("iow-mgr-" + std::to_string(me));
    REQUIRE(managers.size() == 1);
    // Two workers of each class, so that nothing below needs another one.
    for (bool const unbound : {false, true}) {
      gate hold;
      jobs two;
      for (int i = 0; i < 2; ++i) two.add(behind(hold), {.unbound = unbound, .concurrent = true});
      two.enqueue_all(pool);
      for (auto& one : two) REQUIRE(one->wait_started());
      hold.open();
      REQUIRE(two.wait_all());
    }
    CHECK(counting_policy::calls > 0);  // it created them
    auto const calm = [&] {
      long const now = counting_policy::calls;
      std::this_thread::sleep_for(2ms);  // longer than it goes on looking
      return now == counting_policy::calls && quiet(pool);
    };
    REQUIRE(eventually(calm));
    long const switches = switches_of(managers[0]);
    long const calls = counting_policy::calls;
    auto const unparks = pool.stats().unparks;
    auto const nothing_happened = [&] {
      std::this_thread::sleep_for(50ms);  // what it must not do, it would do within
      CHECK(counting_policy::calls == calls);
      CHECK(switches_of(managers[0]) == switches);
      CHECK(pool.stats().unparks == unparks);
    };
    nothing_happened();  // idle

    for (int round = 2; round <= 200; ++round) {
      pool.enqueue(warm);
      REQUIRE(warm.wait(round));
    }
    nothing_happened();  // the workers kept up

    gate hold;
    jobs blocked, queued;
    for (bool const unbound : {false, false, true, true})
      blocked.add(behind(hold), {.unbound = unbound});
    blocked.enqueue_all(pool);
    for (auto& one : blocked) REQUIRE(one->wait_started());
    nothing_happened();  // all workers block, there may be more, and no item waits

    hold.open();
    REQUIRE(blocked.wait_all());

    // The manager is awake to create the third worker, and sleeps although all three compute.
    std::atomic<bool> over{false};
    jobs computing;
    for (int i = 0; i < 3; ++i)
      computing.add(
          [&](const iowq::stop_token&) {
            while (!over) iowq::detail::linux_policy::relax();
          },
          {.concurrent = true});
    computing.enqueue_all(pool);
    for (auto& one : computing) REQUIRE(one->wait_started());
    CHECK(counting_policy::calls > calls);
    auto const is_parked = [&] {
      long const now = counting_policy::calls;
      std::this_thread::sleep_for(50ms);
      return now == counting_policy::calls;
    };
    CHECK(eventually(is_parked));
    over = true;
    REQUIRE(computing.wait_all());
  }

  TEST_CASE("wq-28: the manager makes no system call while the account is full") {
    counting_policy::calls = 0;
    iowq::basic_pool<counting_policy> pool{{.max_workers = {1, 1}, .idle_timeout = 1h}};
    gate hold;
    job first{behind(hold)};
    pool.enqueue(first);
    REQUIRE(first.wait_started());
    auto const calm = [&] {
      long const now = counting_policy::calls;
      std::this_thread::sleep_for(2ms);
      return now == counting_policy::calls;
    };
    REQUIRE(eventually(calm));
    long const calls = counting_policy::calls;
    auto const unparks = pool.stats().unparks;
    jobs all;
    for (int i = 0; i < 100; ++i) all.add();
    all.enqueue_all(pool);
    std::this_thread::sleep_for(50ms);  // what it must not do, it would do within
    CHECK(pool.stats().bound.queued == 100);
    CHECK(counting_policy::calls == calls);
    CHECK(pool.stats().unparks == unparks);
    hold.open();
    REQUIRE(all.wait_all());
    REQUIRE(first.wait());
  }

  TEST_CASE("hazard-51: a reservation whose work has gone creates no worker") {
    // The manager is held in a look; meanwhile an item asks for a worker, and is cancelled.
    script script;
    gate looking, go_on, hold;
    std::atomic<bool> first{true};
    script.at_pause = [&](iowq::detail::pause_point point) {
      if (point != iowq::detail::pause_point::sample_apply || !first.exchange(false)) return;
      looking.open();
      (void)go_on.wait();
    };
    scripted_pool pool{{.max_workers = {8, 1}}};
    job blocked{behind(hold)}, waits, wants{{}, {.concurrent = true}};
    pool.enqueue(blocked);
    REQUIRE(blocked.wait_started());
    pool.enqueue(waits);
    REQUIRE(looking.wait());
    pool.enqueue(wants);
    CHECK(pool.cancel(wants) == iowq::cancel_outcome::dequeued);
    CHECK(pool.cancel(waits) == iowq::cancel_outcome::dequeued);
    go_on.open();
    hold.open();
    CHECK(blocked.wait());
    CHECK(eventually([&] { return quiet(pool); }));
    pool.enqueue(wants);
    CHECK(wants.wait(2));
    CHECK(pool.stats().created == 1);
  }

  TEST_CASE("the pool's end interrupts a creation that is being retried") {
    // The second attempt is held until the owner waits for the manager, which then has to notice
    // that before it makes the third.
    iowq_test::leak_check books;
    int const me = iowq::detail::linux_policy::thread_id();
    for (int round = 0; round < 20; ++round) {
      script script;
      script.refuse(EAGAIN, script::for_ever, 1);
      std::atomic<int> attempts{0};
      std::atomic<bool> ending{false};
      gate retried;
      script.at_pause = [&](iowq::detail::pause_point point) {
        if (point != iowq::detail::pause_point::decide_create || ++attempts != 2) return;
        retried.open();
        iowq_test::spin_until([&] { return ending && iowq_test::is_asleep(std::to_string(me)); });
      };
      job one;
      {
        scripted_pool pool;
        pool.enqueue(one);
        REQUIRE(retried.wait());
        ending = true;
      }
      CHECK(attempts == 2);
      CHECK(one.starts() == 0);
      CHECK(one.ends() == 1);
      CHECK(one.cancellations() == 1);
    }
  }

  TEST_CASE("wq-76: a leaving worker whose thread does not end delays no creation") {
    struct slow_exit {
      gate *entered = nullptr, *go_on = nullptr;
      ~slow_exit() {
        if (entered == nullptr) return;
        entered->open();
        (void)go_on->wait();
      }
    };
    for (bool const in_finished : {false, true}) {
      CAPTURE(in_finished);
      gate in_exit, go_on, hold;
      iowq::pool pool{{.max_workers = {4, 1}, .idle_timeout = 0ms, .spin = 0ns}};
      job blocked{behind(hold), {.concurrent = true}};
      job leaver{[&](const iowq::stop_token&) {
                   if (in_finished) return;
                   static thread_local slow_exit at_exit;
                   at_exit.entered = &in_exit;
                   at_exit.go_on = &go_on;
                 },
                 {.concurrent = true}};
      gate leave;
      if (in_finished) {
        leaver.then = [&](job&) {
          in_exit.open();
          (void)go_on.wait();
        };
      }
      pool.enqueue(blocked);
      REQUIRE(blocked.wait_started());
      job also{[&](const iowq::stop_token&) { (void)leave.wait(); }, {.concurrent = true}};
      pool.enqueue(also);
      REQUIRE(also.wait_started());
      if (in_finished) {
        also.then = leaver.then;
        (void)pool.set_max_workers({1, 0});  // so that its worker leaves after the item
      } else {
        pool.enqueue(leaver);
      }
      leave.open();
      REQUIRE(in_exit.wait());
      (void)pool.set_max_workers({4, 0});
      jobs more;
      for (int i = 0; i < 2; ++i) more.add(behind(hold), {.concurrent = true});
      more.enqueue_all(pool);
      CHECK(iowq_test::within(10, [&] { return more[0].starts() + more[1].starts() == 2; }));
      hold.open();
      CHECK(more.wait_all());
      go_on.open();
      CHECK(blocked.wait());
      CHECK(also.wait());
      if (!in_finished) CHECK(leaver.wait());
    }
  }
}
