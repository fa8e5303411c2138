# SPDX-License-Identifier: BSL-1.0
"""run_all: prints whole outputs in order, limits the number at a time, and names failures.

    run_all_test.py PATH_OF_RUN_ALL
"""
import os
import subprocess
import sys
import tempfile
import unittest

from complaints import complaints

RUN_ALL = os.path.abspath(sys.argv.pop(1))


def run(*arguments, text=""):
    return subprocess.run([RUN_ALL, *arguments], input=text, capture_output=True, text=True, timeout=100)


class RunAllTest(unittest.TestCase):
    def test_outputs_come_in_the_order_of_the_input(self):
        # The first ends last: it waits for what the last one makes.
        with tempfile.TemporaryDirectory() as where:
            os.mkfifo(where + "/gate")
            ours = run("-j", "3", f"cat {where}/gate", "echo two; echo three >&2", f"echo one > {where}/gate")
        self.assertEqual(ours.stdout, "one\ntwo\nthree\n")
        self.assertEqual(ours.returncode, 0)

    def test_lines_of_the_input_as_the_shell_runs_them(self):
        # No links: /etc/mtab changes when another test mounts a file system.
        lines = "".join(f"sha256sum {path}\n" for path in sorted(
            entry.path for entry in os.scandir("/etc") if entry.is_file(follow_symlinks=False) and os.access(entry.path, os.R_OK)))
        ours = run("--jobs", "8", text=lines)
        theirs = subprocess.run(["sh"], input=lines, capture_output=True, text=True)
        self.assertEqual(ours.stdout, theirs.stdout)

    def test_at_most_so_many_at_a_time(self):
        with tempfile.TemporaryDirectory() as where:
            # Each says how many there are, itself among them.
            command = f"mkdir {where}/$$; ls {where} | wc -l; sleep 0.02; rmdir {where}/$$"
            for jobs in 1, 3:
                ours = run("-j", str(jobs), *[command] * 20)
                counts = [int(line) for line in ours.stdout.split()]
                self.assertEqual(len(counts), 20)
                self.assertLessEqual(max(counts), jobs)

    def test_large_outputs_are_whole(self):
        command = "head -c 3000000 /dev/zero | tr '\\0' {}"
        ours = run("-j", "4", *[command.replace("{}", letter) for letter in "abcdef"])
        self.assertEqual(ours.stdout, "".join(letter * 3_000_000 for letter in "abcdef"))

    def test_who_failed_and_how(self):
        ours = run("true", "exit 3", "kill -9 $$", "no-such-command-here")
        self.assertEqual(ours.returncode, 1)
        self.assertIn("run_all: exit 3: exit 3\n", ours.stderr)
        self.assertIn("run_all: kill -9 $$: signal 9\n", ours.stderr)
        self.assertIn("no-such-command-here: exit 127\n", ours.stderr)

    def test_nothing_to_do(self):
        ours = run()
        self.assertEqual((ours.returncode, ours.stdout, complaints(ours.stderr)), (0, "", ""))


if __name__ == "__main__":
    unittest.main(verbosity=2)
