#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""journeys.py finds the steps and their functions, and rejects what does not exist or has grown."""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import journeys  # noqa: E402

HEADERS = {
    'exec/a.hpp': 'struct a {\n  void f() {\n  }\n  void g() {}\n  void g(int) {}\n};\n',
    'op/b.hpp': 'int f() { return 1; }\nint a::h() {\n  return 1;\n}\n',
}
STEPS = ['- `a::f` in `exec/a.hpp`: begins.', '- `f` in `op/b.hpp`: ends\n  here.']


def document(*lists):
    lines = ['# Title', '- `x` in `x.hpp`: no journey', journeys.CHAPTER, '', 'Words.']
    for number, steps in enumerate(lists, 1):
        lines += [f'### Journey {number}', '', 'Words.', '', *steps, '']
    return '\n'.join([*lines, '## Tests', '', '- `x` is no step'])


class Journeys(unittest.TestCase):
    def check(self, *lists, allowed='', update=False):
        with tempfile.TemporaryDirectory() as where:
            root = pathlib.Path(where)
            for name, text in HEADERS.items():
                path = root / 'include' / 'iowq' / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            (root / 'tests' / 'shape').mkdir(parents=True)
            (root / journeys.ALLOWED).write_text('# a comment\n' + allowed)
            (root / journeys.DOCUMENT).write_text(document(*lists))
            counts, faults = journeys.check(root, update)
            self.allowed = journeys.read_allowed(root)
            return list(counts.values()), faults

    def rejects(self, fault, *lists, **more):
        _, faults = self.check(*lists, **more)
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(fault, faults[0])

    def test_counts(self):
        same = '2 1 3 Journey 1\n1 1 3 Journey 2\n1 1 2 Journey 3\n'
        lists = [STEPS[:2], ['- `h` in `op/b.hpp`: is a method.'],
                 ['- `g` in `exec/a.hpp`: has an overload.']]
        counts, faults = self.check(*lists, allowed=same)
        self.assertEqual(faults, [])
        self.assertEqual([tuple(each) for each in counts], [(2, 1, 3), (1, 1, 3), (1, 1, 2)])

    def test_a_step_must_exist(self):
        same = '2 1 3 Journey 1\n2 1 3 Journey 2\n2 1 3 Journey 3\n'
        for step, fault in [('- `k` in `exec/a.hpp`: is missing.', 'has no function k'),
                            ('- `b::f` in `exec/a.hpp`: is missing.', 'has no function b::f'),
                            ('- `f` in `op/c.hpp`: is missing.', 'op/c.hpp does not exist'),
                            ('- `f` of `exec/a.hpp`: is missing.', 'not "- `function` in'),
                            ('- `f` in `exec/a.hpp`', 'not "- `function` in')]:
            self.rejects(fault, STEPS, STEPS, [*STEPS, step], allowed=same)

    def test_there_are_three(self):
        same = '2 1 3 Journey 1\n2 1 3 Journey 2\n'
        self.rejects('2 journeys', STEPS, STEPS, allowed=same)

    def test_numbers_only_shrink(self):
        two = '2 1 3 Journey 1\n2 1 3 Journey 2\n'
        self.rejects('2 files, limit 1', STEPS, STEPS, STEPS, allowed=two + '1 1 3 Journey 3\n')
        self.rejects('3 lines, limit 2', STEPS, STEPS, STEPS, allowed=two + '2 1 2 Journey 3\n')
        self.rejects('lower it', STEPS, STEPS, STEPS, allowed=two + '2 2 3 Journey 3\n')
        self.rejects('has no line for: Journey 3', STEPS, STEPS, STEPS, allowed=two)
        self.rejects('Journey 4 is no journey', STEPS, STEPS, STEPS,
                     allowed=two + '2 1 3 Journey 3\n2 1 3 Journey 4\n')

    def test_update_lowers_and_never_raises(self):
        old = '2 1 3 Journey 1\n9 9 9 Journey 2\n2 1 2 Journey 3\n'
        self.rejects('3 lines, limit 2', STEPS, STEPS, STEPS, allowed=old, update=True)
        self.assertEqual(tuple(self.allowed['Journey 2']), (2, 1, 3))
        self.assertEqual(tuple(self.allowed['Journey 3']), (2, 1, 2))


if __name__ == '__main__':
    unittest.main()
