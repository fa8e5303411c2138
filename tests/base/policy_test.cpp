// SPDX-License-Identifier: BSL-1.0
#include <iowq/base/policy.hpp>

#include <poll.h>
#include <sys/resource.h>

#include <string_view>
#include <thread>

#include <doctest/doctest.h>

#include "leak_check.hpp"

namespace {
using iowq::detail::linux_policy;
using iowq::detail::never;
using iowq::detail::time_point;
using namespace std::chrono_literals;

static_assert(iowq::detail::steady_clock::is_steady);
static_assert(sizeof(iowq::detail::atomic<std::uint32_t>) ==
              sizeof(std::uint32_t));  // futex(2) reads it

bool readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}
}  // namespace

TEST_SUITE("base/policy") {
  TEST_CASE("hazard-91: every deadline has a timespec that the kernel accepts") {
    const timespec some = linux_policy::to_timespec(time_point{3s + 7ns});
    CHECK(some.tv_sec == 3);
    CHECK(some.tv_nsec == 7);
    for (time_point early : {time_point{}, time_point{-1ns}, time_point::min()}) {
      const timespec epoch = linux_policy::to_timespec(early);
      CHECK(epoch.tv_sec == 0);
      CHECK(epoch.tv_nsec == 0);
    }
    const timespec last = linux_policy::to_timespec(never);
    CHECK(last.tv_sec == never.time_since_epoch() / 1s);
    CHECK(last.tv_nsec >= 0);
    CHECK(last.tv_nsec < 1'000'000'000);
  }

  TEST_CASE("the clock is the one the kernel counts absolute timeouts by") {
    const time_point before = linux_policy::now();
    timespec kernel{};
    REQUIRE(::clock_gettime(CLOCK_MONOTONIC, &kernel) == 0);
    const time_point between{std::chrono::seconds{kernel.tv_sec} +
                             std::chrono::nanoseconds{kernel.tv_nsec}};
    CHECK(before <= between);
    CHECK(between <= linux_policy::now());
  }

  TEST_CASE("futex_wait returns at once for another value, and false after the deadline") {
    linux_policy::atomic<std::uint32_t> word{1};
    CHECK(linux_policy::futex_wait(word, 2, never));
    CHECK_FALSE(linux_policy::futex_wait(word, 1, time_point{}));
    const time_point deadline = linux_policy::now() + 1ms;
    while (linux_policy::futex_wait(word, 1, deadline)) {  // true: it woke for no reason
    }
    CHECK(linux_policy::now() >= deadline);
  }

  TEST_CASE("futex_wake ends a wait without a deadline") {
    linux_policy::atomic<std::uint32_t> word{0};
    std::thread sleeper{[&] {
      while (word.load(std::memory_order_acquire) == 0) linux_policy::futex_wait(word, 0, never);
    }};
    word.store(1, std::memory_order_release);
    linux_policy::futex_wake(word, 1);
    sleeper.join();  // hangs if the wake-up was lost
    CHECK(word.load() == 1);
  }

  TEST_CASE("a thread keeps its number and shares it with no other") {
    const int mine = linux_policy::thread_id();
    int others = mine;
    std::thread{[&] { others = linux_policy::thread_id(); }}.join();
    CHECK(others != mine);
    CHECK(linux_policy::thread_id() == mine);
    CHECK(mine == linux_policy::process_id());  // the main thread's
  }

  TEST_CASE("the coarse clock runs behind the fine one, never ahead of it") {
    const time_point coarse = linux_policy::now_coarsely();
    const time_point fine = linux_policy::now();
    CHECK(coarse <= fine);
    CHECK(fine - coarse < 1h);  // the same clock: since boot, not since 1970
  }

  TEST_CASE("a thread starts whatever stack it asks for, and takes no signal but its own faults") {
    for (std::size_t stack : {std::size_t{1}, std::size_t{256 * 1024}}) {
      struct {
        sigset_t blocked{};
        char name[16]{};
      } seen;
      auto body = [](void* into) -> void* {
        auto& here = *static_cast<decltype(seen)*>(into);
        ::pthread_sigmask(SIG_BLOCK, nullptr, &here.blocked);
        linux_policy::thread_name("a-worker");
        ::pthread_getname_np(::pthread_self(), here.name, sizeof here.name);
        return nullptr;
      };
      sigset_t before{}, after{};
      ::pthread_sigmask(SIG_BLOCK, nullptr, &before);
      linux_policy::thread thread{};
      REQUIRE(linux_policy::thread_start(thread, body, &seen, stack) == 0);
      linux_policy::thread_join(thread);
      ::pthread_sigmask(SIG_BLOCK, nullptr, &after);
      for (int number : {SIGTERM, SIGUSR1, SIGCHLD}) {
        CHECK(sigismember(&seen.blocked, number) == 1);
        CHECK(sigismember(&after, number) == sigismember(&before, number));
      }
      for (int number : {SIGSEGV, SIGABRT}) CHECK(sigismember(&seen.blocked, number) == 0);
      CHECK(std::string_view{seen.name} == "a-worker");
    }
  }

  TEST_CASE("read_text gives the beginning of a file, terminated, or -errno") {
    char text[5];
    CHECK(linux_policy::read_text("/proc/self/status", text, sizeof text) == 4);
    CHECK(std::string_view{text} == "Name");
    CHECK(linux_policy::read_text("/nowhere", text, sizeof text) == -ENOENT);
    CHECK(linux_policy::read_text("/proc", text, sizeof text) == -EISDIR);
    CHECK(text[0] == 0);
  }

  TEST_CASE("a rung wake descriptor is readable until it is drained") {
    iowq_test::leak_check books;
    const int bell = linux_policy::wake_open();
    REQUIRE(bell >= 0);
    CHECK_FALSE(readable(bell));
    linux_policy::wake_ring(bell);
    linux_policy::wake_ring(bell);
    CHECK(readable(bell));
    linux_policy::wake_drain(bell);
    CHECK_FALSE(readable(bell));
    linux_policy::wake_drain(bell);  // nothing to take: must not block

    const std::uint64_t full = ~std::uint64_t{0} - 1;
    REQUIRE(::write(bell, &full, sizeof full) == sizeof full);
    linux_policy::wake_ring(bell);  // no room: must not block either
    CHECK(readable(bell));
    linux_policy::wake_close(bell);
  }

  TEST_CASE("a wake descriptor that cannot be had is an error, not a number") {
    rlimit limit{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
    const rlimit none{0, limit.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    const int bell = linux_policy::wake_open();
    ::setrlimit(RLIMIT_NOFILE, &limit);
    CHECK(bell == -EMFILE);
  }
}
