# SPDX-License-Identifier: BSL-1.0
"""proxy: every byte both ways, half-close, resets, many idle connections on few threads.

    proxy_test.py PATH_OF_PROXY
"""
import hashlib
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import unittest

PROXY = os.path.abspath(sys.argv.pop(1))


def read_to_end(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


class ProxyTest(unittest.TestCase):
    def setUp(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.listener.settimeout(30)
        self.process = subprocess.Popen([PROXY, "--stats", "127.0.0.1", str(self.listener.getsockname()[1])],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = int(re.match(r"passing 127\.0\.0\.1:(\d+) on to", line)[1])
        self.open = [self.listener]

    def tearDown(self):
        for one in self.open:
            one.close()
        if self.process.poll() is None:
            self.end()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=30)
        self.assertEqual(self.process.returncode, 0, err)
        return err

    def pair(self):
        """A client, and the server's end of what it is passed on by."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        server, _ = self.listener.accept()
        server.settimeout(30)
        self.open += [client, server]
        return client, server

    def test_every_byte_both_ways_at_once(self):
        data = random.Random(5).randbytes(20_000_000)
        client, server = self.pair()
        got = {}

        def drain(name, connection):
            got[name] = hashlib.sha256(read_to_end(connection)).digest()

        def fill(connection):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        threads = [threading.Thread(target=drain, args=(n, c)) for n, c in (("c", client), ("s", server))]
        threads += [threading.Thread(target=fill, args=(c,)) for c in (client, server)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = hashlib.sha256(data).digest()
        self.assertEqual(got, {"c": expected, "s": expected})
        self.assertIn("splice", self.end())

    def test_who_has_no_more_to_say_may_still_listen(self):
        client, server = self.pair()
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(read_to_end(server), b"question")
        server.sendall(b"answer")
        self.assertEqual(client.recv(100), b"answer")
        server.sendall(b", and more")
        server.close()
        self.assertEqual(read_to_end(client), b", and more")

    def test_the_server_may_be_the_first_to_end(self):
        client, server = self.pair()
        server.sendall(b"hello")
        server.shutdown(socket.SHUT_WR)
        self.assertEqual(read_to_end(client), b"hello")
        client.sendall(b"late")
        client.close()
        self.assertEqual(read_to_end(server), b"late")

    def test_a_reset_is_a_reset_on_the_other_side(self):
        for victim in 0, 1:
            pair = self.pair()
            pair[0].sendall(b"x")
            self.assertEqual(pair[1].recv(1), b"x")
            pair[victim].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            pair[victim].close()
            with self.assertRaises(ConnectionResetError):
                read_to_end(pair[1 - victim])

    def test_idle_connections_cost_no_thread(self):
        pairs = [self.pair() for _ in range(100)]
        for client, server in pairs:
            client.sendall(b"ping")
            self.assertEqual(server.recv(100), b"ping")
        threads = len(os.listdir(f"/proc/{self.process.pid}/task"))
        self.assertLess(threads, 50)
        self.end()  # with all of them open

    def test_a_server_that_is_not_there(self):
        self.listener.close()
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        self.open.append(client)
        self.assertEqual(read_to_end(client), b"")
        self.assertIn("Connection refused", self.end())


if __name__ == "__main__":
    unittest.main(verbosity=2)
