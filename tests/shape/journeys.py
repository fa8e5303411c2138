#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Counts the files, classes and lines that a reader crosses to follow one operation.

    journeys.py [ROOT]             check CONTRIBUTING.md against the headers and journeys_allowed.txt
    journeys.py [ROOT] --update    lower the numbers in journeys_allowed.txt; raises none

A journey is a list under a heading of the chapter "Three journeys through the code". Each item names
a function and its header below include/iowq: - `function` in `exec/operation.hpp`: sentence. The function
must exist there; overloads count together. The numbers of a journey may only shrink.
"""

import argparse
import collections
import pathlib
import re
import sys

sys.dont_write_bytecode = True
import lengths  # noqa: E402

DOCUMENT = 'CONTRIBUTING.md'
CHAPTER = '## Three journeys through the code'
ALLOWED = 'tests/shape/journeys_allowed.txt'
ITEM = re.compile(r'^- `(?P<function>[^`]+)` in `(?P<header>[\w/]+\.hpp)`: \S')
JOURNEYS = 3

Count = collections.namedtuple('Count', 'files classes lines')


def journeys(text):
    """({title: [(line, function, header)]}, faults) of the document."""
    found, faults, title, inside = {}, [], None, False
    for number, line in enumerate(text.split('\n'), 1):
        if line.startswith('## '):
            inside = line == CHAPTER
        elif inside and line.startswith('### '):
            title = line[4:]
            found[title] = []
        elif inside and title and line.startswith('- '):
            if match := ITEM.match(line):
                found[title].append((number, match['function'], match['header']))
            else:
                faults.append(f'{DOCUMENT}:{number}: not "- `function` in `folder/header.hpp`: ..."')
    return found, faults


def count(root, steps, functions_of):
    """(Count, faults) of a journey."""
    files, classes, lines, faults = set(), set(), 0, []
    for number, function, header in dict.fromkeys(steps):
        path = root / 'include' / 'iowq' / header
        if not path.is_file():
            faults.append(f'{DOCUMENT}:{number}: include/iowq/{header} does not exist')
            continue
        if header not in functions_of:
            functions_of[header] = lengths.functions(path.read_text())
        named = [one for one in functions_of[header] if ('::' + one.name).endswith('::' + function)]
        if not named:
            faults.append(f'{DOCUMENT}:{number}: {header} has no function {function}')
            continue
        files.add(header)
        classes |= {one.name.rpartition('::')[0] for one in named if '::' in one.name}
        lines += sum(one.last - one.first + 1 for one in named)
    return Count(len(files), len(classes), lines), faults


def read_allowed(root):
    """{title: Count} of the list."""
    path = root / ALLOWED
    lines = path.read_text().split('\n') if path.exists() else []
    words = [line.split(maxsplit=3) for line in lines if line.strip() and line[0] != '#']
    return {entry[3]: Count(*map(int, entry[:3])) for entry in words}


HEADER = """\
# Files, classes and lines of each journey in CONTRIBUTING.md. No number may rise; after one has
# fallen, `python3 tests/shape/journeys.py --update` lowers it here.
"""


def write_allowed(root, counts):
    lines = [f'{each.files:3} {each.classes:3} {each.lines:4} {title}\n'
             for title, each in counts.items()]
    (root / ALLOWED).write_text(HEADER + ''.join(lines))


def compare(counts, allowed):
    """The faults of these counts."""
    faults = [f'{ALLOWED}: {title} is no journey of {DOCUMENT}' for title in allowed
              if title not in counts]
    for title, each in counts.items():
        limit = allowed.get(title)
        if limit is None:
            faults.append(f'{ALLOWED} has no line for: {title}')
            continue
        for what in Count._fields:
            now, most = getattr(each, what), getattr(limit, what)
            if now > most:
                faults.append(f'{title}: {now} {what}, limit {most}')
            elif now < most:
                faults.append(f'{title}: {now} {what}, but {ALLOWED} says {most}: '
                              'lower it with `python3 tests/shape/journeys.py --update`')
    return faults


def check(root, update=False):
    """({title: Count}, faults) of a tree."""
    found, faults = journeys((root / DOCUMENT).read_text())
    if len(found) != JOURNEYS:
        faults.append(f'{DOCUMENT}: {len(found)} journeys under "{CHAPTER}", not {JOURNEYS}')
    counts, functions_of = {}, {}
    for title, steps in found.items():
        counts[title], missing = count(root, steps, functions_of)
        faults += missing
    allowed = read_allowed(root)
    if update and not faults:
        allowed = {title: Count(*map(min, allowed[title], each)) for title, each in counts.items()
                   if title in allowed}
        write_allowed(root, allowed)
    return counts, faults + compare(counts, allowed)


def main():
    options = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    options.add_argument('root', nargs='?', type=pathlib.Path,
                         default=pathlib.Path(__file__).resolve().parents[2])
    options.add_argument('--update', action='store_true', help='lower the numbers of the list')
    chosen = options.parse_args()
    counts, faults = check(chosen.root, chosen.update)
    for title, each in counts.items():
        print(f'{each.files:3} files {each.classes:3} classes {each.lines:4} lines: {title}')
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
