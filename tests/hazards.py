#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Prints the hazards of tests/hazards.txt and the test cases that cover each.

    hazards.py HAZARDS TESTS

A case says `hazard-77: ...` in its name, or `hazard-76, 77: ...`. Exits 1 if a hazard of the list
has no case. Cases of other hazards, which are not on the list, are printed behind it.
"""

import pathlib
import re
import sys

CASE = re.compile(r'TEST_CASE\s*\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')
NUMBERS = re.compile(r'hazard-(\d+(?:, \d+)*)')


def cases_of(source):
    for found in CASE.finditer(source):
        yield ''.join(re.findall(r'"((?:[^"\\]|\\.)*)"', found[1]))


def main():
    listed, tests = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    covers = {}
    for path in sorted(tests.rglob('*_test.cpp')):
        for case in cases_of(path.read_text()):
            for numbers in NUMBERS.findall(case):
                for number in numbers.split(', '):
                    covers.setdefault(int(number), []).append((path.relative_to(tests), case))
    faults, wanted = [], set()
    for line in listed.read_text().splitlines():
        print(line)
        if found := re.match(r'(\d+)\. ', line):
            number = int(found[1])
            wanted.add(number)
            for path, case in covers.get(number, []):
                print(f'     + {path}: {case}')
            if number not in covers:
                print('     ! no test case')
                faults.append(f'hazard {number} has no test case')
    print('\n# Others that have a case')
    for number in sorted(set(covers) - wanted):
        print(f'{number}. {", ".join(sorted({str(path) for path, _ in covers[number]}))}')
    print(f'\n{len(wanted)} hazards listed, {len(wanted & set(covers))} covered; '
          f'{len(set(covers) - wanted)} others')
    for fault in faults:
        print(f'hazards: {fault}')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
