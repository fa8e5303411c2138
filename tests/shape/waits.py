#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Refuses waits of tests that show nothing, or that may have no end.

    waits.py ROOT             the tree to look at; prints `path:line: fault`, exits 1 if there is one

A loop that only yields a counted number of times does not show that an operation waits. A yield
runs the ready items, and all yields may run before the loop submits anything. until_waiting() of
tests/support/waiting.hpp sees the operation wait. A loop that only yields until a condition holds
has no deadline; until() and spin_until() have one, and name their line.
"""

import pathlib
import re
import sys

# Files with counted loops that do not wait for the kernel or a worker: how many, and why. An entry
# may only shrink, then go.
COUNTED = {
    'tests/exec/loop_test.cpp': (1, 'counts the turns that others get; ends by a flag'),
    'tests/exec/remote_inbox_test.cpp': (2, 'lets the scheduler run another thread; nothing is checked'),
    'tests/flow/task_group_test.cpp': (2, 'tasks that end in the turn that the case gives'),
    'tests/flow/transform_test.cpp': (1, 'tasks that end in the turn that the case gives'),
    'tests/flow/when_all_test.cpp': (1, 'tasks that end in the turn that the case gives'),
    'tests/flow/when_any_test.cpp': (3, 'tasks that end in the turn that the case gives'),
    'tests/random/library.hpp': (1, 'gives the random program turns; a stop follows in any case'),
    'tests/support/turns.hpp': (1, 'turns of the loop, by sleeps: the moments of a generator'),
    'tests/sync/waiter_test.cpp': (1, 'sync/ resumes in the ready queue, without the kernel'),
}
# Files with loops that yield and have no deadline.
UNBOUNDED = {
    'tests/base/stop_token_test.cpp': (3, 'the layer base: threads of the case itself, no executor'),
}

YIELD = (r'(?:co_await\s+(?:iowq::)?(?:yield\(\)|sleep_for\((?:std::chrono::)?\w+\{0\}\))'
         r'|std::this_thread::yield\(\))\s*;')
BODY = re.compile(rf'\s*(?:{YIELD}|\{{\s*{YIELD}\s*\}})')
LOOP = re.compile(r'\b(for|while)\s*\(')
COMMENT = re.compile(r'//[^\n]*')
COUNTS = re.compile(r'\+\+|--|[+-]=')


def close_of(text, start):
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += {'(': 1, ')': -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)


def loops(text):
    """(line, is it counted?) of each loop that only yields."""
    text = COMMENT.sub('', text)
    for found in LOOP.finditer(text):
        end = close_of(text, found.end() - 1)
        head = text[found.end():end]
        if not BODY.match(text, end + 1):
            continue
        is_endless = found[1] == 'for' and re.fullmatch(r'\s*;\s*;\s*', head)  # ends by a stop
        if not is_endless:
            yield text.count('\n', 0, found.start()) + 1, bool(COUNTS.search(head))


def faults_of(root):
    root = pathlib.Path(root)
    faults = []
    for path in sorted((root / 'tests').rglob('*.[ch]pp')):
        name = path.relative_to(root).as_posix()
        for is_counted, allowed, advice in [
                (True, COUNTED, 'yields a counted number of times: await until_waiting()'),
                (False, UNBOUNDED, 'has no deadline: await until(), or call spin_until()')]:
            lines = [line for line, counted in loops(path.read_text()) if counted == is_counted]
            limit = allowed.get(name, (0, ''))[0]
            if len(lines) > limit:
                faults += [f'{name}:{line}: {advice}' for line in lines]
            elif len(lines) < limit:
                faults.append(f'{name}:1: has {len(lines)} such loops, not {limit}: shrink the list')
    for name in sorted(COUNTED.keys() | UNBOUNDED.keys()):
        if not (root / name).exists():
            faults.append(f'{name}:1: is gone: strike its line from the list')
    return faults


def main():
    faults = faults_of(sys.argv[1])
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
