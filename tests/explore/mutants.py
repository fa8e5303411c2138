#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Puts a mistake into a copy of the headers and demands that the explorer finds it.

    mutants.py --list
    mutants.py NAME ROOT SCRATCH -- COMPILER FLAG...     exits 1 if the mutant lives

A mutant is a name, a header, a text that occurs in it exactly once, what stands there instead, and
the models that must fail. If the text is gone the test fails: the code has changed, and the mutant
has to follow it, or to go with a reason.
"""

import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from mutant import Mutant, build, mutate  # noqa: E402

MUTANTS = [
    # ---- The inbox ----
    Mutant('inbox: a post publishes nothing', 'queue/inbox.hpp',
           'head_.compare_exchange_weak(seen, &newest, std::memory_order_release,',
           'head_.compare_exchange_weak(seen, &newest, std::memory_order_relaxed,',
           ('inbox.post_against_park', 'inbox.two_producers')),
    Mutant('inbox: a drain acquires nothing', 'queue/inbox.hpp',
           'head_.exchange(nullptr, std::memory_order_acquire)',
           'head_.exchange(nullptr, std::memory_order_relaxed)',
           ('inbox.post_against_park', 'inbox.fifo')),
    Mutant('inbox: a park overwrites what came', 'queue/inbox.hpp',
           'return head_.compare_exchange_strong(empty, parked(), std::memory_order_relaxed);',
           'head_.store(parked(), std::memory_order_relaxed); return empty == nullptr;',
           ('inbox.post_against_park',)),
    Mutant('inbox: a park looks, then acts', 'queue/inbox.hpp',
           'return head_.compare_exchange_strong(empty, parked(), std::memory_order_relaxed);',
           'if (head_.load(std::memory_order_relaxed) != empty) return false; '
           'head_.store(parked(), std::memory_order_relaxed); return true;',
           ('inbox.post_against_park',)),
    Mutant('inbox: nobody owes a wake', 'queue/inbox.hpp',
           'return seen == parked();', 'return false;',
           ('inbox.post_against_park', 'inbox.one_wake')),
    Mutant('inbox: a chain loses what came before it', 'queue/inbox.hpp',
           'oldest.*Link = is_empty(seen)', 'newest.*Link = is_empty(seen)',
           ('inbox.chain_post',)),

    # ---- Stop requests ----
    Mutant('stop: home looks before it has said that it is at its list', 'base/detail/stop_state.hpp',
           '(void)busy_.exchange(true, std::memory_order_seq_cst);',
           '(void)busy_.exchange(true, std::memory_order_acquire);',
           ('stop.end_at_home', 'stop.moved')),
    Mutant('stop: home gives way, and asks no more', 'base/detail/stop_state.hpp',
           '    bool const in_time = (state_.load(std::memory_order_acquire) & requested) == 0;\n',
           '    bool const in_time = true;\n',
           ('stop.claimed_for_good',)),
    Mutant('stop: who requests forgets the other list', 'base/detail/stop_state.hpp',
           'if ((before & shared) == 0) {', 'if (true) {',
           ('stop.begin_elsewhere',)),

    # ---- Enqueue against sleep ----
    Mutant('wake: an activated worker is not woken', 'pool/detail/state.hpp',
           'todo.add(sleeper);', '(void)todo;',
           ('wake.two_items',)),
    Mutant('wake: the manager is not woken', 'pool/detail/state.hpp',
           'if (todo.unpark) Policy::futex_wake(manager_word, 1);', '',
           ('wake.classes_apart', 'limit.raised')),
    Mutant('wake: a window between the look for work and the idle stack', 'pool/detail/worker_thread.hpp',
           '        pool_.go_idle(self_);\n',
           '        { held.unlock(); held.lock(); pool_.go_idle(self_); }\n',
           ('wake.two_enqueuers',)),
    Mutant('wake: the manager parks after it gave M up', 'pool/detail/manager.hpp',
           '    pool_.manager_word.store(how, std::memory_order_relaxed);\n    held.unlock();\n',
           '    held.unlock();\n    pool_.manager_word.store(how, std::memory_order_relaxed);\n',
           ('end.creating',)),
    Mutant('wake: a worker is born before it is counted', 'pool/detail/worker_thread.hpp',
           'while (self_.word.load(std::memory_order_relaxed) == worker_type::unborn)',
           'if (self_.word.load(std::memory_order_relaxed) == worker_type::unborn)',
           ('wake.for_no_reason',)),
    Mutant('wake: a adaptive_spinner goes to sleep over its activation', 'pool/detail/worker_thread.hpp',
           '(void)self_.word.compare_exchange_strong(expected, worker_type::idle,\n'
           '                                               std::memory_order_relaxed);',
           '{ (void)expected; self_.word.store(worker_type::idle, std::memory_order_relaxed); }',
           ('wake.adaptive_spinner',)),
    Mutant('wake: an activation looks, then acts', 'pool/detail/state.hpp',
           '''    return sleeper.word.exchange(worker_type::awake, std::memory_order_relaxed) !=
           worker_type::spinning;''',
           '''    bool const spins = sleeper.word.load(std::memory_order_relaxed) == worker_type::spinning;
    sleeper.word.store(worker_type::awake, std::memory_order_relaxed);
    return !spins;''',
           ('wake.adaptive_spinner',)),
    Mutant('wake: no watch while somebody is idle', 'pool/detail/account.hpp',
           '         (counts.idle > 0 || counts.live + counts.creating < counts.max_workers);',
           '         counts.idle == 0 && counts.live + counts.creating < counts.max_workers;',
           ('wake.idle_one_for_a_sleeper',)),
    Mutant('wake: the watch sees nobody asleep', 'pool/detail/manager.hpp',
           'one->sample_holds = one->probe.look(one->thread, one->tid) == expected;',
           'one->sample_holds = false;',
           ('wake.waits_for_the_next', 'wake.waits_in_a_region')),
    Mutant('wake: an item waits for ever behind one that computes', 'pool/detail/manager.hpp',
           '        pool_.wake(*account.newest_idle(pool_.nodes.near(node)), todo);\n',
           '        (void)todo;\n',
           ('wake.idle_one_beside_a_computing',)),
    Mutant('wake: a sleeper that is taken for awake', 'pool/detail/state.hpp',
           '    --account.nr_running;\n    ++account.sleeping;\n',
           '    ++account.sleeping;\n    --account.idle;\n',
           ('wake.waits_for_the_next',)),
    Mutant('idle: a time-out does not ask whether it was activated', 'pool/detail/worker_thread.hpp',
           'if (self_.state != worker_state::idle) {  // D3', 'if (false) {',
           ('idle.time_out_against_enqueue',)),
    Mutant('idle: who leaves tells nobody', 'pool/detail/state.hpp',
           '    ensure_worker(account, leaver.node, false, todo);\n    call_manager(true, todo);\n',
           '    ensure_worker(account, leaver.node, false, todo);\n',
           ('end.idle',)),

    # ---- Creation, limits, context ----
    Mutant('create: a reservation is promised to nobody', 'pool/detail/state.hpp',
           '          account.reserve();\n          call_manager(true, todo);\n',
           '          account.reserve();\n',
           ('wake.classes_apart',)),
    Mutant('create: what has no worker is not failed', 'pool/detail/manager.hpp',
           '    if (account.live + account.creating != 0) return false;\n', '    return false;\n',
           ('create.no_worker',)),
    Mutant('create: a reservation is not given back', 'pool/detail/manager.hpp',
           '    --account.creating;\n    ++pool_.create_failures;\n',
           '    ++pool_.create_failures;\n',
           ('create.no_worker',)),
    Mutant('create: the owner does not try again', 'pool/pool.hpp',
           '    if (manager_.start()) return;\n', '',
           ('create.no_manager_at_first',)),
    Mutant('create: a rescue looks once', 'pool/detail/manager.hpp',
           '        again = true;\n', '',
           ('create.no_manager_for_keys',)),
    Mutant('limit: raised for nobody', 'pool/pool.hpp',
           '    state_.ensure_worker(account, 0, account.concurrent > 0, todo);\n', '    (void)todo;\n',
           ('limit.raised',)),
    Mutant('limit: more are promised than are allowed', 'pool/detail/account.hpp',
           'if (counts.live + counts.creating >= counts.max_workers) return step::none;',
           'if (counts.live >= counts.max_workers) return step::none;',
           ('limit.lowered',)),
    Mutant('context: an old worker takes a new item', 'pool/detail/account.hpp',
           'return exit || stale || counts.live > counts.max_workers;',
           'return exit || (stale && counts.live == 0) || counts.live > counts.max_workers;',
           ('context.idle_worker',)),
    Mutant('context: the old manager forks on', 'pool/pool.hpp',
           '      state_.manager_retires = true;\n', '',
           ('context.busy_worker',)),

    Mutant('context: a worker is taken for running before its canceller released it',
           'pool/detail/worker_thread.hpp',
           '''    if (self_.cancel_requested) end_cancellation(held);
    // Last: end_cancellation() releases M, and then the manager or context_changed() may mark this
    // worker.
    if (self_.state == worker_state::sleeping) pool_.mark_running(self_);
''',
           '''    if (self_.state == worker_state::sleeping) pool_.mark_running(self_);
    if (self_.cancel_requested) end_cancellation(held);
''',
           ('context.cancelled_worker', 'context.all_cancelled')),

    # ---- Cancel ----
    Mutant('cancel: the worker is not held', 'pool/detail/cancellation.hpp',
           'worker_thread.cancel_requested = worker_thread.canceller_active = true;', 'worker_thread.cancel_requested = true;',
           ('cancel.against_end',)),
    Mutant('cancel: a held worker is let go for no reason', 'pool/detail/worker_thread.hpp',
           'while (self_.canceller_active) {', 'if (self_.canceller_active) {',
           ('cancel.for_no_reason',)),
    Mutant('cancel: the holder wakes nobody', 'pool/detail/cancellation.hpp',
           '    Policy::futex_wake(worker_thread.word, 1);\n', '',
           ('cancel.against_end',)),
    Mutant('cancel: who opens its descriptor late is not cancel_requested', 'pool/detail/worker.hpp',
           '        if (cancel_requested) Policy::wake_ring(fd);', '',
           ('cancel.wakes_a_poll',)),
    Mutant('cancel: a descriptor is published by nothing', 'pool/detail/worker.hpp',
           'wake_fd.store(fd, std::memory_order_release);',
           'wake_fd.store(fd, std::memory_order_relaxed);',
           ('cancel.wakes_a_poll',)),
    Mutant('cancel: a descriptor is used unseen', 'pool/detail/cancellation.hpp',
           'one->wake_fd.load(std::memory_order_acquire)',
           'one->wake_fd.load(std::memory_order_relaxed)',
           ('cancel.wakes_a_poll',)),
    Mutant('cancel: the descriptor stays cancel_requested', 'pool/detail/worker_thread.hpp',
           '      Policy::wake_drain(fd);\n', '      (void)fd;\n',
           ('cancel.stopped_twice',)),
    Mutant('cancel: the token stays stopped', 'pool/detail/worker_thread.hpp',
           '    self_.stop.emplace();\n', '',
           ('cancel.stopped_twice',)),
    Mutant('cancel: waiters of what runs are not looked at', 'pool/detail/cancellation.hpp',
           'if (one->cur != nullptr && one->cur->keyed) dequeue_followers(*one->cur, wanted);',
           '(void)one;',
           ('key.all_cancelled',)),

    # ---- Keys, links, nodes ----
    Mutant('key: an next_head inherits nobody', 'pool/detail/key_table.hpp',
           '    next_head->waiters = key_head.waiters;\n', '    next_head->waiters = nullptr;\n',
           ('key.in_order',)),
    Mutant('key: a follower does not wait', 'pool/detail/key_table.hpp',
           '    if (item* const key_head = *find(entered.key); key_head != nullptr) {\n',
           '    if (item* const key_head = *find(entered.key);\n'
           '        key_head != nullptr && key_head->state != item_state::running) {\n',
           ('key.two_enqueuers', 'key.in_order')),
    Mutant('key: the next_head of what ran wakes nobody', 'pool/detail/state.hpp',
           '    make_ready(*next_head, todo);\n  }\n',
           '    (void)todo;\n    account_of(next_head->kind()).make_ready(*next_head);\n  }\n',
           ('key.across_classes', 'link.key_during_a_successor')),
    Mutant('key: the next_head of what was cancelled wakes nobody', 'pool/detail/state.hpp',
           'if (next_head != nullptr) make_ready(*next_head, todo);',
           'if (next_head != nullptr) this->account_of(next_head->kind()).make_ready(*next_head);',
           ('key.leader_cancelled',)),
    Mutant('key: an next_head that wants a worker of its own gets none', 'pool/detail/state.hpp',
           '        todo.became_runnable(*next_head);\n', '',
           ('key.concurrent_heir',)),
    Mutant('link: what is linked runs beside its key', 'pool/detail/state.hpp',
           'bool const here = !successor.keyed && !successor.withdrawn',
           'bool const here = !successor.withdrawn',
           ('link.to_a_busy_key',)),
    Mutant('link: a worker keeps a successor and the next item of the key', 'pool/detail/state.hpp',
           'if (after.next == nullptr && ender.later == nullptr && next_head->kind() == ender.kind &&',
           'if (after.next == nullptr && next_head->kind() == ender.kind &&',
           ('link.behind_a_key',)),
    Mutant('link: what became runnable at an end is not settled', 'pool/detail/worker_thread.hpp',
           '      pool_.ensure_worker(todo);\n      bool const repin',
           '      todo.unsettled[0] = todo.unsettled[1] = {};\n      bool const repin',
           ('key.across_classes', 'link.key_during_a_successor')),
    Mutant('node: nobody steals', 'pool/detail/state.hpp',
           '    unsigned const node = node_to_take_from(account, taker.node);\n',
           '    unsigned const node = taker.node;\n'
           '    if (account.node_queues[node].ready.empty()) return nullptr;\n',
           ('node.steal',)),

    # ---- Quiet, and the end ----
    Mutant('quiet: what is being finished is not published', 'pool/detail/worker_thread.hpp',
           '        self_.finishing.store(0, std::memory_order_release);\n        if (leaves_with',
           '        self_.finishing.store(0, std::memory_order_relaxed);\n        if (leaves_with',
           ('quiet.items',)),
    Mutant('quiet: a canceller is not waited for', 'pool/detail/cancellation.hpp',
           '  if (pool.finishers->any_inside(slot)) return false;\n', '',
           ('quiet.cancelled',)),
    Mutant('quiet: a canceller of linked items is not waited for', 'pool/detail/cancellation.hpp',
           '    dequeued_.are_of(of);\n', '    (void)of;\n',
           ('quiet.cancel_all_of_links',)),
    Mutant('quiet: a worker that leaves is not waited for', 'pool/detail/worker_thread.hpp',
           'generation_set const leaves_with = leaves ? departed : generation_set{};',
           'generation_set const leaves_with = {};',
           ('quiet.old_worker_leaves', 'quiet.surplus_worker_leaves')),
    Mutant('quiet: a successor is not of the generation of its head', 'pool/detail/state.hpp',
           'accept(successor, ended.generation);', 'accept(successor, ended.generation + 1u);',
           ('quiet.linked', 'quiet.keys_and_links')),
    Mutant('quiet: a generation is taken for over while another one begins', 'pool/detail/cancellation.hpp',
           'return later && pool.oldest_generation >= *later;', 'return later.has_value();',
           ('quiet.items', 'quiet.two_at_once')),
    Mutant('end: who is inside finished() is counted in the pool', 'pool/detail/state.hpp',
           '~pool_state() { finishers->drop(); }', '~pool_state() { delete finishers; }',
           ('end.inside_the_last_finished', 'end.inside_a_failed_finished')),
    Mutant('end: idle workers are not told', 'pool/pool.hpp',
           'for (auto& account : state_.accounts) state_.wake_all_idle(account);\n    }\n    everything',
           '}\n    everything',
           ('end.idle',)),
    Mutant('end: the manager is not told', 'pool/detail/manager.hpp',
           '      pool_.call_manager(true, todo);\n', '',
           ('end.creating', 'end.idle')),
    Mutant('end: the manager parks though it was told to end while it joined a worker',
           'pool/detail/manager.hpp',
           '''      reap(held);  // releases M, so everything else is looked at afterwards
      if (pool_.manager_retires) return;
''',
           '''      if (pool_.manager_retires) return;
      reap(held);
''',
           ('end.lowered', 'end.timing_out')),
    Mutant('end: the rest of a batch is taken for done', 'pool/detail/worker_thread.hpp',
           '    if (last->next != nullptr) pool_.abandon_rest(self_, *last, not_run);\n', '',
           ('end.brief',)),
    Mutant('end: descriptors are left open', 'pool/detail/manager.hpp',
           '    if (fd >= 0) Policy::wake_close(fd);\n', '    (void)fd;\n',
           ('end.running',)),
]


def main():
    if sys.argv[1:] == ['--list']:
        print('\n'.join(mutant.name for mutant in MUTANTS))
        return
    name, root, scratch, _, *compiler = sys.argv[1:]
    mutant = next(one for one in MUTANTS if one.name == name)
    root = pathlib.Path(root)
    copy = mutate(mutant, root, pathlib.Path(scratch))
    program = build(copy, root / 'tests' / 'explore' / 'explore.cpp', compiler, '-Wl,--wrap=malloc',
                    '-Wl,--wrap=calloc', '-Wl,--wrap=free', '-lboost_context')
    alive = []
    for model in mutant.models:
        ran = subprocess.run([program, '--model', model, '--more', '300000', '--random', '500'],
                             capture_output=True, text=True, check=False)
        print(ran.stdout)
        if ran.returncode == 0:
            alive.append(model)
        elif ran.returncode != 1:
            sys.exit(f'{model} ended with {ran.returncode}')
    shutil.rmtree(copy)
    if alive:
        sys.exit(f'{mutant.header}: it lives, in {", ".join(alive)}')


if __name__ == '__main__':
    main()
