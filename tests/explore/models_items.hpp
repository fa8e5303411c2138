// SPDX-License-Identifier: BSL-1.0
// The pool's items: cancelled, keyed, linked, stolen; and the end of the pool with them in it.
#pragma once

#include <cstdint>
#include <optional>

#include "model.hpp"

namespace explore {

using iowq::cancel_outcome;

// ---- Cancel ----

inline void check_outcome(cancel_outcome outcome, job& asked) {
  if (outcome == cancel_outcome::dequeued)
    check(asked.was_cancelled() && asked.error() == ECANCELED, "dequeued, but it ran");
  else
    check(!asked.was_cancelled(), "it was dequeued, and cancel() does not say so");
}

EXPLORE_MODEL(cancel, against_dequeue,
              "an item that is cancelled as a worker comes for it does one "
              "or the other") {
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  cancel_outcome const outcome = pool.cancel(one);
  one.done.wait();
  check_outcome(outcome, one);
}

EXPLORE_MODEL(cancel, against_end, "an item that is stopped as it ends: the next one is not") {
  gate begun;
  job one{{}, [&](job&, auto&) {
            (void)wake_descriptor();
            begun.open();
          }};
  bool next_was_asked = false;
  job two{{}, [&](job&, const iowq::stop_token& stop) { next_was_asked = asked_to_stop(stop); }};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  begun.wait();
  check(pool.cancel(one) != cancel_outcome::dequeued, "it had begun");
  one.done.wait();
  two.done.wait();
  check(!next_was_asked, "the wrong item was stopped");
}

EXPLORE_MODEL(cancel, wakes_a_poll, "an item that polls its descriptor sees that it is cancelled") {
  gate begun;
  job one{{}, [&](job& self, const iowq::stop_token& stop) {
            begun.open();
            until_stopped(self, stop);
          }};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  begun.wait();
  check(pool.cancel(one) == cancel_outcome::running, "it runs until it is stopped");
  one.done.wait();
}

EXPLORE_MODEL(cancel, twice_at_once, "of two that cancel one item, both are told what came of it") {
  gate begun;
  job one{{}, [&](job& self, const iowq::stop_token& stop) {
            begun.open();
            until_stopped(self, stop);
          }};
  job two;
  pool_under_test pool{workers(1)};
  thread other{"other", [&] {
                 begun.wait();
                 (void)pool.cancel(one);
               }};
  pool.enqueue(one);
  pool.enqueue(two);
  begun.wait();
  (void)pool.cancel(one);
  one.done.wait();
  two.done.wait();
  check(two.ran(), "the next item was cancelled");
}

EXPLORE_MODEL(cancel, stopped_twice, "what rang for the first item does not ring for the second") {
  gate begun;
  job one{{}, [&](job& self, const iowq::stop_token& stop) {
            begun.open();
            until_stopped(self, stop);
          }};
  job two{{}, [&](job& self, const iowq::stop_token& stop) {
            check(!is_readable(wake_descriptor()),
                  "its descriptor was cancel_requested before it began");
            begun.open();
            until_stopped(self, stop);
          }};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  begun.wait();
  (void)pool.cancel(one);
  pool.enqueue(two);
  begun.wait(2);
  check(pool.cancel(two) == cancel_outcome::running, "it runs until it is stopped");
  one.done.wait();
  two.done.wait();
}

EXPLORE_MODEL(cancel, for_no_reason, "a worker that is held stays held if its futex is woken") {
  here.spurious_wakes = true;
  gate begun, cancelled;
  job one{{}, [&](job&, auto&) { begun.open(); }};
  bool next_was_asked = false;
  job two{{}, [&](job&, const iowq::stop_token& stop) {
            cancelled.wait();
            next_was_asked = asked_to_stop(stop);
          }};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  begun.wait();
  (void)pool.cancel(one);
  cancelled.open();
  two.done.wait();
  check(!next_was_asked, "the wrong item was stopped");
  enough();
}

EXPLORE_MODEL(cancel, all_against_enqueue, "cancel_all() meets what comes meanwhile, or does not") {
  job one, two;
  pool_under_test pool{workers(1)};
  thread other{"other", [&] { pool.enqueue(two); }};
  pool.enqueue(one);
  (void)pool.cancel_all([](const iowq::work&) { return true; });
  one.done.wait();
  two.done.wait();
}

EXPLORE_MODEL(cancel, brief, "a brief item is dequeued or runs; its neighbours run") {
  job one{{.brief = true}}, two{{.brief = true}}, three{{.brief = true}};
  pool_under_test pool{workers(1)};
  iowq::work_chain some;
  some.push_back(one);
  some.push_back(two);
  some.push_back(three);
  pool.enqueue(some);
  cancel_outcome const outcome = pool.cancel(two);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check_outcome(outcome, two);
  check(one.ran() && three.ran(), "a neighbour was cancelled");
}

// ---- Keys ----

/// Items of one key write to the same plain variable: were two to overlap, or nothing to order
/// them, that would be a race.
struct keyed_log {
  var<int> text;
  job::body writes(int digit) {
    return [this, digit](job&, auto&) { text.set(text.get() * 10 + digit); };
  }
};

EXPLORE_MODEL(key, in_order,
              "items of one key never overlap and run in the order of their enqueue") {
  keyed_log log;
  job one{{.key = 7}, log.writes(1)}, two{{.key = 7}, log.writes(2)},
      three{{.key = 7}, log.writes(3)};
  pool_under_test pool{workers(2)};
  pool.enqueue(one);
  pool.enqueue(two);
  pool.enqueue(three);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check(log.text.get() == 123, "the order is not that of enqueue()");
}

EXPLORE_MODEL(key, across_classes, "a key is handed on from one class to the other") {
  keyed_log log;
  job one{{.key = 7}, log.writes(1)}, two{{.unbound = true, .key = 7}, log.writes(2)},
      three{{.key = 7}, log.writes(3)};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  pool.enqueue(three);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check(log.text.get() == 123, "the order is not that of enqueue()");
  enough();
}

EXPLORE_MODEL(key, two_enqueuers, "items of one key from two threads do not overlap") {
  keyed_log log;
  job one{{.key = 7, .concurrent = true}, log.writes(1)},
      two{{.key = 7, .concurrent = true}, log.writes(2)};
  pool_under_test pool{workers(2)};
  thread other{"other", [&] { pool.enqueue(two); }};
  pool.enqueue(one);
  one.done.wait();
  two.done.wait();
  int const text = log.text.get();
  check(text == 12 || text == 21, "one did not run, or ran twice");
}

EXPLORE_MODEL(key, past_a_busy_one,
              "an item of another key, or of none, passes a key that is busy") {
  gate opened;
  job sleeper{{.key = 7}, [&](job&, auto&) { opened.wait(); }};
  job behind{{.key = 7}};
  job opener{{.key = 8}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(2)};
  pool.enqueue(sleeper);
  pool.enqueue(behind);
  pool.enqueue(opener);
  sleeper.done.wait();
  behind.done.wait();
  opener.done.wait();
  enough();
}

EXPLORE_MODEL(key, leader_cancelled,
              "when the first of a key is cancelled the next takes its place") {
  job one{{.key = 7}}, two{{.unbound = true, .key = 7}}, three{{.key = 7}};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  pool.enqueue(three);
  cancel_outcome const outcome = pool.cancel(one);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check_outcome(outcome, one);
  check(two.ran() && three.ran(), "a follower was cancelled");
  enough();
}

EXPLORE_MODEL(key, concurrent_heir,
              "the next item of a cancelled key head gets the worker of its own that it wants") {
  gate opened;
  job busy{{}, [&](job&, auto&) {
             while (!opened.is_open()) policy::relax();  // computes: the watch finds it running
           }};
  job one{{.key = 7}};
  job two{{.key = 7, .concurrent = true}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(2)};
  pool.enqueue(busy);
  pool.enqueue(one);
  pool.enqueue(two);
  (void)pool.cancel(one);
  busy.done.wait();
  one.done.wait();
  two.done.wait();
  enough();
}

EXPLORE_MODEL(key, follower_cancelled,
              "one of the middle leaves, and the others keep their order") {
  keyed_log log;
  job one{{.key = 7}, log.writes(1)}, two{{.key = 7}, log.writes(2)},
      three{{.key = 7}, log.writes(3)};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  pool.enqueue(three);
  cancel_outcome const outcome = pool.cancel(two);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check(log.text.get() == (outcome == cancel_outcome::dequeued ? 13 : 123), "not in order");
}

EXPLORE_MODEL(key, all_cancelled, "cancel_all() finds what waits behind a key, queued or running") {
  gate opened;
  job one{{.key = 7}, [&](job&, auto&) { opened.wait(); }};
  job two{{.key = 7}}, three{{.unbound = true, .key = 7}};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  pool.enqueue(three);
  (void)pool.cancel_all([&](const iowq::work& asked) { return &asked != &one; });
  opened.open();
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check(one.ran(), "it was not meant");
  check(two.was_cancelled() && three.was_cancelled(), "one was not found");
}

// ---- Links ----

EXPLORE_MODEL(link, in_order, "what is linked runs after what it is linked behind was finished") {
  keyed_log log;
  job one{{}, log.writes(1)}, two{{.unbound = true}, log.writes(2)}, three{{}, log.writes(3)};
  one.then(two);
  two.then(three);
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check(log.text.get() == 123, "not in order");
  enough();
}

EXPLORE_MODEL(link, cancelled_as_it_is_handed_on, "a linked item is cancelled, or runs, once") {
  job one, two{{.unbound = true}}, three;
  one.then(two);
  two.then(three);
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  cancel_outcome const outcome = pool.cancel(two);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check(one.ran(), "it was not meant");
  if (outcome == cancel_outcome::dequeued)
    check(two.was_cancelled() && three.was_cancelled(), "dequeued, but it ran");
}

EXPLORE_MODEL(link, to_a_busy_key, "what is linked waits for its key like anybody else") {
  keyed_log log;
  job one, two{{.key = 7}, log.writes(2)}, three{{.key = 7, .concurrent = true}, log.writes(3)};
  one.then(two);
  pool_under_test pool{workers(2)};
  pool.enqueue(one);
  pool.enqueue(three);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  int const text = log.text.get();
  check(text == 23 || text == 32, "one did not run, or ran twice");
  enough();
}

EXPLORE_MODEL(link, failed, "what is linked behind an item that fails is cancelled after it") {
  job one{{}, [](job& self, auto&) { self.fail(EIO); }}, two{{.key = 7}}, three;
  one.then(two);
  two.then(three);
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check(one.error() == EIO && two.error() == ECANCELED && three.error() == ECANCELED,
        "wrong error");
}

EXPLORE_MODEL(link, behind_a_key, "successors of two items of one key both run, and only once") {
  keyed_log log;
  job one{{.key = 7}, log.writes(1)}, two{{.key = 7}, log.writes(2)}, three{{.key = 7}};
  job after_one{{.unbound = true}}, after_two{{.unbound = true}};  // neither runs inline
  one.then(after_one);
  two.then(after_two);
  pool_under_test pool{workers(1)};
  iowq::work_chain all;
  all.push_back(one);
  all.push_back(two);
  all.push_back(three);
  pool.enqueue(all);
  after_one.done.wait();
  after_two.done.wait();
  three.done.wait();
  check(log.text.get() == 12, "not in order");
  check(after_one.ran() && after_two.ran(), "a successor was cancelled");
  enough();
}

EXPLORE_MODEL(link, key_during_a_successor,
              "the next item of a key runs while its worker sleeps in a linked successor") {
  gate opened;
  job one{{.key = 7}}, two{{.key = 7}, [&](job&, auto&) { opened.open(); }};
  job successor{{}, [&](job&, auto&) { opened.wait(); }};
  one.then(successor);
  pool_under_test pool{workers(2)};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  one.done.wait();
  two.done.wait();
  successor.done.wait();
  enough();
}

EXPLORE_MODEL(
    link, key_cancelled_beside_it,
    "a successor and its key's next item, one of them cancelled as both become startable") {
  gate opened;
  job one{{.key = 7}}, two{{.key = 7}, [&](job&, auto&) { opened.open(); }};
  job successor{{.unbound = true}};
  one.then(successor);
  pool_under_test pool{workers(2)};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  (void)pool.cancel(successor);
  one.done.wait();
  two.done.wait();
  successor.done.wait();
  check(two.ran(), "it was not meant");
  enough();
}

// ---- Nodes ----

/// Two nodes of one processor each; the pool has one worker, on the first or where most waits.
[[nodiscard]] inline iowq::pool_options two_nodes(unsigned bound) {
  the_machine.processors = 2;
  iowq::pool_options options = workers(bound);
  options.nodes = iowq::topology::of({{0}, {1}});
  return options;
}

EXPLORE_MODEL(node, steal, "a worker takes from the other node what nobody there takes") {
  job here_one{{.node = 0}}, there_one{{.node = 1}};
  pool_under_test pool{two_nodes(1)};
  pool.enqueue(here_one);
  pool.enqueue(there_one);
  here_one.done.wait();
  there_one.done.wait();
}

EXPLORE_MODEL(node, steal_against_cancel, "an item is stolen or cancelled, not both") {
  job here_one{{.node = 0}}, there_one{{.node = 1}};
  pool_under_test pool{two_nodes(1)};
  pool.enqueue(here_one);
  pool.enqueue(there_one);
  cancel_outcome const outcome = pool.cancel(there_one);
  here_one.done.wait();
  there_one.done.wait();
  check_outcome(outcome, there_one);
}

EXPLORE_MODEL(node, heir_elsewhere, "a key goes on in the queue of its next item's node") {
  keyed_log log;
  job one{{.key = 7, .node = 0}, log.writes(1)}, two{{.key = 7, .node = 1}, log.writes(2)};
  job other{{.node = 0}};
  pool_under_test pool{two_nodes(2)};
  pool.enqueue(one);
  pool.enqueue(two);
  pool.enqueue(other);
  one.done.wait();
  two.done.wait();
  other.done.wait();
}

// ---- Another context ----

EXPLORE_MODEL(context, idle_worker, "an idle worker of the old context does not take a new item") {
  job one, two;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
  pool.context_changed();
  pool.enqueue(two);
  two.done.wait();
  check(pool.stats().created >= 2, "an old worker took it");
}

EXPLORE_MODEL(context, busy_worker, "what waits behind a busy worker of the old context runs on") {
  gate opened;
  job sleeper{{}, [&](job&, auto&) { opened.wait(); }};
  job opener{{}, [&](job&, auto&) { opened.open(); }};
  pool_under_test pool{workers(2)};
  pool.enqueue(sleeper);
  pool.enqueue(opener);
  pool.context_changed();
  sleeper.done.wait();
  opener.done.wait();
}

EXPLORE_MODEL(context, while_others_enqueue,
              "an item that comes as the context changes is not lost") {
  job one, two;
  pool_under_test pool{workers(1)};
  thread other{"other", [&] { pool.enqueue(two); }};
  pool.enqueue(one);
  pool.context_changed();
  one.done.wait();
  two.done.wait();
}

EXPLORE_MODEL(context, context_check,
              "an owner that compares its context with the manager's meets one") {
  job one, two;
  iowq::pool_options options = workers(1);
  options.check_context = iowq::context_check_mode::always;
  pool_under_test pool{options};
  pool.enqueue(one);
  pool.context_changed();
  pool.enqueue(two);
  one.done.wait();
  two.done.wait();
  enough();
}

/// Fails unless the workers of each class are counted exactly: below zero would be a large number.
inline void check_counts(const pool_under_test& pool) {
  iowq::pool_stats const stats = pool.stats();
  for (iowq::class_stats const& one : {stats.bound, stats.unbound})
    check(std::uint64_t{one.idle} + one.running + one.blocked == one.workers,
          "the workers are counted wrong");
}

EXPLORE_MODEL(context, cancelled_worker,
              "a context change beside the cancellation of a running item keeps the counts exact") {
  gate begun;
  job one{{}, [&](job&, auto&) { begun.open(); }};
  job two;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  begun.wait();
  {
    thread other{"other", [&] { (void)pool.cancel(one); }};
    pool.context_changed();
    check_counts(pool);
  }
  pool.enqueue(two);
  one.done.wait();
  two.done.wait();
  check(two.ran(), "the item of the new context did not run");
  check_counts(pool);
  enough();
}

EXPLORE_MODEL(context, all_cancelled,
              "a context change beside cancel_all() of a key keeps the counts exact") {
  gate begun;
  job one{{.key = 7}, [&](job&, auto&) { begun.open(); }};
  job two{{.key = 7}}, three{{.key = 7}};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  begun.wait();
  {
    thread other{"other", [&] { (void)pool.cancel_all([](const iowq::work&) { return true; }); }};
    pool.context_changed();
    check_counts(pool);
  }
  pool.enqueue(three);
  one.done.wait();
  two.done.wait();
  three.done.wait();
  check(three.ran(), "the item of the new context did not run");
  check_counts(pool);
  enough();
}

EXPLORE_MODEL(context, no_new_manager, "if nobody can be forked in the new context, items fail") {
  job one;
  pool_under_test pool{workers(1)};
  the_machine.refuse_from = the_machine.threads_started;
  the_machine.refuse_count = 100;
  pool.context_changed();
  pool.enqueue(one);
  one.done.wait();
  check(one.was_cancelled() && one.error() == EAGAIN, "it does not say why");
}

// ---- quiesce() ----

EXPLORE_MODEL(quiet, items, "after quiesce() every item is finished, and what it did is seen") {
  job one, two{{.unbound = true}};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  pool.quiesce();
  check(one.ran() && two.ran(), "one was not finished");
  enough();
}

EXPLORE_MODEL(quiet, linked, "after quiesce() what is linked is finished, too") {
  job one, two{{.unbound = true}};
  one.then(two);
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.quiesce();
  check(one.ran() && two.ran(), "one was not finished");
  enough();
}

EXPLORE_MODEL(quiet, withdrawn, "... even if it was cancelled as it was handed on") {
  job one, two{{.unbound = true}};
  one.then(two);
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  (void)pool.cancel(two);
  pool.quiesce();
  check(one.is_finished() && two.is_finished(), "one was not finished");
}

EXPLORE_MODEL(quiet, no_worker, "... even if no thread was to be had for it") {
  the_machine.refuse_from = 1;
  the_machine.refuse_count = 100;
  the_machine.refuse_error = ENOMEM;
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.quiesce();
  check(one.is_finished(), "it was not finished");
}

EXPLORE_MODEL(quiet, cancelled, "... even if another thread cancels it") {
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  thread other{"other", [&] { (void)pool.cancel(one); }};
  pool.quiesce();
  check(one.is_finished(), "it was not finished");
}

EXPLORE_MODEL(quiet, old_worker_leaves,
              "quiesce() waits for finished() on a worker that leaves after a context change") {
  gate begun;
  job one{{}, [&](job&, auto&) { begun.open(); }};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  begun.wait();
  pool.context_changed();
  pool.quiesce();
  check(one.is_finished(), "its finished() has not returned");
  enough();
}

EXPLORE_MODEL(quiet, surplus_worker_leaves,
              "quiesce() waits for finished() on a worker that leaves for a lower limit") {
  job one{{.concurrent = true}}, two{{.concurrent = true}};
  pool_under_test pool{workers(2)};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  (void)pool.set_max_workers({1, 0});
  pool.quiesce();
  check(one.is_finished() && two.is_finished(), "one was not finished");
  enough();
}

EXPLORE_MODEL(quiet, keys_and_links,
              "quiesce() waits for the successors of a key's items, in both classes") {
  job one{{.key = 7}}, two{{.key = 7}};
  job after_one{{.unbound = true}}, after_two;
  one.then(after_one);
  two.then(after_two);
  pool_under_test pool{workers(1)};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  pool.quiesce();
  check(after_one.ran() && after_two.ran(), "one was not finished");
  enough();
}

EXPLORE_MODEL(quiet, two_at_once, "two quiesce() at once both wait for what was accepted before") {
  job one, two;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  thread other{"other", [&] {
                 pool.quiesce();
                 check(one.is_finished(), "one was not finished");
               }};
  pool.enqueue(two);
  pool.quiesce();
  check(one.is_finished() && two.is_finished(), "one was not finished");
  other.join();
  enough();
}

EXPLORE_MODEL(quiet, cancel_all_of_links, "quiesce() waits for cancel_all() of what is linked") {
  job one, two, three;
  one.then(two);
  two.then(three);
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  thread other{"other",
               [&] { (void)pool.cancel_all([&](const iowq::work& it) { return &it == &two; }); }};
  pool.quiesce();
  check(one.is_finished() && two.is_finished() && three.is_finished(), "one was not finished");
  other.join();
  enough();
}

EXPLORE_MODEL(quiet, drained, "an end that drains lets bound work run, and cancels the other") {
  job one, two, three{{.unbound = true}};
  {
    iowq::pool_options options = workers(1);
    options.drain_bounded = true;
    pool_under_test pool{options};
    pool.enqueue(one);
    pool.enqueue(two);
    pool.enqueue(three);
  }
  check(one.ran() && two.ran(), "bound work was cancelled");
}

// ---- The end ----

EXPLORE_MODEL(end, creating, "a pool ends whose first worker is not there yet") {
  pool_under_test pool{workers(1)};
}

EXPLORE_MODEL(end, queued, "what is queued when the pool ends is finished once, run or not") {
  job one, two;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
}

EXPLORE_MODEL(end, idle, "a pool ends as its worker goes idle") {
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  one.done.wait();
}

EXPLORE_MODEL(end, spinning, "a pool ends as its worker spins") {
  here.spinners_are_free = true;
  the_machine.processors = 4;
  job one;
  iowq::pool_options options = workers(1);
  options.spin = std::chrono::microseconds{1};
  pool_under_test pool{options};
  pool.enqueue(one);
  one.done.wait();
}

EXPLORE_MODEL(end, timing_out, "a pool ends as its last worker leaves by itself") {
  job one;
  iowq::pool_options options = workers(1);
  options.exit_on_idle = true;
  pool_under_test pool{options};
  pool.enqueue(one);
  one.done.wait();
}

EXPLORE_MODEL(end, running, "an item that waits to be stopped is stopped by the pool's end") {
  job one{{}, until_stopped}, two;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
}

EXPLORE_MODEL(end, keyed, "a pool ends with a key whose items wait in both classes") {
  keyed_log log;
  job one{{.key = 7}, log.writes(1)}, two{{.unbound = true, .key = 7}, log.writes(2)},
      three{{.key = 7}, log.writes(3)};
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
  pool.enqueue(two);
  pool.enqueue(three);
}

EXPLORE_MODEL(end, linked, "a pool ends with items that are linked to one that runs") {
  job one, two{{.unbound = true}}, three;
  one.then(two);
  two.then(three);
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
}

EXPLORE_MODEL(end, brief, "a pool ends within a batch: the rest of it is finished as cancelled") {
  job one{{.brief = true}}, two{{.brief = true}}, three{{.brief = true}};
  pool_under_test pool{workers(1)};
  iowq::work_chain some;
  some.push_back(one);
  some.push_back(two);
  some.push_back(three);
  pool.enqueue(some);
}

EXPLORE_MODEL(end, enqueue_from_an_item,
              "an item that enqueues as the pool ends is refused, or not") {
  job inner;
  pool_under_test* into = nullptr;
  job outer{{}, [&](job&, auto&) { into->enqueue(inner); }};
  {
    pool_under_test pool{workers(1)};
    into = &pool;
    pool.enqueue(outer);
    outer.done.wait();
  }
}

EXPLORE_MODEL(end, cancel_from_an_item, "an item cancels another as the pool ends") {
  job victim{{}, until_stopped};
  pool_under_test* in = nullptr;
  job canceller{{.unbound = true}, [&](job&, auto&) { (void)in->cancel(victim); }};
  pool_under_test pool{workers(1)};
  in = &pool;
  pool.enqueue(victim);
  pool.enqueue(canceller);
}

EXPLORE_MODEL(end, inside_the_last_finished,
              "a pool may end as soon as another thread's cancel() entered the last finished()") {
  gate begun, cancelled;
  job busy{{}, [&](job&, auto&) {
             begun.open();
             cancelled.wait();
           }};
  job one;
  one.after = [&](job&) { cancelled.open(); };
  std::optional<pool_under_test> pool;
  pool.emplace(workers(1));
  pool->enqueue(busy);
  begun.wait();
  pool->enqueue(one);
  thread other{"other",
               [&] { check(pool->cancel(one) == cancel_outcome::dequeued, "it was queued"); }};
  one.done.wait();
  busy.done.wait();
  pool.reset();
}

EXPLORE_MODEL(end, inside_a_failed_finished,
              "a pool may end as soon as another thread's enqueue() entered the last finished()") {
  the_machine.refuse_from = 0;
  the_machine.refuse_count = 100;
  job one;
  std::optional<pool_under_test> pool;
  pool.emplace(workers(1));
  thread other{"other", [&] { pool->enqueue(one); }};
  one.done.wait();
  pool.reset();
}

EXPLORE_MODEL(end, no_threads, "a pool ends that never had a thread") {
  the_machine.refuse_from = 0;
  the_machine.refuse_count = 100;
  job one;
  pool_under_test pool{workers(1)};
  pool.enqueue(one);
}

EXPLORE_MODEL(end, lowered, "a pool ends as a limit is lowered and a worker leaves") {
  job one{{.concurrent = true}}, two{{.concurrent = true}};
  pool_under_test pool{workers(2)};
  iowq::work_chain both;
  both.push_back(one);
  both.push_back(two);
  pool.enqueue(both);
  (void)pool.set_max_workers({1, 0});
}

}  // namespace explore
