# SPDX-License-Identifier: BSL-1.0
"""copy on a tree with everything in it, and on everything that can be wrong.

    copy_test.py PATH_OF_COPY
"""
import os
import subprocess
import sys
import tempfile
import unittest

from complaints import complaints

COPY = os.path.abspath(sys.argv.pop(1))


def run(*arguments, **options):
    return subprocess.run([COPY, *arguments], capture_output=True, text=True, timeout=60, **options)


def tree(root):
    """Every name with what must be kept: type and mode, times, contents."""
    found = {}
    for place, directories, files in os.walk(os.fsencode(root)):
        for name in [b"."] + directories + files:
            path = os.path.join(place, name)
            status = os.lstat(path)
            content = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    content = file.read()
            found[os.path.relpath(path, os.fsencode(root))] = (status.st_mode, status.st_mtime_ns, content)
    return found


class CopyTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.source = self.dir.name + "/source"
        self.target = self.dir.name + "/target"
        os.makedirs(self.source + "/sub/empty")
        for name, data in ((b"file", b"x" * 100_001), (b"none", b""), (b"line\nbreak", b"y"), (b"\xff\xfe", b"z")):
            with open(os.path.join(os.fsencode(self.source), name), "wb") as file:
                file.write(data)
        for i in range(500):
            with open(f"{self.source}/sub/{i}", "wb") as file:
                file.write(os.urandom(i))
        os.symlink("file", self.source + "/link")
        os.symlink("nowhere", self.source + "/dangling")
        os.chmod(self.source + "/file", 0o4751)
        os.utime(self.source + "/file", ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
        os.chmod(self.source + "/sub", 0o555)
        os.utime(self.source + "/sub", ns=(1, 2))

    def tearDown(self):
        os.chmod(self.source + "/sub", 0o755)
        subprocess.run(["chmod", "-R", "u+rwX", self.dir.name], check=True)
        self.dir.cleanup()

    def test_everything_is_kept(self):
        for more in (["--no-fsync"], ["--jobs", "1"]):  # the second one over the first, which exists
            end = run(*more, self.source, self.target)
            if more == ["--jobs", "1"]:
                self.assertIn("File exists", end.stderr)  # of a link: it is not followed, nor replaced
                break
            self.assertEqual((end.returncode, complaints(end.stderr)), (0, ""))
            self.assertIn("where the work went", end.stdout)
            self.assertEqual(tree(self.source), tree(self.target))

    def test_holes_stay_holes(self):
        os.makedirs(self.dir.name + "/sparse")
        with open(self.dir.name + "/sparse/file", "wb") as file:
            file.seek(50_000_000)
            file.write(b"in the middle")
            file.truncate(100_000_000)
        if os.stat(self.dir.name + "/sparse/file").st_blocks > 1000:
            self.skipTest("this file system has no holes")
        self.assertEqual(run(self.dir.name + "/sparse", self.target).returncode, 0)
        self.assertEqual(tree(self.dir.name + "/sparse"), tree(self.target))
        self.assertLess(os.stat(self.target + "/file").st_blocks, 1000)

    def test_what_is_wrong_is_said(self):
        with open(self.dir.name + "/plain", "wb"):
            pass
        for arguments, words in (
            ((self.dir.name + "/missing", self.target), "No such file or directory"),
            ((self.source + "/file", self.target), "Not a directory"),
            ((self.source, self.dir.name + "/plain"), "Not a directory"),
            ((self.source, self.source + "/inside"), "inside"),
            ((self.source, self.dir.name + "/no/such/parent"), "No such file or directory")):
            end = run(*arguments)
            self.assertEqual(end.returncode, 1, arguments)
            self.assertIn(words, end.stderr)
        self.assertNotEqual(run(self.source).returncode, 0)

    def test_an_unreadable_file_is_named(self):
        os.chmod(self.source + "/file", 0)
        user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.getuid() == 0 else []
        os.chmod(self.dir.name, 0o777)
        end = subprocess.run([*user, COPY, self.source, self.target], capture_output=True, text=True, timeout=60)
        self.assertEqual(end.returncode, 1)
        self.assertIn(self.source + "/file", end.stderr)
        self.assertIn("Permission denied", end.stderr)

    def test_a_full_disk_is_said(self):
        small = self.dir.name + "/small"
        os.mkdir(small)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True)
        if mounted.returncode != 0:
            self.skipTest("mounting takes root")
        try:
            end = run("--no-fsync", self.source, small + "/target")
            self.assertEqual(end.returncode, 1)
            self.assertIn("No space left on device", end.stderr)
        finally:
            subprocess.run(["umount", small], check=True)


if __name__ == "__main__":
    unittest.main()
