# SPDX-License-Identifier: BSL-1.0
"""crawl against serve, and against a server that stalls, resets, cuts off and is busy.

    crawl_test.py PATH_OF_CRAWL PATH_OF_SERVE
"""
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

SERVE = os.path.abspath(sys.argv.pop(2))
CRAWL = os.path.abspath(sys.argv.pop(1))


class Trouble:
    """Takes the action that the path names, the number of times that it names; then answers 200."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.asked = {}
        self.open = self.most_open = 0
        self.full = threading.Event()  # set when `wait_until` connections are open at once
        self.wanted = None
        self.kept = []
        threading.Thread(target=self.accept, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(client,), daemon=True).start()

    def answer(self, client):
        with self.lock:
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            if self.open == self.wanted:
                self.full.set()
        try:
            self.converse(client)
        except OSError:
            pass
        finally:
            client.close()

    def converse(self, client):
        data = b""
        while b"\r\n\r\n" not in data:
            more = client.recv(4096)
            if not more:
                return
            data += more
        path = data.split(b" ")[1].decode()
        with self.lock:
            time = self.asked[path] = self.asked.get(path, 0) + 1
        found = re.match(r"/(\w+)/(\d+)", path)
        what, often = (found.group(1), int(found.group(2))) if found else ("fine", 0)
        if time > often:
            what = "fine"
        if what == "stall":
            client.recv(1)  # until it has enough of us
        elif what == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif what == "busy":
            client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        elif what == "cut":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        elif what == "garbage":
            client.sendall(b"\x00\x01 what is this\r\n\r\n" * 3)
        elif what == "gone":
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone")
        elif what == "crowd":
            self.full.wait(20)
            with self.lock:
                self.open -= 1  # before the answer: after it the client may be here with its next one
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            # In pieces, and without a length: the end of the connection is the end.
            for piece in (b"HTTP/1.1 2", b"00 OK\r\n", b"\r\n", b"hel", b"lo"):
                client.sendall(piece)


def crawl(*arguments, **options):
    ran = subprocess.run([CRAWL, *arguments], capture_output=True, text=True, timeout=120, **options)
    return ran.returncode, ran.stdout.splitlines(), ran.stderr


class CrawlTest(unittest.TestCase):
    def setUp(self):
        self.trouble = Trouble()

    def tearDown(self):
        self.trouble.listener.close()

    def test_files_of_serve(self):
        with tempfile.TemporaryDirectory() as root:
            sizes = {f"file{n}": n * 997 for n in range(60)}
            for name, size in sizes.items():
                with open(f"{root}/{name}", "wb") as file:
                    file.write(b"x" * size)
            server = subprocess.Popen([SERVE, "--port", "0", root], stdout=subprocess.PIPE, text=True)
            try:
                base = re.search(r"http://\S+/", server.stdout.readline()).group(0)
                names = "".join(f"{base}{name}\n" for name in sizes)
                status, lines, _ = crawl("--from", "-", "--jobs", "8", input=names)
                self.assertEqual(status, 0)
                self.assertEqual(set(lines), {f"200 {size} 1 {base}{name}" for name, size in sizes.items()})
                status, lines, _ = crawl(base + "file1", base + "nothing")
                self.assertEqual(status, 1)
                self.assertIn(f"200 997 1 {base}file1", lines)
                self.assertTrue(any(re.match(r"404 \d+ 1 ", line) for line in lines))
            finally:
                server.send_signal(signal.SIGTERM)
                server.communicate(timeout=30)

    def test_trouble_that_passes_is_tried_again(self):
        urls = [self.trouble.url(f"/{what}/{often}") for what in ("stall", "reset", "busy", "cut", "garbage")
                for often in (0, 1, 2)]
        status, lines, said = crawl("--timeout", "500", "--pause", "1", *urls)
        self.assertEqual(status, 0, said)
        expected = {f"200 5 {int(url[-1]) + 1} {url}" for url in urls}
        self.assertEqual(set(lines), expected)

    def test_trouble_that_stays_is_named(self):
        urls = {"stall": "Connection timed out", "reset": "Connection reset by peer", "busy": "status 503",
                "cut": "Protocol error", "garbage": "Protocol error"}
        names = {what: self.trouble.url(f"/{what}/9") for what in urls}
        status, lines, _ = crawl("--timeout", "300", "--pause", "1", "--attempts", "3", *names.values())
        self.assertEqual(status, 1)
        self.assertEqual(set(lines), {f"failed: {why}: {names[what]}" for what, why in urls.items()})
        self.assertEqual(set(self.trouble.asked.values()), {3})

    def test_what_is_wrong_for_good_is_asked_once(self):
        gone = self.trouble.url("/gone/9")
        status, lines, _ = crawl(gone, "ftp://example.org/", "http://", self.trouble.url("/a b"))
        self.assertEqual(status, 1)
        self.assertIn(f"404 4 1 {gone}", lines)
        self.assertEqual(sum(line.startswith("failed: Invalid argument: ") for line in lines), 3)
        self.assertEqual(self.trouble.asked, {"/gone/9": 1})

    def test_nobody_is_listening(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        status, lines, _ = crawl("--pause", "1", f"http://127.0.0.1:{port}/")
        self.assertEqual((status, lines), (1, [f"failed: Connection refused: http://127.0.0.1:{port}/"]))

    def test_no_more_at_a_time_than_were_asked_for(self):
        self.trouble.wanted = 7
        urls = [self.trouble.url(f"/crowd/1?{n}") for n in range(50)]
        status, lines, _ = crawl("--jobs", "7", "--timeout", "20000", *urls)
        self.assertEqual((status, len(lines)), (0, 50))
        self.assertTrue(self.trouble.full.is_set())  # seven at once there were
        self.assertEqual(self.trouble.most_open, 7)

    def test_a_signal_ends_it_though_a_server_stalls(self):
        child = subprocess.Popen([CRAWL, "--timeout", "100000", self.trouble.url("/stall/9")],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while "/stall/9" not in self.trouble.asked:
            self.assertIsNone(child.poll())
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=30)
        self.assertEqual(child.returncode, 2)
        self.assertIn("crawl: ", said)


if __name__ == "__main__":
    unittest.main(verbosity=2)
