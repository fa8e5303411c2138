#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Prints the pool's checklist: each line, the test cases that cover it, and what became of them.

    checklist.py CHECKLIST PROGRAM...

Exits 1 if a line has no case, or a case names a line that there is not. A program leaves a note
beside itself, PROGRAM.skipped, of what it could not test here when it last ran all of its cases.
"""

import pathlib
import re
import subprocess
import sys


def cases_of(program):
    """The names of its test cases; none, and why, if it does not run here."""
    listing = subprocess.run([program, '--list-test-cases', '--no-version', '--no-colors'],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if listing.returncode == 77:
        return None, listing.stdout.strip()
    if listing.returncode != 0:
        sys.exit(f'{program} does not list its test cases')
    return [line for line in listing.stdout.splitlines() if not line.startswith('[doctest]')], ''


def skipped_by(program, cases):
    """Case to reason; None: it has not run since it was built."""
    note = pathlib.Path(f'{program}.skipped')
    if not note.exists() or note.stat().st_mtime < pathlib.Path(program).stat().st_mtime:
        return None
    said = note.read_text().splitlines()
    return {case: line.removeprefix(f'skipped: {case}: ') for case in cases for line in said
            if line.startswith(f'skipped: {case}: ')}


def main():
    checklist, *programs = sys.argv[1:]
    sections, lines = [], {}
    for text in pathlib.Path(checklist).read_text().splitlines():
        if found := re.match(r'(\d+)\. (.+)', text):
            if int(found[1]) <= max(lines, default=0):
                sys.exit(f'{checklist}: line {found[1]} is not in order')
            lines[int(found[1])] = found[2]
        elif text.startswith('# '):
            sections.append((max(lines, default=0) + 1, text[2:]))

    covers = {number: [] for number in lines}
    faults, absent, skips = [], [], 0
    for program in programs:
        cases, why = cases_of(program)
        if cases is None:
            absent.append(why)
            continue
        skipped = skipped_by(program, cases)
        for case in cases:
            title = case.split(': ', 1)[0]
            numbers = [int(n) for n in re.findall(r'wq-(\d+)', title)]
            fate = 'not run since it was built' if skipped is None else skipped.get(case, '')
            if numbers and skipped and case in skipped:
                skips += 1
            for number in numbers:
                if number in covers:
                    covers[number].append((case, fate, skipped is not None and case in skipped))
                else:
                    faults.append(f'"{case}": the checklist has no line {number}')

    for number, text in sorted(lines.items()):
        for _, title in [one for one in sections if one[0] == number][-1:]:
            print(f'\n{title}')
        print(f'{number:3}. {text}')
        for case, fate, was_skipped in covers[number]:
            mark = '-' if was_skipped else '?' if fate else '+'
            print(f'     {mark} {case.split(": ", 1)[1]}{": skipped: " * was_skipped}'
                  f'{fate if was_skipped else f" ({fate})" if fate else ""}')
        if not covers[number]:
            print('     ! no test case')
            faults.append(f'line {number} has no test case')

    print(f'\n{len(lines)} lines, {sum(1 for each in covers.values() if each)} covered, '
          f'{skips} cases skipped here')
    for why in absent:
        print(why)
    if absent:  # what covers a line may be in there
        faults = [fault for fault in faults if 'has no test case' not in fault]
    for fault in faults:
        print(f'checklist: {fault}')
    return 1 if faults else 77 if absent else 0


if __name__ == '__main__':
    sys.exit(main())
