#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Limits the number of headers: 75 public ones and 125 in all.

    headers.py [ROOT]             check; exits 1 if there are more than headers_allowed.txt permits
    headers.py [ROOT] --list      print every header, with `public` or `detail`
    headers.py [ROOT] --update    lower the numbers in headers_allowed.txt; raises none

A header is public if no folder named detail is in its path. queue/ and base/policy.hpp are exempt:
they are internal, and not in a detail folder.
"""

import argparse
import pathlib
import re
import sys

LIMITS = {'public': 75, 'all': 125}
ALLOWED = 'tests/shape/headers_allowed.txt'
INTERNAL = re.compile(r'(^|/)detail/|^queue/|^base/policy\.hpp$')


def headers(root):
    """{name: whether it is public} of all headers."""
    include = root / 'include' / 'iowq'
    names = sorted(path.relative_to(include).as_posix() for path in include.rglob('*.hpp'))
    return {name: not INTERNAL.search(name) for name in names}


def read_allowed(root):
    """{what: number} of the list: the limits, unless the list allows more."""
    path = root / ALLOWED
    lines = path.read_text().split('\n') if path.exists() else []
    words = [line.split() for line in lines if line.strip() and line[0] != '#']
    return {**LIMITS, **{what: int(number) for number, what in words}}


HEADER = """\
# The numbers of headers, where they are above the limits of headers.py. No number may rise; after
# one has fallen, `python3 tests/shape/headers.py --update` lowers it here.
"""


def write_allowed(root, allowed):
    lines = [f'{number:4} {what}\n' for what, number in allowed.items() if number > LIMITS[what]]
    (root / ALLOWED).write_text(HEADER + ''.join(lines))


def compare(counts, allowed):
    """The faults of these counts."""
    faults = []
    for what, limit in LIMITS.items():
        now, most = counts[what], allowed[what]
        if now > most:
            faults.append(f'{what} headers: {now}, limit {most}')
        elif most > limit and now < most:
            faults.append(f'{what} headers: {now}, but {ALLOWED} says {most}: lower it with '
                          '`python3 tests/shape/headers.py --update`')
    return faults


def main():
    options = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    options.add_argument('root', nargs='?', type=pathlib.Path,
                         default=pathlib.Path(__file__).resolve().parents[2])
    options.add_argument('--list', action='store_true', help='print every header')
    options.add_argument('--update', action='store_true', help='lower the numbers of the list')
    chosen = options.parse_args()
    found = headers(chosen.root)
    if chosen.list:
        for name, public in found.items():
            print('public' if public else 'detail', name)
    counts = {'public': sum(found.values()), 'all': len(found)}
    allowed = read_allowed(chosen.root)
    if chosen.update:
        allowed = {what: min(number, max(counts[what], LIMITS[what]))
                   for what, number in allowed.items()}
        write_allowed(chosen.root, allowed)
    faults = compare(counts, allowed)
    for fault in faults:
        print(fault)
    print(f"{counts['public']} public headers (limit {LIMITS['public']}), "
          f"{counts['all']} in all (limit {LIMITS['all']})")
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
