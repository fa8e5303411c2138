#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""waits.py must reject each of these loops, and accept other loops and allowed ones."""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import waits  # noqa: E402

NAME = 'tests/op/file_test.cpp'


def faults_of(text, name=NAME):
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root, name)
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return waits.faults_of(root)


class Waits(unittest.TestCase):
    def setUp(self):
        self.lists = waits.COUNTED, waits.UNBOUNDED
        waits.COUNTED, waits.UNBOUNDED = {}, {}

    def tearDown(self):
        waits.COUNTED, waits.UNBOUNDED = self.lists

    def test_counted_yields_are_refused(self):
        for loop in ['for (int i = 0; i < 50; ++i) co_await iowq::yield();',
                     'for (int i = 0; i < 50; ++i) {\n  co_await iowq::yield();\n}',
                     'for (int i = 0; i < size(x); i += 2)\n  co_await yield();',
                     'for (int n = 3; n > 0; --n) co_await iowq::yield();',
                     'while (n-- > 0) co_await iowq::yield();',
                     'for (; n != 0; --n) co_await iowq::sleep_for(std::chrono::seconds{0});',
                     'for (int i = 0; i < 9; i++) std::this_thread::yield();']:
            faults = faults_of(f'// a comment\n{loop}\n')
            self.assertEqual(len(faults), 1, loop)
            self.assertTrue(faults[0].startswith(f'{NAME}:2: yields a counted'), faults)

    def test_loops_without_a_deadline_are_refused(self):
        for loop in ['while (!ended) co_await iowq::yield();',
                     'while (left() != 0) {\n  co_await iowq::yield();\n}',
                     'while (!flag.load()) std::this_thread::yield();']:
            faults = faults_of(loop)
            self.assertEqual(len(faults), 1, loop)
            self.assertIn('has no deadline', faults[0])

    def test_other_loops_are_accepted(self):
        for loop in ['for (;;) co_await iowq::yield();',  # ends by a stop request
                     'for (int i = 0; i < 9; ++i) co_await iowq::nop();',
                     'for (int i = 0; i < 9; ++i) {\n  co_await iowq::yield();\n  CHECK(i);\n}',
                     'co_await iowq::yield();\nco_await iowq::yield();',
                     '// while (!ended) co_await iowq::yield();',
                     'co_await iowq_test::until([&] { return ended; });']:
            self.assertEqual(faults_of(loop), [], loop)

    def test_the_lists_only_shrink(self):
        loop = 'for (int i = 0; i < 50; ++i) co_await iowq::yield();\n'
        waits.COUNTED = {NAME: (2, 'a reason')}
        self.assertEqual(faults_of(2 * loop), [])
        self.assertEqual(len(faults_of(3 * loop)), 3)
        self.assertIn('shrink the list', faults_of(loop)[0])
        self.assertIn('is gone', faults_of('', 'tests/op/other_test.cpp')[0])


if __name__ == '__main__':
    unittest.main()
