# SPDX-License-Identifier: BSL-1.0
"""tail: the last lines as the system's tail has them, and a log that is rotated under it.

    tail_test.py PATH_OF_TAIL
"""
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import unittest

from complaints import is_complaint

TAIL = os.path.abspath(sys.argv.pop(1))


def lines_of(stream, into):
    for line in stream:
        into.put(line)


class Follower:
    """A tail -F; what it says comes as it says it."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([TAIL, "-F", *arguments], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.out, self.err = queue.Queue(), queue.Queue()
        self.threads = [threading.Thread(target=lines_of, args=(stream, into)) for stream, into in
                        ((self.process.stdout, self.out), (self.process.stderr, self.err))]
        for thread in self.threads:
            thread.start()

    def said(self, count):
        return [self.out.get(timeout=30) for _ in range(count)]

    def complained(self):
        line = self.err.get(timeout=30)
        return line if is_complaint(line) else self.err.get(timeout=30)

    def end(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        for thread in self.threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


class TailTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.log = self.dir.name + "/log"
        self.followers = []

    def tearDown(self):
        for one in self.followers:
            one.end()
        self.dir.cleanup()

    def follow(self, *arguments):
        self.followers.append(Follower(*arguments))
        return self.followers[-1]

    def write(self, text, mode="a", name=None):
        with open(name or self.log, mode) as file:
            file.write(text)

    def test_the_last_lines(self):
        chance = random.Random(3)
        texts = ["", "\n", "one", "one\n", "\n\n\n", "a\nb\nc\nd", "a\nb\nc\nd\n", "x" * 100_000,
                 "x" * 32767 + "\n" + "y" * 32768 + "\n"]
        texts += ["".join(chance.choice(("\n", "word ", "x" * 500)) for _ in range(2000))]
        for text in texts:
            self.write(text, "w")
            for count in 0, 1, 2, 3, 10, 100_000:
                ours = subprocess.run([TAIL, "-n", str(count), self.log], capture_output=True)
                theirs = subprocess.run(["tail", "-n", str(count), self.log], capture_output=True)
                self.assertEqual(ours.stdout, theirs.stdout, (text[:40], count))
                self.assertEqual(ours.returncode, 0)

    def test_several_files_and_one_that_is_missing(self):
        self.write("one\n")
        self.write("two\n", name=self.log + "2")
        names = [self.log, self.log + "2"]
        ours = subprocess.run([TAIL, *names], capture_output=True)
        theirs = subprocess.run(["tail", *names], capture_output=True)
        self.assertEqual(ours.stdout, theirs.stdout)
        ours = subprocess.run([TAIL, self.log + "3"], capture_output=True, text=True)
        self.assertEqual(ours.returncode, 1)
        self.assertIn("No such file or directory", ours.stderr)

    def test_what_is_added_follows(self):
        self.write("old\n")
        tail = self.follow("-n", "1", self.log)
        self.assertEqual(tail.said(1), ["old\n"])
        for number in range(100):
            self.write(f"{number}\n")
        self.assertEqual(tail.said(100), [f"{n}\n" for n in range(100)])

    def test_a_rotation_loses_no_line(self):
        self.write("0\n")
        tail = self.follow(self.log)
        self.assertEqual(tail.said(1), ["0\n"])
        expected = []
        with open(self.log, "a") as file:
            for number in range(1, 400):
                if number % 40 == 0:
                    # logrotate does the same. The writer continues with the old file for a while.
                    os.rename(self.log, self.log + ".1")
                    file.write(f"late {number}\n")
                    file.close()
                    expected.append(f"late {number}\n")
                    file = open(self.log, "x")
                file.write(f"{number}\n")
                file.flush()
                expected.append(f"{number}\n")
                if number % 40 == 39:
                    # It cannot see a file that came and went between two looks.
                    self.assertEqual(tail.said(len(expected)), expected)
                    expected = []
            file.close()
        self.assertIn("following new file", tail.complained() + tail.complained())

    def test_truncation_deletion_and_a_new_file(self):
        self.write("first\nsecond\n")
        tail = self.follow(self.log)
        self.assertEqual(tail.said(2), ["first\n", "second\n"])
        self.write("third\n", "w")  # shorter than the printed part
        self.assertIn("file truncated", tail.complained())
        self.assertEqual(tail.said(1), ["third\n"])
        os.unlink(self.log)
        self.assertIn("has become inaccessible", tail.complained())
        self.write("fourth\n")
        self.assertIn("has appeared", tail.complained())
        self.assertEqual(tail.said(1), ["fourth\n"])

    def test_a_file_that_is_not_there_yet(self):
        tail = self.follow(self.log)
        self.assertIn("cannot open", tail.complained())
        self.write("here\n")
        self.assertIn("has appeared", tail.complained())
        self.assertEqual(tail.said(1), ["here\n"])

    def test_a_symbolic_link_is_followed_to_where_it_leads(self):
        os.mkdir(self.dir.name + "/elsewhere")
        real = self.dir.name + "/elsewhere/real"
        self.write("a\n", name=real)
        os.symlink(real, self.log)
        tail = self.follow(self.log)
        self.assertEqual(tail.said(1), ["a\n"])
        self.write("b\n", name=real)
        self.assertEqual(tail.said(1), ["b\n"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
