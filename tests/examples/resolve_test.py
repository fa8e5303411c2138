# SPDX-License-Identifier: BSL-1.0
"""resolve: numbers, this machine's name, errors, and a connection.

    resolve_test.py PATH_OF_RESOLVE
"""
import os
import socket
import subprocess
import sys
import unittest

RESOLVE = os.path.abspath(sys.argv.pop(1))


def run(*arguments):
    return subprocess.run([RESOLVE, *arguments], capture_output=True, text=True, timeout=60)


class ResolveTest(unittest.TestCase):
    def test_addresses_in_numbers(self):
        self.assertEqual(run("127.0.0.1", "80").stdout, "127.0.0.1:80\n")
        self.assertEqual(run("::1", "443").stdout, "[::1]:443\n")

    def test_says_what_getaddrinfo_says(self):
        ours = run("localhost", "80")
        try:
            theirs = socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        except socket.gaierror as error:  # for example there is no /etc/hosts
            self.assertEqual((ours.returncode, ours.stdout), (1, ""))
            self.assertIn(error.strerror, ours.stderr)
            return
        expected = [f"[{a[0]}]:{a[1]}" if f == socket.AF_INET6 else f"{a[0]}:{a[1]}"
                    for f, _, _, _, a in theirs]
        self.assertEqual(ours.stdout.split(), expected)

    def test_an_unknown_service(self):
        ours = run("127.0.0.1", "no-such-service")
        self.assertEqual(ours.returncode, 1)
        self.assertIn("resolve: 127.0.0.1: ", ours.stderr)
        self.assertEqual(ours.stdout, "")

    def test_connects(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
            ours = run("127.0.0.1", port, "--connect", "--timeout", "50")
            self.assertEqual(ours.stdout, f"127.0.0.1:{port}\nconnected to 127.0.0.1:{port}\n")
            self.assertEqual(ours.returncode, 0)
        self.assertEqual(run("127.0.0.1", port, "--connect").returncode, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
