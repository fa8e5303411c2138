// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/punt.hpp>  // first and alone

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/flow/for_each.hpp>

#include "leak_check.hpp"
#include "waiting.hpp"

namespace {
using iowq::task;

std::string thread_name() {
  char name[16] = "";
  ::pthread_getname_np(::pthread_self(), name, sizeof name);
  return name;
}
}  // namespace

TEST_SUITE("exec/punt") {
  TEST_CASE("a punt yields what the callable returns, whatever that is") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      int here = 5;
      auto const ref = [&here]() -> int& { return here; };
      auto const own = [] { return std::make_unique<int>(6); };
      CHECK(co_await iowq::punt([] { return 4; }) == 4);
      CHECK(&co_await iowq::punt(ref) == &here);
      auto const six = co_await iowq::punt(own);
      CHECK(*six == 6);
      co_await iowq::punt([&here] { here = 7; });
      CHECK(here == 7);
    };
    iowq::run(body());
  }

  TEST_CASE("wq-1: it runs on a worker of the pool and goes on on the owner") {
    auto const body = []() -> task<> {
      auto const owner = ::pthread_self();
      auto const name = co_await iowq::punt([] { return thread_name(); });
      CHECK(name == "iow-wrk-" + std::to_string(iowq::detail::linux_policy::thread_id()));
      CHECK(::pthread_equal(owner, ::pthread_self()) != 0);
    };
    iowq::run(body());
  }

  TEST_CASE("wq-7: bound workers by default are min(entries, 4 x processors)") {
    iowq::cpu_set const own = [] {
      cpu_set_t cpus;
      CPU_ZERO(&cpus);
      iowq::detail::linux_policy::affinity(cpus);
      return iowq::cpu_set{cpus};
    }();
    for (unsigned const entries : {2u, 4096u}) {
      iowq::executor ex{{.entries = entries}};
      CHECK(ex.pool().stats().bound.max_workers == std::min(entries, 4 * own.count()));
    }
  }

  TEST_CASE("hazard-66: what the callable throws is rethrown at the await") {
    auto const body = []() -> task<> {
      auto const call = []() -> int { throw std::runtime_error("from a worker"); };
      bool caught = false;
      try {
        (void)co_await iowq::punt(call);
      } catch (const std::runtime_error& e) {
        caught = std::string{e.what()} == "from a worker";
      }
      CHECK(caught);
      auto const system = [] { iowq::detail::throw_error(-EDOM, "call"); };
      auto const r = co_await iowq::as_result(iowq::punt(system));
      CHECK(r.error() == std::errc::argument_out_of_domain);
      CHECK(co_await iowq::punt([] { return 1; }) == 1);  // the worker survived
    };
    iowq::run(body());
  }

  TEST_CASE("hazard-16: an owning closure that is named and moved in is destroyed once") {
    iowq_test::counted::reset();
    auto const body = []() -> task<> {
      auto call = [own = iowq_test::counted{3}] { return own.value; };
      CHECK(co_await iowq::punt(iowq::moved(call)) == 3);
      auto lent = [own = iowq_test::counted{4}] { return own.value; };
      CHECK(co_await iowq::punt(lent) == 4);  // copied
      CHECK(lent() == 4);
      auto owner = [p = std::make_unique<int>(5)] { return *p; };
      CHECK(co_await iowq::punt(iowq::moved(owner)) == 5);
    };
    iowq::run(body());
    CHECK(iowq_test::counted::alive() == 0);
    CHECK(iowq_test::counted::created() > 0);
  }

  TEST_CASE("punts of one key never overlap and run in the order awaited") {
    struct log {
      std::atomic<int> inside{0};
      std::atomic<bool> overlapped{false};
      std::vector<int> order;    // no lock: the key is one
      std::vector<int> awaited;  // the owner's
    } seen;
    auto const body = [](log& all) -> task<> {
      auto const add = [&all](int i) -> task<> {
        auto const call = [&all, i] {
          if (all.inside.fetch_add(1) != 0) all.overlapped = true;
          all.order.push_back(i);
          all.inside.fetch_sub(1);
        };
        all.awaited.push_back(i);
        co_await iowq::punt(call, {.key = 42});
      };
      std::vector<int> numbers(2000);
      for (int i = 0; i < 2000; ++i) numbers[static_cast<std::size_t>(i)] = i;
      co_await iowq::for_each(numbers, 500, add);
    };
    iowq::run(body(seen));
    CHECK_FALSE(seen.overlapped);
    CHECK(seen.order.size() == 2000);
    CHECK(seen.order == seen.awaited);
  }

  TEST_CASE("brief punts of one turn are taken together, and their results stay apart") {
    auto const body = []() -> task<> {
      auto& here = iowq::executor::current();
      std::vector<int> numbers(100);
      for (int i = 0; i < 100; ++i) numbers[static_cast<std::size_t>(i)] = i;
      auto const doubled = [](int number) -> task<> {
        auto const call = [number] { return 2 * number; };
        CHECK(co_await iowq::punt(call, {.brief = true}) == 2 * number);
      };
      co_await iowq::for_each(numbers, 100, doubled);
      CHECK(here.stats().pool.completed == 100);
      CHECK(here.stats().punted_ops == 100);
    };
    iowq::run(body());
  }

  TEST_CASE("hazard-52: punts that block take no worker from others, bound or unbound") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      int ends[2];
      REQUIRE(::pipe(ends) == 0);
      auto const block = [&] {
        char byte;
        return ::read(ends[0], &byte, 1);
      };
      int ended = 0;
      auto const one = [](auto call, int& n) -> task<> {
        (void)co_await iowq::punt(call);
        ++n;
      };
      for (int i = 0; i < 3; ++i) iowq::executor::current().spawn(one(block, ended));
      CHECK(co_await iowq::punt([] { return 2; }) == 2);  // though three sleep
      ::close(ends[1]);
      co_await iowq_test::until([&] { return ended >= 3; });
      ::close(ends[0]);
    };
    iowq::run(body(), {.pool = {.max_workers = {.bound = 4, .unbound = 4}}});
  }
}
