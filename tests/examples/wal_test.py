# SPDX-License-Identifier: BSL-1.0
"""wal, killed again and again: acknowledged records are there, in order, and torn ones are cut.

    wal_test.py PATH_OF_WAL
"""
import contextlib
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

from complaints import complaints

WAL = os.path.abspath(sys.argv.pop(1))
LOGS = 3
FILE_HEAD = 32
MARK = b"\xf1\x9d\x57\xc3\x8b\xa6\xe4\x3d"
HEAD = len(MARK) + 24
SECTOR = 512
# The whole number of rounds is for the usual program and backend. A sanitized program takes five
# times as long.
USUAL = os.environ.get("IOWQ_TEST_SANITIZER", "none") == "none" and "IOWQ_BACKEND" not in os.environ
ROUNDS = 40 if USUAL else 10


def write(directory, **options):
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [WAL, "--logs", str(LOGS), "write", directory, *flags]


def read(directory):
    """The records of each log, as (number, text), and the complaints."""
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
        for _ in range(ROUNDS):
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
        for damage in range(ROUNDS):
            subprocess.run(write(self.dir.name, writers=3, records=4), stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=60, check=True)
            before, said = read(self.dir.name)
            self.assertEqual(said, "")
            path = f"{self.dir.name}/1.wal"
            size = os.path.getsize(path)
            number, last = before[1][-1]
            length = HEAD + len(last)
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


class Log:
    """One log, in a directory of its own."""
    def __init__(self, directory):
        self.directory = directory
        self.path = directory + "/0.wal"

    def run(self, command, *flags, stdin=b""):
        return subprocess.run([WAL, "--logs", "1", command, self.directory, *flags], input=stdin,
                              capture_output=True, timeout=60)

    def append(self, *payloads):
        """Each payload is a batch of its own."""
        for payload in payloads:
            self.run("append", stdin=payload).check_returncode()

    def bytes(self):
        with open(self.path, "rb") as file:
            return file.read()

    def set(self, data):
        with open(self.path, "wb") as file:
            file.write(data)

    def read(self):
        """Exit status, records by number, complaints."""
        ran = self.run("read")
        lines = ran.stdout.splitlines()
        records = [line.split(b" ", 2)[2] for line in lines]
        for number, line in enumerate(lines):
            assert line.startswith(b"0 %d " % number), line
        return ran.returncode, records, complaints(ran.stderr.decode())

    def offsets(self):
        """Where the records begin, and the number of the first record of each one's batch."""
        data, found, at = self.bytes(), [], FILE_HEAD
        while (at := data.find(MARK, at)) >= 0:
            found.append((at, struct.unpack_from("<IIQQ", data, at + len(MARK))[3]))
            at += 1
        return found


class DamageTest(unittest.TestCase):
    """No record that was acknowledged is cut off or lost without a message."""
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.log = Log(self.dir.name)
        self.label, self.variants, self.log_after = {}, [], []
        self.addCleanup(lambda: self.assertEqual(self.variants, [], "check() was not called"))

    @contextlib.contextmanager
    def labelled(self, **label):
        self.label = label
        yield

    def is_refused(self, records, words):
        """`read` prints `records` and fails; a writer fails and changes nothing. See check()."""
        self.variants.append((self.label, self.log.bytes(), records, words, False))

    def is_recovered(self, records, torn=True):
        """`read` prints `records` and says what is torn; a writer appends behind them. See check()."""
        self.variants.append((self.label, self.log.bytes(), records, [], torn))

    @staticmethod
    def read_many(files):
        """Exit status, and of each file its records and complaints, from one process."""
        with tempfile.TemporaryDirectory() as place:
            for number, data in enumerate(files):
                with open(f"{place}/{number}.wal", "wb") as file:
                    file.write(data)
            ran = subprocess.run([WAL, "--logs", str(len(files)), "read", place], capture_output=True, timeout=60)
        records = [[] for _ in files]
        for line in ran.stdout.splitlines():
            log, number, payload = line.split(b" ", 2)
            assert int(number) == len(records[int(log)]), line
            records[int(log)].append(payload)
        said = ["" for _ in files]
        for line in complaints(ran.stderr.decode()).splitlines(True):
            said[int(re.search(r"/(\d+)\.wal: ", line)[1])] += line
        return ran.returncode, list(zip(records, said))

    def check(self):
        """Checks all files of is_refused() and is_recovered(): many logs in one reader, a writer each."""
        variants, self.variants = self.variants, []
        self.assertNotEqual(variants, [])
        for at in range(0, len(variants), 500):
            part = variants[at:at + 500]
            status, found = self.read_many([data for _, data, _, _, _ in part])
            self.assertEqual(status, 1 if any(words for _, _, _, words, _ in part) else 0)
            written = []
            for (label, data, records, words, torn), (read, said) in zip(part, found):
                with self.subTest(**label):
                    self.assertEqual(read, records, said)
                    self.assertEqual("are torn" in said, torn, said)
                    for word in words:
                        self.assertIn(word, said)
                    self.log.set(data)
                    self.write(words, torn)
                    if not words:
                        written.append((label, records))
                        self.log_after.append(self.log.bytes())
            status, found = self.read_many(self.log_after) if written else (0, [])
            self.log_after.clear()
            self.assertEqual(status, 0)
            for (label, records), after in zip(written, found):
                with self.subTest(**label, after="a writer"):
                    self.assertEqual(after, ([*records, b"new"], ""))

    def write(self, words, torn):
        before = self.log.bytes()
        ran = self.log.run("append", stdin=b"new")
        said = ran.stderr.decode()
        self.assertEqual((ran.returncode, ran.stdout == b""), (1, True) if words else (0, False), said)
        self.assertEqual("were torn" in said, torn, said)
        if words:
            for word in (self.log.path, *words, "nothing was changed"):
                self.assertIn(word, said)
            self.assertEqual(self.log.bytes(), before)

    def test_damage_of_any_byte_is_reported_and_cuts_the_last_record_at_most(self):
        payloads = [b"first", b"", b"third", b"last"]
        self.log.append(*payloads)
        whole, offsets = self.log.bytes(), [at for at, _ in self.log.offsets()]
        self.assertEqual(len(offsets), len(payloads))
        for place in range(len(whole)):
            for change in (lambda byte, at=place: byte ^ 1 << at % 8, lambda _: 0):
                damaged = bytearray(whole)
                damaged[place] = change(whole[place])
                if damaged == whole:
                    continue
                self.log.set(damaged)
                with self.labelled(place=place, byte=damaged[place]):
                    if place < FILE_HEAD:
                        self.is_refused([], ["its file head"])
                        continue
                    hit = max(i for i, at in enumerate(offsets) if at <= place)
                    behind = len(payloads) - 1 - hit
                    if behind == 0:
                        self.is_recovered(payloads[:-1])
                    else:
                        self.is_refused(payloads[:hit], [f"damaged at offset {offsets[hit]}",
                                                         f"{behind} whole records"])
        self.check()

    def test_a_file_cut_at_any_length_is_recovered(self):
        payloads = [b"first", b"", b"third", b"last"]
        self.log.append(*payloads)
        whole, offsets = self.log.bytes(), [at for at, _ in self.log.offsets()]
        ends = [*offsets, len(whole)]
        for length in range(len(whole)):
            self.log.set(whole[:length])
            with self.labelled(length=length):
                kept = sum(length >= end for end in ends[1:])
                # A cut between two records leaves a shorter log that is whole.
                self.is_recovered(payloads[:kept], torn=length not in (0, *ends))
        self.check()

    def test_a_record_that_is_missing_or_twice_there_is_damage(self):
        payloads = [b"zero", b"one", b"two", b"three"]
        self.log.append(*payloads)
        whole, offsets = self.log.bytes(), [at for at, _ in self.log.offsets()]
        head, one = whole[:FILE_HEAD], [whole[a:b] for a, b in zip(offsets, [*offsets[1:], len(whole)])]
        for order, kept in (((1, 2, 3), 0), ((0, 2, 3), 1), ((0, 1, 1, 2, 3), 2), ((0, 2, 1, 3), 1)):
            self.log.set(head + b"".join(one[i] for i in order))
            with self.labelled(order=order):
                self.is_refused(payloads[:kept], ["damaged at offset", "whole records"])
        for gap in (b"\0", b"\0" * 5000, b"garbage"):  # in front of an acknowledged record
            self.log.set(whole[:offsets[3]] + gap + one[3])
            with self.labelled(gap=gap[:8]):
                self.is_refused(payloads[:3], [f"damaged at offset {offsets[3]}", "1 whole records"])
        self.check()

    def test_a_tail_of_zeros_or_garbage_is_cut(self):
        self.log.append(b"one", b"two")
        whole = self.log.bytes()
        for tail in (b"\0", b"\0" * 7, b"\0" * 511, b"\0" * 9000, MARK, MARK * 3, MARK + b"\0" * 24, b"text"):
            self.log.set(whole + tail)
            with self.labelled(tail=tail[:8], length=len(tail)):
                self.is_recovered([b"one", b"two"])
        self.check()

    def write_a_large_batch(self):
        self.log.append(b"one", b"two")
        self.log.run("write", "--writers=100", "--records=1", "--size=3000").check_returncode()
        offsets = self.log.offsets()
        begins = [at for at, _ in offsets]
        first = offsets[-1][1]  # index of the first record of the last batch
        self.assertGreater(len(offsets) - first, 20)
        return begins, first, self.log.read()[1]

    def test_a_batch_that_lost_sectors_in_a_power_failure_is_cut(self):
        begins, first, records = self.write_a_large_batch()
        whole, chance = self.log.bytes(), random.Random(3)
        for trial in range(ROUNDS):
            damaged = bytearray(whole)
            lost = []
            for _ in range(chance.randrange(1, 4)):
                size = chance.choice((SECTOR, 8 * SECTOR))
                at = chance.randrange(begins[first] // size, (len(whole) - 3 * size) // size) * size
                begin = max(at, begins[first]) if trial else begins[first]
                end = (begin // size + 1) * size
                damaged[begin:end] = b"\0" * (end - begin)
                lost.append(begin)
            self.log.set(damaged)
            hit = max(i for i, at in enumerate(begins) if at <= min(lost))
            with self.labelled(lost=lost):
                self.is_recovered(records[:hit])
        # The same, when a later batch shows that this one was acknowledged.
        self.log.set(whole)
        self.log.append(b"later")
        damaged = bytearray(self.log.bytes())
        damaged[lost[0]:lost[0] + SECTOR] = b"\0" * SECTOR
        self.log.set(damaged)
        hit = max(i for i, at in enumerate(begins) if at <= lost[0])
        self.is_refused(records[:hit], ["damaged at offset", "whole records"])
        self.check()

    def test_damage_in_the_last_batch_that_no_power_failure_explains_is_refused(self):
        begins, first, records = self.write_a_large_batch()
        whole, chance = self.log.bytes(), random.Random(5)
        for _ in range(ROUNDS):
            place = chance.randrange(begins[first], begins[-1])
            damaged = bytearray(whole)
            damaged[place] ^= 1 << chance.randrange(8)
            self.log.set(damaged)
            hit = max(i for i, at in enumerate(begins) if at <= place)
            with self.labelled(place=place):
                self.is_refused(records[:hit], [f"damaged at offset {begins[hit]}"])
        self.check()

    def test_a_torn_record_may_contain_anything_even_records_of_its_own_log(self):
        self.log.append(b"one", b"two")
        with tempfile.TemporaryDirectory() as place:
            fork = Log(place)  # the same salt, and numbers that are not used here yet
            fork.set(self.log.bytes())
            fork.append(b"three", b"four")
            fork.append(b"five")
            payload = fork.bytes()
        begin = len(self.log.bytes())
        self.log.append(payload)
        whole = self.log.bytes()
        self.assertIn(payload, self.log.run("read").stdout)
        for length in range(begin + 1, len(whole)):
            self.log.set(whole[:length])
            with self.labelled(length=length):
                self.is_recovered([b"one", b"two"])
        self.log.set(whole[:begin + 8] + b"\0" * 4 + whole[begin + 12:])  # its head is lost
        self.is_recovered([b"one", b"two"])
        self.check()

    def test_every_payload_comes_back(self):
        chance = random.Random(13)
        parts = [MARK[:-1], MARK, MARK[:3], MARK[3:], MARK[-1:], b"\0", b"x", MARK[:-1] + b"\0"]
        payloads = [b"".join(chance.choices(parts, k=chance.randrange(12))) for _ in range(60)]
        self.log.append(*payloads)
        ran = self.log.run("read")
        self.assertEqual((ran.returncode, complaints(ran.stderr.decode())), (0, ""))
        self.assertEqual(ran.stdout, b"".join(b"0 %d %s\n" % pair for pair in enumerate(payloads)))
        self.assertEqual(len(self.log.offsets()), len(payloads))  # no mark inside of a record
        last = self.log.offsets()[-1][0]
        whole = self.log.bytes()
        for length in range(last + 1, len(whole)):
            self.log.set(whole[:length])
            self.assertEqual(self.log.run("read").stdout, ran.stdout[:-len(b"0 59 %s\n" % payloads[-1])])

    def test_files_of_other_formats_are_refused(self):
        def old(number, payload):
            rest = struct.pack("<IQ", len(payload), number) + payload
            return struct.pack("<I", zlib.crc32(rest)) + rest
        for data, words in ((old(0, b"a") + old(1, b"b"), "older version"), (old(0, b""), "older version"),
                            (b"text", "not a log"), (b"x" * 1000, "not a log"), (b"\0" * 1000, "not a log")):
            self.log.set(data)
            with self.labelled(data=data[:10]):
                self.is_refused([], [words])
        self.check()

    def test_a_second_writer_is_refused_and_a_reader_is_not(self):
        writing = [WAL, "--logs", "1", "write", self.dir.name]
        first = subprocess.Popen([*writing, "--writers=4", "--records=10000000"], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL)
        self.addCleanup(first.stdout.close)
        lines = [first.stdout.readline() for _ in range(10)]
        for command in (("write", "--writers=4", "--records=50"), ("append",)):
            second = self.log.run(*command, stdin=b"new")
            self.assertEqual((second.returncode, second.stdout), (1, b""))
            self.assertIn(self.log.path + ": another process is writing this log", second.stderr.decode())
        self.assertEqual(self.log.run("read").returncode, 0)
        self.assertIsNone(first.poll())
        first.kill()
        rest, _ = first.communicate(timeout=60)
        acknowledged = b"".join(lines) + rest[:rest.rfind(b"\n") + 1]
        ran = self.log.run("append", stdin=b"new")  # the lock went with the process
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertEqual(set(acknowledged.splitlines()) - set(self.log.run("read").stdout.splitlines()), set())


if __name__ == "__main__":
    unittest.main(verbosity=2)
