#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Puts mistakes into copies of the headers and demands that random programs find each.

    mutants.py --list                                    a third of them, for each run of the tests
    mutants.py NAME ROOT SCRATCH -- COMPILER FLAG...     exits 1 if the mutant lives
    mutants.py --all ROOT SCRATCH -- COMPILER FLAG...    exits 1 if any does; takes ten minutes

A mutant is a name, a header, a text that occurs in it exactly once, and what stands there instead.
If the text is gone the test fails: the code has changed, and the mutant has to follow it, or to go
with a reason.
"""

import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from mutant import Mutant, build, mutate  # noqa: E402

MUTANTS = [
    # ---- Waits in line ----
    Mutant('line: last come, first served', 'sync/detail/waiter.hpp',
           'waiters_.push_back(w);', 'waiters_.push_front(w);'),
    Mutant('line: who is stopped stays in it', 'sync/detail/waiter.hpp',
           '    thing_.waiters_.leave(*this);\n', '    (void)self;\n'),
    Mutant('mutex: free although it is handed on', 'sync/mutex.hpp',
           'locked_ = waiters_.grant_first<detail::wait_operation<mutex>>();',
           'static_cast<void>(waiters_.grant_first<detail::wait_operation<mutex>>()); locked_ = false;'),
    Mutant('semaphore: a permit is given and kept', 'sync/semaphore.hpp',
           'waiters_.grant_first<detail::wait_operation<semaphore>>()) --permits;',
           'waiters_.grant_first<detail::wait_operation<semaphore>>()) break;'),
    Mutant('event: wakes only one', 'sync/event.hpp',
           '''    while (waiters_.grant_first<detail::wait_operation<event>>()) {
    }
''', '    static_cast<void>(waiters_.grant_first<detail::wait_operation<event>>());\n'),
    Mutant('channel: a waiting receiver is overtaken', 'sync/channel.hpp',
           'waiting->value_.emplace(std::move(value));\n      waiting->call(0);\n      return 0;',
           'waiting->value_.emplace(value);\n      waiting->call(0);'),
    Mutant('channel: a waiting sender is forgotten', 'sync/channel.hpp',
           'if (waiting != nullptr) waiting->call(0);',
           'if (waiting != nullptr && used_ == 0) waiting->call(0);'),
    Mutant('channel: closing leaves senders waiting', 'sync/channel.hpp',
           'while (auto* const waiting = senders.pop())', 'while (auto* const waiting = receivers.pop())'),
    Mutant('channel: one more than its capacity', 'sync/channel.hpp',
           'if (used_ == slots_.size()) return -EAGAIN;',
           'if (used_ == slots_.size() && used_ != 1) return -EAGAIN;'),
    Mutant('channel: who is stopped is called all the same', 'sync/detail/channel_wait.hpp',
           '    Derived::queue(all_).leave(*this);\n', ''),

    # ---- Several concurrent_base ----
    Mutant('all: a failure stops nobody', 'flow/when_all.hpp',
           '    else if (!one.take(error_))\n      this->stop_others();\n',
           '    else\n      static_cast<void>(one.take(error_));\n'),
    Mutant('all: the last failure wins', 'flow/when_all.hpp',
           '    if (error_)\n      one.drop();\n    else if (!one.take(error_))',
           '    if (!one.take(error_))'),
    Mutant('any: losers go on', 'flow/when_any.hpp',
           '      winner_ = static_cast<Derived*>(this)->place_of(one);\n'
           '      this->stop_others();\n',
           '      winner_ = static_cast<Derived*>(this)->place_of(one);\n'),
    Mutant('any: the last success wins', 'flow/when_any.hpp',
           'if (winner_ != nobody) {\n      one.drop();', 'if (false) {\n      one.drop();'),
    Mutant('several: no stop from outside', 'flow/detail/concurrent.hpp',
           'if (outer.stop_possible()) inherited_.emplace(outer, pass_on{&stop_});', '(void)outer;'),
    Mutant('several: it goes on before the last has ended', 'flow/detail/concurrent.hpp',
           'running_ = count + 1;', 'running_ = count > 2 ? count : count + 1;'),
    Mutant('timeout: a stop from outside is taken for it', 'flow/timeout.hpp',
           'expired_ = one.succeeds() && !over_;', 'expired_ = !over_;'),
    Mutant('timeout: it stops nobody', 'flow/timeout.hpp',
           'expired_ = one.succeeds() && !over_;\n        return stop_the_other();',
           'expired_ = one.succeeds() && !over_;\n        return this->child_completed();'),
    Mutant('with_stop: nobody can stop it', 'flow/with_stop.hpp',
           'return awaitable_.start(*this, token_);', 'return awaitable_.start(*this, stop_token{});'),
    Mutant('group: a failure stops nobody', 'flow/task_group.hpp',
           '    if (!error_) error_ = std::move(error);\n    stop_.request_stop();\n',
           '    if (!error_) error_ = std::move(error);\n'),
    Mutant('group: the last failure wins', 'flow/task_group.hpp',
           'if (!error_) error_ = std::move(error);', 'error_ = std::move(error);'),
    Mutant('group: who joins it cannot stop it', 'flow/task_group.hpp',
           'if (token.stop_possible()) joined_.emplace(token, pass_on{&stop_});', '(void)token;'),
    Mutant('group: stopped ones count as failures', 'flow/task_group.hpp',
           'if (asked_.load(std::memory_order_relaxed) && is_cancellation(error)) return;', ''),
    Mutant('for_each: one more than the limit', 'flow/for_each.hpp',
           'n < limit && state.goes_on()', 'n <= limit && state.goes_on()'),
    Mutant('for_each: goes on after a failure', 'flow/for_each.hpp',
           'return next != end && !walkers.stop_requested();', 'return next != end;'),
    Mutant('for_each: what was not begun is no cancellation', 'flow/for_each.hpp',
           '    throw_error(-ECANCELED, "for_each");', '    {}'),
    Mutant('transform: results as they come', 'flow/transform.hpp',
           'return error_ ? running_ == 0 : slots_[first_].work->has_value();',
           'return error_ ? running_ <= 1 : slots_[first_].work->has_value();'),

    # ---- Tasks, time, the loop, the pool ----
    Mutant('task: a child is not told of its stop', 'coro/task.hpp',
           'child.promise().stop(token);', '(void)token;'),
    Mutant('yield: no stop ends it', 'exec/executor.hpp',
           'if (token_.stop_requested()) [[unlikely]]', 'if (false)'),
    Mutant('loop: a stop reaches no timer', 'exec/detail/loop.hpp',
           '    case stage::timer:\n    case stage::sync_wait:\n', '    case stage::sync_wait:\n'),
    Mutant('loop: a stop reaches tokens only', 'exec/detail/loop.hpp',
           'in_flight().for_each([this](operation_base& op) { cancel(op); });', ''),
    Mutant('loop: a disarmed one is not ended', 'exec/detail/loop.hpp',
           'if (op.kind_->disarm(op)) complete_later(op, -ECANCELED);',
           'if (op.kind_->disarm(op) && !timers_.empty()) complete_later(op, -ECANCELED);'),
    Mutant('timers: equal ones in the order of the heap', 'queue/timer_heap.hpp',
           'return deadline_ != other.deadline_ ? deadline_ < other.deadline_ : order_ < other.order_;',
           'return order_ < other.order_;'),
    Mutant('timers: who leaves takes its children along', 'queue/timer_heap.hpp',
           'timer* const children = pair_up(node.child_);',
           'timer* const children = node.child_ != nullptr ? (node.child_->next_ = nullptr, node.child_) '
           ': nullptr;'),
    Mutant('stop: only the newest is told', 'base/detail/stop_state.hpp',
           '      while (node* const one = take_home()) {', '      if (node* const one = take_home()) {'),
    Mutant('punt: keys are forgotten', 'exec/punt.hpp', 'where.key = options.key;', ''),
    Mutant('pool: a key is no order', 'pool/detail/key_table.hpp',
           '    if (item* const key_head = *find(entered.key); key_head != nullptr) {\n',
           '    if (item* const key_head = *find(entered.key);\n'
           '        key_head != nullptr && key_head->state != item_state::running) {\n'),
    Mutant('pool: what is cancelled has its result', 'exec/operation.hpp',
           'if (cancelled) result_.set(error() != 0 ? -error() : -ECANCELED);',
           'if (cancelled) result_.set(0);'),
]

# Found by programs over several executors (between.cpp).
BETWEEN = [
    Mutant('inbox: newest first', 'queue/inbox.hpp',
           '      T* older = std::exchange(node->*Link, oldest);\n'
           '      oldest = std::exchange(node, older);\n',
           '      oldest = static_cast<T*>(newest);\n      node = nullptr;\n'),
    Mutant('several: who was away goes on there', 'flow/detail/concurrent.hpp',
           'here != one.home_) [[unlikely]]', 'false && here != one.home_)'),
    Mutant('group: who was away ends there', 'flow/task_group.hpp',
           'detail::loop& home = *one.group_.owner_;', 'detail::loop& home = here;'),
    Mutant('channel: who waits elsewhere goes on here', 'sync/detail/channel_wait.hpp',
           'if (owner_ == this_thread_loop) return', 'if (owner_ = this_thread_loop; true) return'),
    Mutant('loop: one of its company does not wake it', 'exec/detail/loop.hpp',
           'if (!near || !from->ring_.message(ring_)) ring_.wake();', 'if (!near) ring_.wake();'),
]


def lives(mutant, root, scratch, compiler):
    """Why it was not found; nothing if it was."""
    copy = mutate(mutant, root, scratch)
    source, count = ('between.cpp', '5000') if mutant in BETWEEN else ('random.cpp', '40000')
    program = build(copy, root / 'tests' / 'random' / source, compiler, '-luring')
    ran = subprocess.run([program, '--cut-down', 'no', '--seed', '1', '--count', count],
                         capture_output=True, text=True, check=False)
    print(ran.stdout, flush=True)
    shutil.rmtree(copy)
    if ran.returncode == 1:
        return None
    return f'{mutant.header}: it lives' if ran.returncode == 0 else f'the test fails: {ran.stderr}'


def main():
    if sys.argv[1:] == ['--list']:
        print('\n'.join(mutant.name for mutant in MUTANTS[::3] + BETWEEN[:2]))
        return
    name, root, scratch, _, *compiler = sys.argv[1:]
    wanted = [one for one in MUTANTS + BETWEEN if name in ('--all', one.name)]
    faults = [f'{one.name}: {why}' for one in wanted
              if (why := lives(one, pathlib.Path(root), pathlib.Path(scratch), compiler))]
    if faults or not wanted:
        sys.exit('\n'.join(faults) or f'no mutant is called {name}')


if __name__ == '__main__':
    main()
