#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""summary.py counts cases, names what was skipped, and fails where it must."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SUMMARY = pathlib.Path(__file__).with_name('summary.py')
DOCTEST = '[doctest] test cases: 12 | {} passed | {} failed | 3 skipped\n[doctest] Status\n'
UNITTEST = '''test_a (__main__.A.test_a) ... skipped "it's late"
test_b (__main__.A.test_b)
A docstring. ... skipped 'never (1)'
test_c (__main__.A.test_c) ... {}

----------------------------------------------------------------------
Ran 3 tests in 0.001s

{}(skipped=2)
'''


def entry(name, result='OK', stdout='', stderr=''):
    return {'name': name, 'result': result, 'duration': 1.5, 'stdout': stdout, 'stderr': stderr}


def summary(*entries, skips=None, options=()):
    """The exit status and the lines that summary.py prints for these tests."""
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name, 'build', 'meson-logs')
        place.mkdir(parents=True)
        log = place / 'testlog-quick.json'
        log.write_text(''.join(json.dumps(each) + '\n' for each in entries))
        command = [sys.executable, SUMMARY, log, *options]
        if skips is not None:
            allowed = pathlib.Path(name, 'skips.txt')
            allowed.write_text(skips)
            command += ['--allowed', allowed]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.stderr == '', ran.stderr
        return ran.returncode, ran.stdout.splitlines()


class SummaryTest(unittest.TestCase):
    def test_cases_of_doctest(self):
        status, lines = summary(entry('pool', stdout=DOCTEST.format(12, 0)))
        self.assertEqual((status, lines[-1]), (0, '12 passed, 0 failed, 0 skipped'))
        status, lines = summary(entry('pool', 'FAIL', DOCTEST.format(10, 2)))
        self.assertEqual((status, lines[-1]), (1, '10 passed, 2 failed, 0 skipped'))

    def test_skipped_cases_of_doctest_are_named_once(self):
        text = DOCTEST.format(12, 0) + 'skipped: wq-5: a name: with colons | why: so\n'
        status, lines = summary(entry('op', stdout=text), entry('op by poll', stdout=text))
        self.assertEqual((status, lines[-1]), (0, '22 passed, 0 failed, 2 skipped'))
        at = lines.index('  wq-5: a name: with colons: why: so')
        self.assertEqual(lines[at + 1], '      in build/op, build/op by poll')

    def test_cases_of_unittest(self):
        status, lines = summary(entry('du', stderr=UNITTEST.format('ok', 'OK ')))
        self.assertEqual((status, lines[-1]), (0, '1 passed, 0 failed, 2 skipped'))
        self.assertIn("  test_a: it's late", lines)
        self.assertIn('  test_b: never (1)', lines)
        text = UNITTEST.format('FAIL', 'FAILED ').replace('skipped=', 'failures=1, skipped=')
        status, lines = summary(entry('du', 'FAIL', stderr=text))
        self.assertEqual((status, lines[-1]), (1, '0 passed, 1 failed, 2 skipped'))

    def test_a_program_without_cases_counts_as_one(self):
        status, lines = summary(entry('layers'), entry('hung', 'TIMEOUT'),
                                entry('cmake', 'SKIP', 'there is no cmake here\n'))
        self.assertEqual((status, lines[-1]), (1, '1 passed, 1 failed, 1 skipped'))
        self.assertIn('  build/hung: TIMEOUT, 1 failed', lines)
        self.assertIn('  cmake: there is no cmake here', lines)

    def test_a_skip_that_is_not_on_the_list_fails(self):
        skipped = entry('cmake', 'SKIP', 'there is no cmake here\n')
        status, lines = summary(skipped, skips='# a comment\ncmake | there is no *\n')
        self.assertEqual((status, lines[-1]), (0, '0 passed, 0 failed, 1 skipped'))
        for skips in '', 'cmake | another reason\n', 'meson | there is no *\n':
            status, lines = summary(skipped, skips=skips)
            self.assertEqual((status, lines[-1]), (1, '0 passed, 1 failed, 0 skipped'))
            self.assertIn('  cmake: there is no cmake here  NOT ON THE LIST', lines)

    def test_a_failed_command_is_a_failure_and_time_is_added(self):
        status, lines = summary(entry('a'), options=['--status', '125', '--began', '0'])
        self.assertEqual(status, 1)
        self.assertRegex(lines[-1], r'^1 passed, 1 failed, 0 skipped, \d+ min \d+ s$')


if __name__ == '__main__':
    unittest.main(verbosity=2)
