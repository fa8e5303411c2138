#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Puts a mistake into a copy of the headers and demands that test cases fail, each where it should.

    mutants.py --list                                         the names of the mutants
    mutants.py NAME ROOT SCRATCH DOCTEST -- COMPILER FLAG...  exits 1 if a case does not find it
    mutants.py --all ROOT SCRATCH DOCTEST -- COMPILER FLAG... exits 1 if any mutant lives

DOCTEST is the compiled tests/support/doctest.cpp. Only the test files that a mutant names are
compiled, and only the named cases run. A case that hangs does not count as a failure: each case
must fail by an assertion or by a wait that reaches its deadline and names its line, and what fails
must contain the text that the mutant demands.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))
from mutant import Mutant, build, mutate  # noqa: E402

WAIT_SECONDS = 3
SKIPPED = 77


class Case(NamedTuple):
    """A case that must fail. `says`: part of the failing line, or of the output for that line."""
    test: str  # tests/<test>_test.cpp
    title: str  # for doctest's -tc
    says: str
    backend: str = ''  # 'poll': without a ring


READV_STOPPED = ('op/vector', 'a readv that waits is cancelled*', 'end.value()')
FLOCK_WAITS = 'flock excludes and shares*'
SPLICE_WAITS = 'splice and tee wait*'
NOP = 'sqe.opcode = IORING_OP_NOP;'

MUTANTS = [
    # ---- A stop request does not reach an operation that waits ----
    (Mutant('stop: workers that wait for a descriptor ignore the token', 'op/detail/blocking_wait.hpp',
            '    if (stop.stop_requested()) return -ECANCELED;\n', ''),
     Case(*READV_STOPPED),
     Case('op/lock', 'a flock that waits is cancelled*', 'end.value()'),
     Case('op/transfer', SPLICE_WAITS, 'return ended;'),
     Case('op/hazards', 'hazard-2:*', 'answer != unset'),
     Case('op/process', 'waiting for a child is cancelled*', 'end.value()')),
    (Mutant('stop: workers that wait for a futex ignore the token', 'op/futex.hpp',
            '      linux_policy::futex_wake(stopped, 1);\n', ''),
     Case('op/futex', 'a futex_wait is cancelled*', 'end.value()')),
    (Mutant('stop: the ring never cancels', 'exec/detail/backend_ring.hpp',
            'sqe->opcode = IORING_OP_ASYNC_CANCEL;', 'sqe->opcode = IORING_OP_NOP;'),
     Case(*READV_STOPPED),
     Case('op/socket', 'poll tells what a descriptor is ready for*', 'end.value()'),
     Case('op/connect_to', 'a connect to a full backlog ends when it is stopped*', 'group.size() != 0'),
     Case('op/hazards', 'hazard-7:*', 'answer != unset')),

    # ---- An operation does not wait ----
    (Mutant('wait: flock completes at once', 'op/lock.hpp',
            'if (r != -EWOULDBLOCK || (how & LOCK_NB) != 0) return r;',
            'if (r != -EWOULDBLOCK || (how & LOCK_NB) != 0) return r; else return 0;'),
     Case('op/lock', FLOCK_WAITS, '1 flock waiting'),
     Case('op/lock', 'a flock that waits is cancelled*', '1 flock waiting')),
    (Mutant('wait: a read on the ring completes at once', 'op/file.hpp',
            'sqe.opcode = IORING_OP_READ;', NOP),
     Case('op/file', 'hazard-85:*', '2 read waiting')),
    (Mutant('wait: a latch of 0 lets others run first', 'sync/latch.hpp',
            'bool take() const noexcept { return missing_ == 0; }',
            'bool take() const noexcept { return false; }'),
     Case('sync/latch', "wait() of a latch of 0*", 'order == std::vector{1, 2}')),

    # ---- The pool's checklist ----
    (Mutant('pool: a lowered limit retires no idle worker', 'pool/pool.hpp',
            '    if (account.live > account.max_workers) state_.wake_all_idle(account);\n', ''),
     Case('pool/pool', 'wq-9:*', 'bound.workers == ')),
    (Mutant('pool: the manager watches workers although no item waits', 'pool/detail/account.hpp',
            'return counts.unserved() &&', 'return counts.nr_running > 0 &&'),
     Case('pool/manager', 'wq-28: the manager makes no system call while no*', 'eventually(is_parked)')),
    (Mutant('pool: the manager is called for a full account', 'pool/detail/account.hpp',
            'if (counts.live + counts.creating >= counts.max_workers) return step::none;',
            'if (counts.live + counts.creating >= counts.max_workers) return step::watch;'),
     Case('pool/manager', 'wq-28: the manager makes no system call while the*', '::calls == calls')),
    (Mutant('pool: records of workers are not freed', 'pool/detail/manager.hpp',
            'pool_.spare.pop_front()) delete record;', 'pool_.spare.pop_front()) (void)record;'),
     Case('pool/pool', 'wq-67:*', 'since.made == since.freed')),
    (Mutant('pool: the end does not interrupt a creation', 'pool/detail/manager.hpp',
            'if (pool_.manager_retires || creation_is_stale(account)) {',
            'if (creation_is_stale(account)) {'),
     Case('pool/manager', "the pool's end interrupts a creation*", 'attempts == 2')),
]


def what_failed(program, case):
    """The output of the case, and the source lines of the waits that reached a deadline."""
    environment = {**os.environ, 'IOWQ_TEST_WAIT_SECONDS': str(WAIT_SECONDS)}
    environment.pop('IOWQ_BACKEND', None)
    if case.backend:
        environment['IOWQ_BACKEND'] = case.backend
    # Children of the case may outlive it: they get no pipe that we read to its end, and are killed.
    with tempfile.TemporaryFile('w+', errors='replace') as printed:
        ran = subprocess.Popen([program, f'-tc={case.title}'], stdin=subprocess.DEVNULL,
                               stdout=printed, stderr=subprocess.STDOUT, env=environment,
                               start_new_session=True)
        try:
            code = ran.wait(timeout=60)
        except subprocess.TimeoutExpired:
            code = 0  # it hangs: not the expected failure
        with contextlib.suppress(ProcessLookupError):
            os.killpg(ran.pid, signal.SIGKILL)
        ran.wait()
        printed.seek(0)
        output = printed.read()
    if not case.backend and 'iowq: no io_uring' in output:
        print(f'no io_uring here: {output}')
        sys.exit(SKIPPED)
    if re.search(r'test cases: +0 ', output):
        sys.exit(f'{case.test} has no case {case.title}')
    for path, number in re.findall(r'^(\S+_test\.cpp):(\d+): \d+ s have passed', output, re.M):
        # A statement may extend over several lines.
        output += '\n'.join(pathlib.Path(path).read_text().split('\n')[int(number) - 1:int(number) + 4])
    return code, output


def can_get(mutant, cases, root, scratch, doctest, compiler):
    """Returns whether each case fails as it should."""
    copy = mutate(mutant, root, scratch)
    programs, found = {}, True
    for case in cases:
        if case.test not in programs:
            build(copy, root / 'tests' / f'{case.test}_test.cpp',
                  [*compiler, f'-I{root}/tests/support'], root / 'tests' / 'support' / 'main.cpp',
                  doctest, '-luring', '-pthread')
            programs[case.test] = copy / case.test.replace('/', '_')
            (copy / 'program').rename(programs[case.test])
        code, output = what_failed(programs[case.test], case)
        as_it_should = code != 0 and case.says in output
        print(f'{"found" if as_it_should else "NOT FOUND"}: {mutant.name}: {case.test}: {case.title}',
              flush=True)
        if not as_it_should:
            print(f'exit code {code}, and this does not say {case.says!r}:\n{output}')
        found = found and as_it_should
    shutil.rmtree(copy)
    return found


def main():
    if sys.argv[1:] == ['--list']:
        print('\n'.join(mutant.name for mutant, *_ in MUTANTS))
        return 0
    name, root, scratch, doctest, _, *compiler = sys.argv[1:]
    chosen = [one for one in MUTANTS if name in ('--all', one[0].name)]
    if not chosen:
        sys.exit(f'no mutant is named {name}')
    lives = [mutant.name for mutant, *cases in chosen
             if not can_get(mutant, cases, pathlib.Path(root), pathlib.Path(scratch), doctest, compiler)]
    for one in lives:
        print(f'it lives: {one}')
    return 1 if lives else 0


if __name__ == '__main__':
    sys.exit(main())
