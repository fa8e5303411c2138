# SPDX-License-Identifier: BSL-1.0
"""echo: sends back every byte to each of many clients, and ends at SIGINT.

    echo_test.py PATH_OF_ECHO
"""
import os
import random
import signal
import socket
import subprocess
import sys
import time
import unittest

ECHO = os.path.abspath(sys.argv.pop(1))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class EchoTest(unittest.TestCase):
    def setUp(self):
        self.port = free_port()
        self.process = subprocess.Popen([ECHO, str(self.port)], stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.process.stderr.close)
        self.addCleanup(self.process.kill)

    def client(self):
        """A connection; the server may still be on its way to listen()."""
        deadline = time.monotonic() + 30
        while True:
            try:
                client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
                self.addCleanup(client.close)
                return client
            except ConnectionRefusedError:
                self.assertLess(time.monotonic(), deadline, "echo does not listen")
                time.sleep(0.01)

    def receive(self, client, size):
        data = b""
        while len(data) < size and (part := client.recv(65536)):
            data += part
        return data

    def test_every_client_gets_its_own_bytes_back(self):
        chance = random.Random(3)
        clients = [(self.client(), chance.randbytes(chance.randrange(1, 20_000))) for _ in range(100)]
        for client, data in clients:
            client.sendall(data)
        for client, data in clients:
            self.assertEqual(self.receive(client, len(data)), data)

    def test_a_client_that_goes_away_ends_only_its_own_connection(self):
        other, gone = self.client(), self.client()
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        gone.sendall(b"x")
        gone.close()
        other.sendall(b"still here")
        self.assertEqual(self.receive(other, 10), b"still here")

    def test_a_signal_ends_it(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                client = self.client()
                client.sendall(b"x")
                self.assertEqual(self.receive(client, 1), b"x")
                self.process.send_signal(number)
                self.assertEqual(self.process.wait(timeout=30), 0)
                self.assertEqual(client.recv(1), b"")  # closed
                self.process = subprocess.Popen([ECHO, str(self.port)], stderr=subprocess.PIPE, text=True)
                self.addCleanup(self.process.stderr.close)
                self.addCleanup(self.process.kill)


if __name__ == "__main__":
    unittest.main(verbosity=2)
