#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Adds up Meson's test logs, and those of tests/vm/run.py: the slowest tests, what did not pass, and
the plain last line.

    tally.py BUILD FAILED      FAILED is 1 if a lane failed, were it before its first test
"""

import json
import pathlib
import sys

tests = []
builds = pathlib.Path(sys.argv[1])
for log in sorted([*builds.glob('*/meson-logs/testlog.json'), *builds.glob('*/vm-testlog.json')]):
    for line in log.read_text().splitlines():
        test = json.loads(line)
        tests.append((log.relative_to(builds).parts[0], test['name'], test['result'], test['duration']))

print('\nThe slowest tests')
for build, name, _, duration in sorted(tests, key=lambda test: -test[3])[:12]:
    print(f'  {build:22} {name:46} {duration:6.1f} s')

passed = skipped = failed = 0
print('\nWhat did not pass')
for build, name, result, _ in tests:
    if result in ('OK', 'EXPECTEDFAIL'):
        passed += 1
        continue
    skipped += result == 'SKIP'
    failed += result != 'SKIP'
    print(f'  {build:22} {name:46} {result}')

if failed == 0 and sys.argv[2] != '0':
    failed = 1  # a lane that could not even be built
print(f'\n{passed} passed, {failed} failed, {skipped} skipped')
