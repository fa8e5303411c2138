# SPDX-License-Identifier: BSL-1.0
"""doctor says which backend an executor takes, and why, wherever io_uring is refused or limited.

    doctor_test.py PATH_OF_DOCTOR [PATH_OF_DENY]
"""
import json
import os
import resource
import subprocess
import sys
import unittest

import other_user

DOCTOR = os.path.abspath(sys.argv.pop(1))
DENY = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else None
ALL = ["io_uring_setup", "io_uring_enter", "io_uring_register"]


def run(*command, backend=None, before=None):
    environment = dict(os.environ, LC_ALL="C")
    environment.pop("IOWQ_BACKEND", None)
    if backend is not None:
        environment["IOWQ_BACKEND"] = backend
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment,
                          preexec_fn=before)


def as_other_user_with(what, limit):
    def change():
        resource.setrlimit(what, (limit, limit))
        os.setgid(other_user.OTHER)
        os.setuid(other_user.OTHER)
    return change


class DoctorTest(unittest.TestCase):
    def report(self, *command, doctor=DOCTOR, **how):
        ran = run(*command, doctor, "--json", **how)
        self.assertIn(ran.returncode, (0, 1), ran.stderr)
        said = json.loads(ran.stdout)
        self.assertEqual(ran.returncode, 1 if said["backend"]["chosen"] is None else 0)
        return said, ran.stderr

    def denied(self, answer, *calls, **how):
        if DENY is None:
            self.skipTest("no libseccomp")
        return self.report(DENY, answer, *calls, "--", **how)

    def test_backend_and_ring_agree(self):
        said, complaint = self.report()
        granted = said["io_uring"]["setup"] == "granted"
        self.assertEqual(said["backend"]["chosen"], "io_uring" if granted else "poll")
        self.assertEqual(complaint.count("\n"), 0 if granted else 1)
        if granted:
            self.assertIn("read", said["io_uring"]["opcodes"])
        self.assertGreaterEqual(said["processors"]["usable"], 1)
        self.assertGreaterEqual(len(said["processors"]["nodes"]), 1)

    def test_text_has_the_same_chapters(self):
        said, _ = self.report()
        text = run(DOCTOR).stdout
        for chapter in said:
            self.assertRegex(text, rf"(?m)^{chapter}\b")

    def test_hazard_42_and_100_a_refusal_is_told_once_and_another_backend_taken(self):
        for answer in ("EPERM", "ENOSYS", "ENOMEM"):
            said, complaint = self.denied(answer, *ALL)
            self.assertEqual(said["backend"]["chosen"], "poll")
            self.assertTrue(said["backend"]["reason"].startswith("io_uring_setup: " + answer))
            self.assertRegex(complaint, rf"\Aiowq: io_uring is not available, [^\n]*{answer}[^\n]*\n\Z")
            self.assertNotEqual(said["advice"], [])

    def test_a_ring_that_may_be_made_and_not_used_is_none(self):
        said, _ = self.denied("EPERM", "io_uring_enter")
        self.assertEqual(said["backend"]["chosen"], "poll")
        said, _ = self.denied("EPERM", "io_uring_register")
        self.assertEqual(said["backend"]["chosen"], "poll")

    def test_what_is_wrong_with_the_process_is_an_error(self):
        said, complaint = self.denied("EMFILE", "io_uring_setup")
        self.assertIsNone(said["backend"]["chosen"])
        self.assertIn("RLIMIT_NOFILE", said["backend"]["reason"])
        self.assertEqual(complaint, "")

    def test_the_environment_has_the_last_word(self):
        said, complaint = self.denied("KILL", *ALL, backend="poll")  # lives: it did not ask
        self.assertEqual(said["backend"], {"chosen": "poll", "reason": "IOWQ_BACKEND=poll"})
        self.assertEqual(complaint, "")
        said, _ = self.denied("EPERM", *ALL, backend="io_uring")
        self.assertIsNone(said["backend"]["chosen"])
        said, _ = self.report(backend="pol")
        self.assertIsNone(said["backend"]["chosen"])
        self.assertIn("IOWQ_BACKEND", said["backend"]["reason"])

    @unittest.skipUnless(os.getuid() == 0, "only root can become another user")
    def test_hazard_41_no_memory_to_lock(self):
        with other_user.copy_of(DOCTOR) as copy:
            said, complaint = self.report(
                doctor=copy, before=as_other_user_with(resource.RLIMIT_MEMLOCK, 0))
        self.assertEqual(said["limits"]["memlock_bytes"], 0)
        self.assertEqual(said["backend"]["chosen"], "poll")
        if "ENOMEM" in said["backend"]["reason"]:  # else it is refused for another reason
            self.assertIn("RLIMIT_MEMLOCK", complaint)
            self.assertTrue(any("RLIMIT_MEMLOCK" in line for line in said["advice"]))

    def test_few_descriptors_are_told(self):
        said, _ = self.report(
            before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)))
        self.assertIn(said["backend"]["chosen"], ("io_uring", "poll"))
        self.assertTrue(any("RLIMIT_NOFILE" in line for line in said["advice"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
