// SPDX-License-Identifier: BSL-1.0
#include <iowq/pool/detail/account.hpp>

#include <csignal>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "death.hpp"

namespace {
/// As much of a worker as an account knows.
struct record {
  unsigned node = 0;
  record* next{};
  record* prev{};
  record* next_idle{};
  record* prev_idle{};
};
using account = iowq::detail::account<record>;
using iowq::detail::item;
using iowq::detail::item_state;

account on_nodes(unsigned nodes, unsigned limit) {
  account made;
  made.node_queues = decltype(made.node_queues)(nodes);
  made.max_workers = limit;
  return made;
}
}  // namespace

TEST_SUITE("pool/account") {
  TEST_CASE("wq-13: the idle stack gives back the newest, from the nearest node that has one") {
    account all = on_nodes(2, 4);
    record a, b, c;
    c.node = 1;
    for (record* one : {&a, &b, &c}) {
      all.reserve();
      all.add(*one);
      --all.waking;
      all.push_idle(*one);
    }
    all.check();
    std::vector<std::uint8_t> const near{0, 1}, far{1, 0};
    CHECK(all.newest_idle(near) == &b);
    CHECK(all.newest_idle(far) == &c);
    all.remove_idle(b);
    CHECK(all.newest_idle(near) == &a);
    all.remove_idle(a);
    CHECK(all.newest_idle(near) == &c);
    all.remove_idle(c);
    CHECK(all.newest_idle(near) == nullptr);
    CHECK(all.waking == 3);
    all.check();
    all.waking = 0;
    for (record* one : {&a, &b, &c}) all.remove(*one);
    CHECK(all.live == 0);
    CHECK(all.peak == 3);
  }

  TEST_CASE(
      "ready items are counted by node queue and by whether they want a worker of their own") {
    account all = on_nodes(2, 4);
    item a, b;
    b.node_queue = 1;
    b.concurrent = true;
    all.make_ready(a);
    all.make_ready(b);
    CHECK(a.state == item_state::ready);
    CHECK(all.runnable == 2);
    CHECK(all.concurrent == 1);
    CHECK(all.node_queues[1].nr_ready == 1);
    item next_head;
    next_head.node_queue = 1;
    all.make_ready_at(b, next_head);
    CHECK(all.runnable == 2);
    CHECK(all.concurrent == 0);
    CHECK(all.node_queues[1].ready.front() == &next_head);
    all.unready(a);
    all.unready(next_head);
    CHECK(all.runnable == 0);
  }

  TEST_CASE("wq-70: a count that fell below zero is found although another one makes up for it") {
    struct wrong {
      unsigned live, idle, nr_running, sleeping;
    };
    unsigned const minus_one = std::numeric_limits<unsigned>::max();
    for (auto const& [live, idle, nr_running, sleeping] :
         {wrong{1, 1, minus_one, 1}, wrong{0, 0, minus_one, 1}, wrong{1, minus_one, 1, 1},
          wrong{1, 1, 1, minus_one}, wrong{1, 1, 0, 1}, wrong{2, 1, 0, 0}}) {
      auto const end = iowq_test::death_output([&] {
        account all = on_nodes(1, 4);
        all.live = live, all.idle = idle, all.nr_running = nr_running, all.sleeping = sleeping;
        all.check();
      });
      CHECK(end.signal == SIGABRT);
    }
  }
}
