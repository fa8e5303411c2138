#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Adds up the logs of `meson test` and of tests/vm/run.py, and prints what did not pass.

    summary.py [--began SECONDS] [--status STATUS] [--allowed FILE] [--slowest N] LOG...

Counts test cases; a program that reports no cases counts as one. The last line is
`N passed, N failed, N skipped`, with the time since SECONDS (of the epoch) if that is given.

STATUS is not 0 if a command failed; then at least one failure is counted. With --allowed, a skip
that FILE does not list counts as a failure. Each line of FILE is `NAME | REASON`, two patterns of
the shell. Exits 1 if there is a failure.
"""

import argparse
import fnmatch
import json
import pathlib
import re
import sys
import time
from typing import NamedTuple

DOCTEST = re.compile(r'^\[doctest\] test cases: +(\d+) \| +(\d+) passed \| +(\d+) failed', re.M)
UNITTEST = re.compile(r'^Ran (\d+) tests? in .*\n\n(.*)$', re.M)
UNITTEST_SKIP = re.compile(r"^(\w+) \([\w.]+\)(?:\n.*)? \.\.\. skipped ['\"](.*)['\"]$", re.M)
SKIP = re.compile(r'^skipped: (?:(.*) \| (.*)|(.*?): (.*))$', re.M)


class Skip(NamedTuple):
    name: str
    reason: str


class Test(NamedTuple):
    build: str
    name: str
    result: str
    duration: float
    passed: int
    failed: int
    skips: list


def cases_of(text):
    """The numbers of cases and of failed cases; 1 and 0 if the output names none."""
    if found := DOCTEST.search(text):
        return int(found[1]), int(found[3])
    if found := UNITTEST.search(text):
        return int(found[1]), sum(map(int, re.findall(r'(?:failures|errors)=(\d+)', found[2])))
    return 1, 0


def skips_of(text):
    """The cases that programs skip, by SKIP_CASE or by a line `skipped: NAME: REASON`."""
    skips = [Skip(found[1] or found[3], found[2] or found[4]) for found in SKIP.finditer(text)]
    named = [Skip(*found) for found in UNITTEST_SKIP.findall(text)]
    if found := UNITTEST.search(text):
        count = sum(map(int, re.findall(r'skipped=(\d+)', found[2])))
        named += [Skip('a test without a name', '')] * (count - len(named))
    return list(dict.fromkeys(skips + named))


def as_test(build, entry):
    name, result = entry['name'].split(' / ')[-1], entry['result']  # 'iowq:suite / name'
    text = entry.get('stdout', '') + '\n' + entry.get('stderr', '')
    skips = skips_of(text)
    if result == 'SKIP':
        said = text.strip().splitlines()
        return Test(build, name, result, entry['duration'], 0, 0,
                    [Skip(name, skips[0].reason if skips else said[-1] if said else '')])
    cases, failed = cases_of(text)
    if result not in ('OK', 'EXPECTEDFAIL'):
        failed = max(failed, 1)
    # A program without cases that leaves out parts of its work has still passed.
    passed = max(cases - failed - len(skips), 0 if failed else 1)
    return Test(build, name, result, entry['duration'], passed, failed, skips)


def read(logs):
    tests = []
    for log in logs:
        if not log.exists():  # nothing was built
            continue
        build = log.parent.parent if log.parent.name == 'meson-logs' else log.parent
        tests += [as_test(build.name, json.loads(line)) for line in log.read_text().splitlines()]
    return tests


def allowed_in(path):
    lines = [line.split('#')[0].strip() for line in path.read_text().splitlines()]
    return [tuple(part.strip() for part in line.split('|')) for line in lines if line]


def is_allowed(skip, patterns):
    return any(fnmatch.fnmatchcase(skip.name, name) and fnmatch.fnmatchcase(skip.reason, reason)
               for name, reason in patterns)


def print_skips(tests, patterns):
    """Prints each skip once, with the tests that had it; returns how many are not allowed."""
    where = {}
    for test in tests:
        for skip in test.skips:
            where.setdefault(skip, []).append(f'{test.build}/{test.name}')
    unlisted = 0
    if where:
        print('\nSkipped')
    for skip, places in sorted(where.items()):
        is_listed = patterns is None or is_allowed(skip, patterns)
        unlisted += 0 if is_listed else len(places)
        print(f'  {skip.name}: {skip.reason}' + ('' if is_listed else '  NOT ON THE LIST'))
        print(f'      in {", ".join(places)}')
    return unlisted


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('logs', nargs='*', type=pathlib.Path)
    parser.add_argument('--began', type=float)
    parser.add_argument('--status', type=int, default=0)
    parser.add_argument('--allowed', type=pathlib.Path)
    parser.add_argument('--slowest', type=int, default=0)
    options = parser.parse_args()

    tests = read(options.logs)
    if options.slowest:
        print('\nThe slowest tests')
        for test in sorted(tests, key=lambda test: -test.duration)[:options.slowest]:
            print(f'  {test.build:22} {test.name:46} {test.duration:6.1f} s')
    unlisted = print_skips(tests, allowed_in(options.allowed) if options.allowed else None)
    if any(test.failed for test in tests):
        print('\nFailed')
    for test in tests:
        if test.failed:
            print(f'  {test.build}/{test.name}: {test.result}, {test.failed} failed')

    passed = sum(test.passed for test in tests)
    failed = sum(test.failed for test in tests) + unlisted
    skipped = sum(len(test.skips) for test in tests) - unlisted
    if failed == 0 and options.status != 0:
        failed = 1  # not a test failed, but for example the compiler
    print('\nThese are test cases. A program that reports no cases counts as one.')
    line = f'{passed} passed, {failed} failed, {skipped} skipped'
    if options.began is not None:
        minutes, seconds = divmod(int(time.time() - options.began), 60)
        line += f', {minutes} min {seconds} s'
    print(line)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
