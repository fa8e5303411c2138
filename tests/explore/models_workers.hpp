// SPDX-License-Identifier: BSL-1.0
// The pool's workers: woken, asleep, idle, created or not to be had, as many as allowed.
#pragma once

#include <chrono>

#include "model.hpp"

namespace explore {

// ---- Enqueue, and the worker that goes to sleep ----

EXPLORE_MODEL(wake, one_item, "an item is executed and finished, and the pool ends") {
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
  check(one.ran(), "it did not run");
}

EXPLORE_MODEL(wake, two_items, "an item that comes while the worker goes idle is not left behind") {
  job one, two;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
  pool.enqueue(two);
  two.done.wait();
  check(one.ran() && two.ran(), "one did not run");
}

EXPLORE_MODEL(wake, two_enqueuers, "two threads enqueue for one worker: both items run") {
  job one, two;
  pool_under_test pool{workers(1)};
  thread other{"other", [&] { pool.enqueue(two); }};
  pool.enqueue(one);
  one.done.wait();
  two.done.wait();
}

EXPLORE_MODEL(wake, again_from_finished, "an item may be enqueued again from its own finished()") {
  job one;
  one.times = 2;
  pool_under_test pool{workers(1)};
  one.after = [&, left = 1](job& self) mutable {
    if (left-- > 0) pool.enqueue(self);
  };
  pool.enqueue(one);
  one.done.wait(2);
}

EXPLORE_MODEL(wake, adaptive_spinner, "a worker that spins sees an item, or sleeps and is woken") {
  here.spinners_are_free = true;
  the_machine.processors = 4;
  job one, two;
  iowq::pool_options options = workers(1);
  options.spin = std::chrono::microseconds{2};
  pool_under_test pool{options};
  pool.enqueue(one);
  one.done.wait();
  pool.enqueue(two);
  two.done.wait();
  enough();
}

EXPLORE_MODEL(wake, spinner_and_sleeper, "with one worker spinning and one asleep, two items run") {
  the_machine.processors = 8;
  job one{{.concurrent = true}}, two{{.concurrent = true}}, three;
  iowq::pool_options options = workers(2);
  options.spin = std::chrono::microseconds{1};
  pool_under_test pool{options};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  one.done.wait();
  two.done.wait();
  pool.enqueue(three);
  three.done.wait();
  enough();
}

EXPLORE_MODEL(wake, for_no_reason, "a futex that is woken for no reason ends no wait") {
  here.spurious_wakes = true;
  job one, two;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
  pool.enqueue(two);
  two.done.wait();
}

EXPLORE_MODEL(wake, brief_chain, "of a chain of brief items each runs and finishes once") {
  job one{{.brief = true}}, two{{.brief = true}}, three{{.brief = true}};
  pool_under_test pool{workers(2)};
  iowq::work_chain some;
  some.push_back(one);
  some.push_back(two);
  some.push_back(three);
  thread other{"other", [&] { pool.enqueue(some); }};
  one.done.wait();
  two.done.wait();
  three.done.wait();
}

EXPLORE_MODEL(wake, waits_for_the_next, "an item that sleeps until the next one ran gets its way") {
  gate opened;
  job sleeper{{}, [&](job&, auto&) { opened.wait(); }};
  job opener{{}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(2)};
  pool.enqueue(sleeper);
  pool.enqueue(opener);
  sleeper.done.wait();
  opener.done.wait();
}

EXPLORE_MODEL(wake, waits_in_a_region, "... and so if it says that it may block") {
  gate opened;
  job sleeper{{}, [&](job&, auto&) {
                region const blocking;
                opened.wait();
              }};
  job opener{{}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(2)};
  pool.enqueue(sleeper);
  pool.enqueue(opener);
  sleeper.done.wait();
  opener.done.wait();
}

EXPLORE_MODEL(wake, idle_one_for_a_sleeper, "on one processor, an idle worker relieves a sleeper") {
  gate opened;
  job one{{.concurrent = true}}, two{{.concurrent = true}};
  job sleeper{{}, [&](job&, auto&) { opened.wait(); }};
  job opener{{}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(2)};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  one.done.wait();
  two.done.wait();
  both.push_back(sleeper);
  both.push_back(opener);
  pool.enqueue(both);
  sleeper.done.wait();
  opener.done.wait();
  enough();
}

EXPLORE_MODEL(wake, idle_one_beside_a_computing,
              "on one processor, an idle worker takes what waits behind an item that computes") {
  the_machine.all_compute = true;
  gate opened, first, second;  // the first two meet, so that there are two workers
  job one{{.concurrent = true}, [&](job&, auto&) {
            first.open();
            second.wait();
          }};
  job two{{.concurrent = true}, [&](job&, auto&) {
            second.open();
            first.wait();
          }};
  job computes{{}, [&](job&, auto&) { opened.wait(); }};
  job opener{{}, [&](job&, auto&) { opened.open(); }};
  iowq::pool_options options = workers(2);
  options.idle_timeout = std::chrono::milliseconds::max();  // or the idle worker may leave
  pool_under_test pool{options};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  one.done.wait();
  two.done.wait();
  both.push_back(computes);
  both.push_back(opener);
  pool.enqueue(both);
  computes.done.wait();
  opener.done.wait();
  enough();
}

EXPLORE_MODEL(wake, marked_while_waking, "a worker that is taken for asleep as it wakes goes on") {
  gate opened;
  job sleeper{{}, [&](job&, auto&) {
                {
                  region const blocking;
                  opened.wait();
                }
                region const again;
              }};
  job next;
  pool_under_test pool{workers(2)};
  pool.enqueue(sleeper);
  pool.enqueue(next);
  opened.open();
  sleeper.done.wait();
  next.done.wait();
  check(pool.stats().bound.blocked == 0, "somebody is taken for asleep without an item");
}

EXPLORE_MODEL(wake, classes_apart, "a class whose workers all wait does not hold up the other") {
  gate opened;
  job sleeper{{}, [&](job&, auto&) { opened.wait(); }};
  job opener{{.unbound = true}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(1)};
  pool.enqueue(sleeper);
  pool.enqueue(opener);
  sleeper.done.wait();
  opener.done.wait();
}

EXPLORE_MODEL(wake, concurrent,
              "items that want workers of their own meet, though neither sleeps") {
  atomic<int> met{0};
  auto meet = [&](job&, auto&) {
    met.fetch_add(1, std::memory_order_relaxed);
    while (met.load(std::memory_order_relaxed) < 2) policy::relax();
  };
  job one{{.concurrent = true}, meet}, two{{.concurrent = true}, meet};
  pool_under_test pool{workers(2)};
  pool.enqueue(one);
  pool.enqueue(two);
  one.done.wait();
  two.done.wait();
}

// ---- Idle time, and the end of it ----

EXPLORE_MODEL(idle, time_out_against_enqueue, "the last worker times out as an item comes") {
  job one, two;
  iowq::pool_options options = workers(1);
  options.exit_on_idle = true;
  pool_under_test pool{options};
  pool.enqueue(one);
  one.done.wait();
  pool.enqueue(two);
  two.done.wait();
}

EXPLORE_MODEL(idle, last_stays, "when two time out one of them stays, and takes what comes") {
  gate opened;
  job sleeper{{}, [&](job&, auto&) { opened.wait(); }};
  job opener{{.concurrent = true}, [&](job&, auto&) { opened.open(); }};
  job last;
  pool_under_test pool{workers(2)};
  pool.enqueue(sleeper);
  pool.enqueue(opener);
  sleeper.done.wait();
  opener.done.wait();
  pool.enqueue(last);
  last.done.wait();
  enough();
}

EXPLORE_MODEL(idle, both_leave, "with exit_on_idle all may leave; what comes then has one made") {
  job one{{.concurrent = true}}, two{{.concurrent = true}}, last;
  iowq::pool_options options = workers(2);
  options.exit_on_idle = true;
  pool_under_test pool{options};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  one.done.wait();
  two.done.wait();
  pool.enqueue(last);
  last.done.wait();
  enough();
}

// ---- Threads that are not to be had ----

inline void refuse(int from, int count, int error = EAGAIN) {
  the_machine.refuse_from = from;
  the_machine.refuse_count = count;
  the_machine.refuse_error = error;
}

EXPLORE_MODEL(create, again, "a worker that is not to be had at first is had later") {
  refuse(1, 2);
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
}

EXPLORE_MODEL(create, no_worker, "where no worker is to be had, an item fails with the reason") {
  refuse(1, 100, ENOMEM);
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
  check(one.was_cancelled() && one.error() == ENOMEM, "it does not say why");
}

EXPLORE_MODEL(create, no_second_worker, "with one worker there, what waits runs when it can") {
  gate opened;
  refuse(2, 100);
  job sleeper{{}, [&](job&, auto&) { opened.wait(); }};
  job next;
  pool_under_test pool{workers(2)};
  pool.enqueue(sleeper);
  pool.enqueue(next);
  opened.open();
  sleeper.done.wait();
  next.done.wait();
  check(next.ran(), "it failed though there is a worker");
}

EXPLORE_MODEL(create, no_manager_at_first, "the owner's next item starts the manager that failed") {
  refuse(0, 1);
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
  check(one.ran(), "it failed though a thread was to be had");
}

EXPLORE_MODEL(create, no_manager, "where there is no manager, everybody's item fails or runs") {
  refuse(0, 2);
  job one, two;
  pool_under_test pool{workers(1)};
  thread other{"other", [&] { pool.enqueue(two); }};
  pool.enqueue(one);
  one.done.wait();
  two.done.wait();
}

EXPLORE_MODEL(create, no_manager_for_keys,
              "... and so does what waits behind a key, in any class") {
  refuse(0, 100);
  job one{{.unbound = true, .key = 7}}, two{{.key = 7}};
  pool_under_test pool{workers(1)};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  one.done.wait();
  two.done.wait();
}

EXPLORE_MODEL(create, key_to_the_other_class, "what fails passes its key on to the other class") {
  refuse(1, 100, ENOMEM);
  job one{{.key = 7}}, two{{.unbound = true, .key = 7}};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  one.done.wait();
  two.done.wait();
}

// ---- Limits ----

EXPLORE_MODEL(limit, raised, "a limit that is raised lets the next item run beside a sleeper") {
  gate opened;
  job sleeper{{}, [&](job&, auto&) { opened.wait(); }};
  job opener{{}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(1)};
  pool.enqueue(sleeper);
  pool.enqueue(opener);
  (void)pool.set_max_workers({2, 0});
  sleeper.done.wait();
  opener.done.wait();
}

EXPLORE_MODEL(limit, lowered, "a limit that is lowered under load leaves enough to go on") {
  job one{{.concurrent = true}}, two{{.concurrent = true}}, last;
  pool_under_test pool{workers(2)};
  thread other{"other", [&] {
                 iowq::work_chain both;
                 both.push_back(one);
                 both.push_back(two);
                 pool.enqueue(both);
               }};
  check(pool.set_max_workers({1, 0}).bound == 2, "it does not say what was");
  one.done.wait();
  two.done.wait();
  pool.enqueue(last);
  last.done.wait();
  check(pool.stats().bound.max_workers == 1, "it is not lowered");
}

EXPLORE_MODEL(limit, lowered_and_raised, "a limit that goes down and up strands nobody") {
  gate opened;
  job sleeper{{}, [&](job&, auto&) { opened.wait(); }};
  job opener{{}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(2)};
  thread other{"other", [&] {
                 (void)pool.set_max_workers({1, 0});
                 (void)pool.set_max_workers({2, 0});
               }};
  pool.enqueue(sleeper);
  pool.enqueue(opener);
  sleeper.done.wait();
  opener.done.wait();
  enough();
}

}  // namespace explore
