# SPDX-License-Identifier: BSL-1.0
"""du says what the system's du says, of made trees and of real ones.

    du_test.py PATH_OF_DU
"""
import os
import subprocess
import sys
import unittest

import other_user

DU = os.path.abspath(sys.argv.pop(1))


def run(*command):
    environment = dict(os.environ, LC_ALL="C")
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)


def system_du(path):
    return run("du", "-s", "--apparent-size", "-b", path)


class DuTest(unittest.TestCase):
    def setUp(self):
        self.dir = other_user.temporary_directory()
        self.root = self.dir.name + "/tree"
        os.mkdir(self.root)
        os.chmod(self.root, 0o755)
        # Newer ones of GNU's du do not count the directories themselves.
        counts_directories = not system_du(self.root).stdout.startswith("0\t")
        self.how = [] if counts_directories else ["--files-only"]

    def tearDown(self):
        self.dir.cleanup()

    def same(self, path):
        theirs, ours = system_du(path), run(DU, *self.how, path)
        self.assertEqual(ours.stdout, theirs.stdout)
        self.assertEqual(ours.returncode, theirs.returncode, ours.stderr)

    def test_files_links_holes_and_fifos(self):
        for number in range(300):
            place = f"{self.root}/{number % 7}/{number % 3}"
            os.makedirs(place, exist_ok=True)
            with open(f"{place}/{number}", "wb") as file:
                file.write(b"x" * number * 17)
        with open(self.root + "/hole", "wb") as file:
            file.truncate(5_000_000_000)
        os.link(self.root + "/hole", self.root + "/0/same-hole")
        os.symlink("hole", self.root + "/link")
        os.symlink("..", self.root + "/0/around")
        os.mkfifo(self.root + "/fifo")
        self.same(self.root)
        self.same(self.root + "/hole")
        self.same(self.root + "/link")

    def test_real_trees(self):
        for path in "/usr/share/doc", "/usr/include", "/etc":
            if os.path.isdir(path) and system_du(path).returncode == 0:
                self.same(path)

    def test_what_is_not_there(self):
        ours = run(DU, self.root + "/none")
        self.assertEqual(ours.returncode, 1)
        self.assertIn("No such file or directory", ours.stderr)
        self.assertEqual(ours.stdout, "")

    def test_what_may_not_be_read(self):
        os.mkdir(self.root + "/closed", 0)
        with other_user.as_other_user(DU) as command:
            ours = run(*command, self.root)
        self.assertEqual(ours.returncode, 1)
        self.assertIn("closed: Permission denied", ours.stderr)

    def test_says_where_the_work_went(self):
        ours = run(DU, "--stats", "--jobs", "3", self.root)
        self.assertEqual(ours.returncode, 0)
        self.assertIn("walk", ours.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
