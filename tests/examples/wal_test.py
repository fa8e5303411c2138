# SPDX-License-Identifier: BSL-1.0
"""wal, killed again and again: what it acknowledged is there, in order, and what is torn is cut.

    wal_test.py PATH_OF_WAL
"""
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import unittest

from complaints import complaints

WAL = os.path.abspath(sys.argv.pop(1))
LOGS = 3


def write(directory, **options):
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [WAL, "--logs", str(LOGS), "write", directory, *flags]


def read(directory):
    """The records of each log, as (number, text), and what was said."""
    ran = subprocess.run([WAL, "--logs", str(LOGS), "read", directory], capture_output=True, text=True,
                         timeout=60, check=True)
    found = {log: [] for log in range(LOGS)}
    for line in ran.stdout.splitlines():
        log, number, text = line.split(" ", 2)
        found[int(log)].append((int(number), text))
    return found, complaints(ran.stderr)


class WalTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()

    def tearDown(self):
        self.dir.cleanup()

    def in_order(self, found):
        """Numbers without a gap, and each run's writers in the order in which they wrote."""
        for records in found.values():
            self.assertEqual([number for number, _ in records], list(range(len(records))))

    def test_all_that_was_written_is_found(self):
        ran = subprocess.run(write(self.dir.name, writers=20, records=30), capture_output=True, text=True,
                             timeout=60, check=True)
        acknowledged = set(ran.stdout.splitlines())
        self.assertEqual(len(acknowledged), 600)
        found, said = read(self.dir.name)
        self.assertEqual({f"{log} {n} {text}" for log, all in found.items() for n, text in all}, acknowledged)
        self.assertEqual(said, "")
        self.in_order(found)
        for records in found.values():
            last = {}
            for _, text in records:
                writer, count, _ = text.split(" ")
                self.assertLess(last.get(writer, -1), int(count))
                last[writer] = int(count)
        batches = int(ran.stderr.split(" records in ")[1].split()[0])
        self.assertLess(batches, 600)  # they were written together

    def test_a_kill_loses_nothing_that_was_acknowledged(self):
        chance = random.Random(7)
        acknowledged = set()
        for _ in range(40):
            # Killed by what it has said, so that each time it is in the midst of something.
            enough = chance.randrange(1, 400)
            writer = subprocess.Popen(write(self.dir.name, writers=16, records=100_000, size=20_000),
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            lines = []
            while len(lines) < enough:
                lines.append(writer.stdout.readline())
            writer.kill()
            rest, _ = writer.communicate()
            lines += rest.splitlines(keepends=True)
            acknowledged.update(line[:-1] for line in lines if line.endswith("\n"))
            found, _ = read(self.dir.name)
            self.in_order(found)
            there = {f"{log} {n} {text}" for log, all in found.items() for n, text in all}
            self.assertEqual(acknowledged - there, set())

    def test_what_is_torn_is_cut_and_nothing_else(self):
        chance = random.Random(11)
        for damage in range(40):
            subprocess.run(write(self.dir.name, writers=3, records=4), stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=60, check=True)
            before, said = read(self.dir.name)
            self.assertEqual(said, "")
            path = f"{self.dir.name}/1.wal"
            size = os.path.getsize(path)
            number, last = before[1][-1]
            length = 16 + len(last)
            lost = damage % 3 != 2
            with open(path, "r+b") as file:
                if damage % 3 == 0:  # the last record in part
                    file.truncate(size - chance.randrange(1, length))
                elif damage % 3 == 1:  # a bit of it is another
                    place = size - chance.randrange(1, length + 1)
                    file.seek(place)
                    byte = file.read(1)[0]
                    file.seek(place)
                    file.write(bytes([byte ^ (1 << chance.randrange(8))]))
                else:  # something behind it
                    file.seek(0, os.SEEK_END)
                    file.write(os.urandom(chance.randrange(1, 100)))
            after, said = read(self.dir.name)
            self.assertIn("are torn", said)
            if lost:
                before[1].pop()
            self.assertEqual(after, before)
            ran = subprocess.run(write(self.dir.name, writers=1, records=1), capture_output=True, text=True,
                                 timeout=60, check=True)
            self.assertIn("were torn", ran.stderr)
            after, said = read(self.dir.name)
            self.assertEqual(said, "")
            self.in_order(after)
            self.assertEqual(after[1][:len(before[1])], before[1])

    def test_a_full_disk_is_said_and_acknowledges_nothing(self):
        ran = subprocess.run(write("/proc/self/nowhere"), capture_output=True, text=True, timeout=60)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("wal: ", ran.stderr)
        self.assertEqual(ran.stdout, "")
        # RLIMIT_FSIZE is a disk that is full for one process.
        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        ran = subprocess.run(write(self.dir.name, writers=8, records=1000, size=500), capture_output=True,
                             text=True, timeout=60, preexec_fn=limited)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("File too large", ran.stderr)
        found, _ = read(self.dir.name)
        there = {f"{log} {n} {text}" for log, all in found.items() for n, text in all}
        self.assertEqual(set(ran.stdout.splitlines()) - there, set())


if __name__ == "__main__":
    unittest.main()
