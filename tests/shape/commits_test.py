#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""commits.py rejects each of these messages for its one fault, and passes where git has no history."""

import contextlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

sys.dont_write_bytecode = True
import commits  # noqa: E402

IDENTITY = {f'GIT_{role}_{what}': value for role in ('AUTHOR', 'COMMITTER')
            for what, value in (('NAME', 'test'), ('EMAIL', 'test@example.org'))}
ENVIRONMENT = {**os.environ, **IDENTITY, 'GIT_CONFIG_GLOBAL': '/dev/null',
               'GIT_CONFIG_NOSYSTEM': '1'}


class Messages(unittest.TestCase):
    def accepts(self, *lines):
        self.assertEqual(commits.faults_of('\n'.join(lines) + '\n'), [], lines)

    def rejects(self, fault, *lines):
        faults = commits.faults_of('\n'.join(lines) + '\n')
        self.assertEqual(len(faults), 1, (lines, faults))
        self.assertIn(fault, faults[0])

    def test_sound_messages(self):
        self.accepts('op: fail with ESPIPE when a pipe is given an offset')
        self.accepts('op/file: cache EOPNOTSUPP of RWF_NOWAIT', '', 'Linux 6.1 reports it once.')
        self.accepts('exec, pool: rename the counters')
        self.accepts('tests of op: wait until the flock blocks')
        self.accepts('ring: re-arm the poll')
        self.accepts('a: ' + 'x' * 69)

    def test_area(self):
        for subject in ['fix the ring', 'Ring: fix it', 'ring:fix it', 'ring fix: ',
                        'fixup! ring: fix it', 'Revert "ring: fix it"', ': fix it']:
            self.rejects('area', subject)

    def test_length_and_full_stop(self):
        self.rejects('73 characters', 'a: ' + 'x' * 70)
        self.rejects('full stop', 'ring: fix the poll.')

    def test_the_summary_is_an_imperative(self):
        for word, verb in [('adds', 'add'), ('added', 'add'), ('adding', 'add'), ('fixes', 'fix'),
                           ('fixed', 'fix'), ('fixing', 'fix'), ('removes', 'remove'),
                           ('removing', 'remove'), ('dropped', 'drop'), ('stopping', 'stop'),
                           ('tried', 'try'), ('copies', 'copy'), ('uses', 'use')]:
            self.rejects(f'"{verb}"', f'ring: {word} the poll')
        for word in ['the', 'a', 'who', 'what', 'only', 'nobody', 'made', 'ran', 'on']:
            self.rejects('not an imperative', f'ring: {word} poll')
        for word in ['Fix', 'ESPIPE', '`fix`', "libstdc++'s"]:
            self.rejects('lower-case verb', f'ring: {word} it')
        for word in ['fix', 'speed up', 'embed', 'bring', 'need', 'process', 'pass', 'let', 'set',
                     'never move']:
            self.accepts(f'ring: {word} it')

    def test_body(self):
        subject = 'ring: fix the poll'
        self.rejects('no empty line', subject, 'at once')
        self.rejects('line 3 has 73', subject, '', 'word ' * 14 + 'abc')
        self.accepts(subject, '', 'word ' * 14 + 'ab')
        self.accepts(subject, '', 'See https://example.org/' + 'x' * 80)
        self.accepts(subject, '', '    ' + 'code ' * 20)
        self.accepts(subject, '', '```', 'code ' * 20, '```')
        self.rejects('line 5', subject, '', '```', '```', 'word ' * 20)
        self.accepts(subject, '', 'Co-authored-by: ' + 'A long name ' * 6 + '<a@example.org>')

    def test_no_verb_is_taken_for_a_form(self):
        self.assertFalse(set(commits.VERBS) & commits.NO_VERBS)
        self.assertFalse(set(commits.VERBS) & set(commits.WRONG_FORMS))


@unittest.skipUnless(shutil.which('git'), 'git is not installed')
class History(unittest.TestCase):
    def setUp(self):
        where = tempfile.TemporaryDirectory()
        self.addCleanup(where.cleanup)
        self.root = pathlib.Path(where.name, 'checkout')
        self.git(where.name, 'init', '-q', str(self.root))
        for subject in ['anything goes', 'ring: fix the poll', 'ring: fixed the poll']:
            self.git(self.root, 'commit', '-q', '--allow-empty', '-m', subject)

    def git(self, where, *arguments):
        subprocess.run(['git', '-C', str(where), *arguments], check=True, env=ENVIRONMENT,
                       stdout=subprocess.DEVNULL)

    def run_on(self, root, *arguments):
        """The exit code and output of commits.py."""
        output = io.StringIO()
        command = ['commits.py', str(root), '--skipped', '77', *arguments]
        with mock.patch.object(sys, 'argv', command), contextlib.redirect_stdout(output), \
                mock.patch.dict(os.environ, ENVIRONMENT):
            return commits.main(), output.getvalue()

    def test_a_range(self):
        code, output = self.run_on(self.root, '--range', 'HEAD~2..HEAD')
        self.assertEqual(code, 1)
        self.assertIn('"ring: fixed the poll"', output)
        self.assertIn('2 commits', output)
        self.assertEqual(self.run_on(self.root, '--range', 'HEAD~2..HEAD~1')[0], 0)

    def test_no_history(self):
        code, output = self.run_on(self.root)  # does not have the first version
        self.assertEqual(code, 77)
        self.assertIn('skipped: ', output)
        shallow = self.root.parent / 'shallow'
        self.git(self.root.parent, 'clone', '-q', '--depth=1', self.root.as_uri(), str(shallow))
        code, output = self.run_on(shallow, '--range', 'HEAD..HEAD')
        self.assertEqual((code, output), (77, 'skipped: this is a shallow clone\n'))

    def test_no_checkout(self):
        tarball = self.root / 'tarball'
        tarball.mkdir()
        code, output = self.run_on(tarball, '--range', 'HEAD~1..HEAD')
        self.assertEqual(code, 77)
        self.assertIn('not the top of a checkout', output)
        self.assertEqual(self.run_on(self.root.parent)[0], 77)
        with mock.patch.object(subprocess, 'run', side_effect=FileNotFoundError):
            self.assertEqual(self.run_on(self.root), (77, 'skipped: git is not installed\n'))


if __name__ == '__main__':
    unittest.main()
