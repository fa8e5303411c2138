# SPDX-License-Identifier: BSL-1.0
"""copy on a tree with everything in it, and on everything that can be wrong.

    copy_test.py PATH_OF_COPY
"""
import atexit
import contextlib
import os
import signal
import stat
import subprocess
import sys
import unittest

import other_user
from complaints import complaints

COPY = os.path.abspath(sys.argv.pop(1))
os.umask(0o022)  # the other user must be able to read the trees, whatever the caller's umask is
CLEANUP = contextlib.ExitStack()
atexit.register(CLEANUP.close)
# A command that runs the program without the rights of root.
COPY_AS_OTHER_USER = CLEANUP.enter_context(other_user.as_other_user(COPY))


def run(*arguments, **options):
    return subprocess.run([COPY, *arguments], capture_output=True, text=True, errors="surrogateescape",
                          timeout=60, **options)


def tree(root):
    """Every name with its type, mode, times and contents, which a copy must keep."""
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


def fill(root):
    """A small tree: the same names with the same contents each time."""
    os.makedirs(root + "/sub/deep")
    for name in ("one", "sub/two", "sub/deep/three"):
        with open(f"{root}/{name}", "w") as file:
            file.write(name * 1000)
    os.symlink("one", root + "/link")


class Mounts:
    """Bind mounts that are undone at the end."""
    def __init__(self, test):
        self.test, self.mounted = test, contextlib.ExitStack()
        test.addCleanup(self.mounted.close)

    def bind(self, source, where):
        os.makedirs(where)
        if subprocess.run(["mount", "--bind", source, where], capture_output=True).returncode != 0:
            return False
        self.mounted.callback(subprocess.run, ["umount", where], check=True)
        return True


class SafetyTest(unittest.TestCase):
    """No run of copy destroys a file of the source, whatever the target is."""
    def setUp(self):
        self.dir = other_user.temporary_directory()
        self.addCleanup(self.dir.cleanup)
        self.place = self.dir.name
        self.a = self.place + "/a"
        fill(self.a)

    def spellings(self, name, mounts):
        """Paths of the directory `name` of self.place, spelled in different ways."""
        plain = f"{self.place}/{name}"
        os.makedirs(self.place + "/other", exist_ok=True)
        tag = name.replace("/", "_")
        yield plain
        yield name  # relative to the working directory
        for form in ("{}/", "{}//", "{}/.", "{}/./", "./{}", "other/../{}", "{}/../" + os.path.basename(name)):
            yield form.format(name)
        os.symlink(plain, f"{self.place}/link_{tag}")
        yield f"{self.place}/link_{tag}"
        yield f"link_{tag}/"
        os.symlink(self.place, f"{self.place}/up_{tag}")  # a symbolic link in the middle
        yield f"up_{tag}/{name}"
        os.symlink(f"link_{tag}", f"{self.place}/twice_{tag}")
        yield f"twice_{tag}/."
        if mounts.bind(plain, f"{self.place}/mount_{tag}"):
            yield f"mount_{tag}"
            yield f"other/../mount_{tag}/"
        if mounts.bind(self.place, f"{self.place}/above_{tag}"):  # the parent is mounted elsewhere
            yield f"above_{tag}/{name}"

    def refuses(self, source, target, words):
        before = {root: tree(root) for root in (self.a, self.place)}
        end = run("--no-fsync", source, target, cwd=self.place)
        self.assertEqual(end.returncode, 1, (source, target, end))
        self.assertIn(words, end.stderr, (source, target))
        self.assertNotIn("verified", end.stdout)
        self.assertEqual({root: tree(root) for root in (self.a, self.place)}, before, (source, target))

    def test_the_same_root_is_refused_however_it_is_spelled(self):
        mounts = Mounts(self)
        spellings = list(self.spellings("a", mounts))
        self.assertGreaterEqual(len(spellings), 13)
        for source in (spellings[0], "a/.", spellings[-1]):
            for target in spellings:
                self.refuses(source, target, "are the same directory")

    def test_a_target_inside_of_the_source_is_refused_however_it_is_spelled(self):
        mounts = Mounts(self)
        for target in list(self.spellings("a/sub", mounts)):
            self.refuses("a", target, "is inside of")
            self.refuses("a", target + "/new", "is inside of")
            self.refuses("a/.", target + "/deep", "is inside of")

    def test_a_source_inside_of_the_target_is_never_overwritten(self):
        # The copy of a/sub/sub would be a/sub, which is the source.
        os.makedirs(self.a + "/sub/sub")
        with open(self.a + "/sub/sub/two", "w") as file:
            file.write("other contents")
        mounts = Mounts(self)
        for target in list(self.spellings("a", mounts)):
            self.refuses("a/sub", target, "would be overwritten")

    def test_a_mounted_part_of_the_source_in_the_target_is_refused(self):
        mounts = Mounts(self)
        if not mounts.bind(self.a + "/sub", self.place + "/b/sub"):
            self.skipTest("mounting takes root")
        os.makedirs(self.a + "/deep")
        with open(self.a + "/deep/three", "w") as file:
            file.write("other contents")
        self.refuses("a", "b", "would be overwritten")
        mounts.bind(self.a + "/sub/deep", self.place + "/c/deep")  # another directory of the source
        self.refuses("a", "c", "would be overwritten")

    def test_a_source_beneath_the_target_is_copied_where_nothing_is_overwritten(self):
        end = run("--no-fsync", "a/sub", "a", cwd=self.place)
        self.assertEqual((end.returncode, complaints(end.stderr)), (0, ""))
        with open(self.a + "/two") as file:
            self.assertEqual(file.read(), "sub/two" * 1000)

    def test_a_hard_link_of_the_source_is_named_and_left(self):
        os.makedirs(self.place + "/b/sub")
        os.link(self.a + "/one", self.place + "/b/one")
        os.link(self.a + "/sub/two", self.place + "/b/sub/two")
        os.link(self.a + "/link", self.place + "/b/link", follow_symlinks=False)
        before = tree(self.a)
        end = run("a", "b", cwd=self.place)
        self.assertEqual(end.returncode, 1)
        for name in ("one", "sub/two", "link"):
            self.assertRegex(end.stderr, f"a/{name} -> .*b/{name}: are the same file")
            self.assertTrue(os.path.samestat(os.lstat(f"{self.a}/{name}"), os.lstat(f"{self.place}/b/{name}")))
        self.assertIn("3 failed", end.stdout)
        self.assertIn("4 verified", end.stdout)  # one file, three directories
        self.assertEqual(tree(self.a), before)
        self.assertEqual(tree(self.place + "/b"), before)

    def test_other_hard_links_of_the_target_keep_their_contents_as_with_cp(self):
        def prepare(target):
            os.makedirs(target + "/sub/deep")
            for name in ("/one", "/sub/deep/three"):
                with open(target + name, "w") as file:
                    file.write("before")
            os.link(target + "/one", target + "/snapshot")
            os.utime(target + "/one", ns=(1, 2))
        for target in ("/b", "/c"):
            prepare(self.place + target)
        self.assertEqual(run(self.a, self.place + "/b").returncode, 0)
        subprocess.run(["cp", "-a", self.a + "/.", self.place + "/c"], check=True)
        self.assertEqual(tree(self.place + "/b"), tree(self.place + "/c"))
        with open(self.place + "/b/snapshot") as file:
            self.assertEqual(file.read(), "before")

    def test_links_in_the_target_are_replaced_and_not_followed(self):
        with open(self.place + "/precious", "w") as file:
            file.write("precious")
        os.mkdir(self.place + "/b")
        os.symlink(self.place + "/precious", self.place + "/b/one")
        os.symlink("somewhere else", self.place + "/b/link")
        end = run(self.a, self.place + "/b")
        self.assertEqual((end.returncode, complaints(end.stderr)), (0, ""))
        self.assertEqual(tree(self.a), tree(self.place + "/b"))
        with open(self.place + "/precious") as file:
            self.assertEqual(file.read(), "precious")

    def test_what_stands_in_the_way_is_named_and_the_rest_is_copied(self):
        os.makedirs(self.place + "/b/one/x")  # a directory where a file belongs
        os.symlink("/", self.place + "/b/sub")  # a link where a directory belongs
        end = run(self.a, self.place + "/b")
        self.assertEqual(end.returncode, 1)
        self.assertRegex(end.stderr, "/b/one: rename: (Is a directory|Directory not empty)")
        self.assertRegex(end.stderr, "/b/sub: exists: Not a directory")
        self.assertIn("0 files, 1 links, 1 directories", end.stdout)
        self.assertIn("2 verified", end.stdout)
        self.assertIn("2 failed", end.stdout)
        self.assertEqual(sorted(os.listdir(self.place + "/b")), ["link", "one", "sub"])

    def test_an_unreadable_directory_and_an_unwritable_target_are_named(self):
        os.chmod(self.a + "/sub/deep", 0)
        self.addCleanup(os.chmod, self.a + "/sub/deep", 0o700)
        os.chmod(self.place, 0o777)
        command = [*COPY_AS_OTHER_USER, self.a, self.place + "/b"]
        end = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(end.returncode, 1)
        self.assertRegex(end.stderr, "a/sub/deep: .*Permission denied")
        self.assertIn("2 files, 1 links, 2 directories", end.stdout)
        self.assertIn("5 verified", end.stdout)
        # This user cannot create files in a directory of another user.
        if os.getuid() != 0:
            return
        os.chown(self.place + "/b/sub", 0, 0)
        os.unlink(self.place + "/b/one")
        end = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(end.returncode, 1)
        self.assertRegex(end.stderr, "/b/sub/two: .*Permission denied")
        self.assertTrue(os.path.exists(self.place + "/b/one"))

    def test_a_second_run_without_root_fills_a_directory_that_is_not_writable(self):
        os.chmod(self.a + "/sub", 0o555)
        self.addCleanup(os.chmod, self.a + "/sub", 0o755)
        os.chmod(self.place, 0o777)
        for _ in range(2):
            end = subprocess.run([*COPY_AS_OTHER_USER, self.a, self.place + "/b"], capture_output=True, text=True, timeout=60)
            self.assertEqual((end.returncode, complaints(end.stderr)), (0, ""))
            self.assertEqual(tree(self.a), tree(self.place + "/b"))
        os.chmod(self.place + "/b/sub", 0o755)

    def test_set_user_id_is_cleared_where_the_owner_is_not_kept(self):
        if os.getuid() != 0:
            self.skipTest("owners take root")
        os.chmod(self.a + "/one", 0o6755)
        os.chmod(self.a + "/sub/two", 0o2755)
        os.chmod(self.place, 0o777)
        end = subprocess.run([*COPY_AS_OTHER_USER, self.a, self.place + "/b"], capture_output=True, text=True, timeout=60)
        self.assertEqual((end.returncode, complaints(end.stderr)), (0, ""))
        for name in ("/b/one", "/b/sub/two"):
            status = os.stat(self.place + name)
            self.assertEqual((status.st_uid, stat.S_IMODE(status.st_mode)), (other_user.OTHER, 0o755))
        self.assertEqual(run(self.a, self.place + "/c").returncode, 0)  # root keeps the owner
        self.assertEqual(stat.S_IMODE(os.stat(self.place + "/c/one").st_mode), 0o6755)

    def test_a_full_disk_leaves_no_part_of_a_file(self):
        small = self.place + "/small"
        os.mkdir(small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
            self.skipTest("mounting takes root")
        self.addCleanup(subprocess.run, ["umount", small], check=True)
        with open(self.a + "/big", "wb") as file:
            file.write(b"x" * 1_000_000)
        os.mkdir(small + "/b")
        with open(small + "/b/big", "w") as file:
            file.write("before")
        end = run("--no-fsync", "--jobs", "1", self.a, small + "/b")
        self.assertEqual(end.returncode, 1)
        self.assertRegex(end.stderr, "a/big -> .*No space left on device")
        with open(small + "/b/big") as file:
            self.assertEqual(file.read(), "before")  # not a part of the new contents
        self.assertEqual(tree(self.a).keys(), tree(small + "/b").keys())  # all others, and no temporary file

    def test_a_stop_leaves_whole_files_only(self):
        for i in range(300):
            with open(f"{self.a}/sub/{i}", "wb") as file:
                file.write(os.urandom(200_000))
        source = tree(self.a)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            target = f"{self.place}/b{number}"
            copy = subprocess.Popen([COPY, "--jobs", "4", self.a, target], stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True)
            # The temporary files show that it is in the middle of its work.
            while not (parts := [n for n in self.names(target + "/sub") if n.startswith(".copy-")]):
                self.assertIsNone(copy.poll())
            self.assertTrue(parts)
            copy.send_signal(number)
            _, said = copy.communicate(timeout=60)
            self.assertEqual(copy.returncode, 1)
            self.assertIn("stopped before the end", said)
            copied = tree(target)
            self.assertLess(len(copied), len(source))
            for name, (mode, _, content) in copied.items():
                self.assertIn(name, source)  # no temporary file
                if stat.S_ISREG(mode):
                    self.assertEqual(content, source[name][2])

    @staticmethod
    def names(directory):
        try:
            return os.listdir(directory)
        except FileNotFoundError:
            return []


class CopyTest(unittest.TestCase):
    def setUp(self):
        self.dir = other_user.temporary_directory()
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
        for more in (["--no-fsync"], ["--jobs", "1"]):  # the second run finds the target of the first
            end = run(*more, self.source, self.target)
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
        os.chmod(self.dir.name, 0o777)
        end = subprocess.run([*COPY_AS_OTHER_USER, self.source, self.target], capture_output=True, text=True, timeout=60)
        self.assertEqual(end.returncode, 1)
        self.assertIn(self.source + "/file", end.stderr)
        self.assertIn("Permission denied", end.stderr)
        self.assertIn("1 failed", end.stdout)
        self.assertEqual(set(tree(self.source)) - set(tree(self.target)), {b"file"})
        self.assertEqual(set(tree(self.target)) - set(tree(self.source)), set())

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
    unittest.main(verbosity=2)
