// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/worker.hpp>

#include <doctest/doctest.h>

#include "jobs.hpp"
#include "leak_check.hpp"

namespace {
using iowq::detail::phase;
using policy = iowq::detail::linux_policy;
using worker = iowq::detail::worker<policy>;
using iowq_test::job;
}  // namespace

TEST_SUITE("pool/worker") {
  TEST_CASE(
      "every value of the progress counter differs from the one before and says what the worker is "
      "at") {
    iowq::detail::pool_state<policy> pool;
    worker one{pool};
    CHECK(one.at() == phase::pool);
    for (phase const next :
         {phase::item, phase::item, phase::blocking_region, phase::pool, phase::pool}) {
      std::uint64_t const before = one.progress_counter.load();
      one.enter(next);
      CHECK(one.at() == next);
      CHECK(one.progress_counter.load() > before);
    }
  }

  TEST_CASE("a region on a worker stamps its beginning and its end, and nests") {
    iowq::pool pool;
    bool right = false;
    job look{[&](const iowq::stop_token&) {
      worker* const me = worker::current();
      if (me == nullptr || me->at() != phase::item) return;
      {
        iowq::blocking_region outer;
        if (me->at() != phase::blocking_region) return;
        {
          iowq::blocking_region inner;
        }
        if (me->at() != phase::blocking_region) return;
      }
      right = me->at() == phase::item;
    }};
    pool.enqueue(look);
    REQUIRE(look.wait());
    CHECK(right);
  }

  TEST_CASE("the wake descriptor is opened once a worker, when first asked for") {
    iowq_test::leak_check books;
    iowq::pool pool;
    int const before = iowq_test::open_descriptors();
    int first = -1, second = -2, after = 0;
    job quiet;
    pool.enqueue(quiet);
    REQUIRE(quiet.wait());
    CHECK(iowq_test::open_descriptors() == before);
    job asks{[&](const iowq::stop_token&) {
      first = iowq::this_worker::wake_descriptor();
      second = iowq::this_worker::wake_descriptor();
      after = iowq_test::open_descriptors();
    }};
    pool.enqueue(asks);
    REQUIRE(asks.wait());
    CHECK(first >= 0);
    CHECK(first == second);
    CHECK(after == before + 1);
    CHECK(iowq::this_worker::wake_descriptor() == -1);  // not from here
  }
}
