# SPDX-License-Identifier: BSL-1.0
"""serve on a made tree: it keeps the promises of HTTP, and gives no file outside the tree away.

    serve_test.py PATH_OF_SERVE
"""
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from complaints import complaints

SERVE = os.path.abspath(sys.argv.pop(1))
# The attacker's thread computes nearly all the time: with the default of 5 ms each of our calls may
# wait that long for the interpreter, 100 s in all.
sys.setswitchinterval(1e-4)


class Server:
    def __init__(self, root, *options):
        self.process = subprocess.Popen(
            [SERVE, "--port", "0", *options, root], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)/", line).group(1))

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, request, connection=None):
        """One request; gives (status, headers, body)."""
        own = connection or self.connect()
        own.sendall(request)
        answer = read_answer(own, head_only=request.startswith(b"HEAD"))
        if connection is None:
            own.close()
        return answer

    def get(self, target, *headers, method=b"GET"):
        head = b"".join(h + b"\r\n" for h in headers)
        return self.ask(method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, complaints(err)


def read_answer(connection, head_only=False):
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("closed in the head: %r" % data)
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.split(b"\r\n")
    headers = {k.lower(): v for k, v in (line.split(b": ", 1) for line in lines[1:])}
    size = 0 if head_only else int(headers[b"content-length"])
    while len(body) < size:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("closed in the body")
        body += more
    assert len(body) <= size, "bytes behind the answer: %r" % body[size:]
    return int(lines[0].split()[1]), headers, body


class ServeTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.outside = self.dir.name + "/outside"
        self.root = self.dir.name + "/root"
        os.makedirs(self.root + "/sub/deep")
        os.makedirs(self.outside)
        self.write("text.txt", b"0123456789")
        self.write("page.html", b"<p>")
        self.write("a b%&<>.bin", os.urandom(300_000))
        self.write("empty", b"")
        self.write("sub/index.html", b"index")
        with open(self.outside + "/secret", "wb") as file:
            file.write(b"secret")
        os.symlink(self.outside, self.root + "/way-out")
        os.symlink("text.txt", self.root + "/link")
        os.mkfifo(self.root + "/fifo")
        self.server = Server(self.root)

    def tearDown(self):
        code, out, err = self.server.stop()
        self.assertEqual((code, err), (0, ""))
        self.assertIn("where the work went", out)
        self.dir.cleanup()

    def write(self, name, data):
        with open(f"{self.root}/{name}", "wb") as file:
            file.write(data)

    def test_files_types_and_head(self):
        status, headers, body = self.server.get(b"/text.txt")
        self.assertEqual((status, body), (200, b"0123456789"))
        self.assertEqual(headers[b"content-type"], b"text/plain; charset=utf-8")
        self.assertEqual(self.server.get(b"/page.html")[1][b"content-type"], b"text/html; charset=utf-8")
        self.assertEqual(self.server.get(b"/link")[2], b"0123456789")
        self.assertEqual(self.server.get(b"/empty")[2], b"")
        with open(self.root + "/a b%&<>.bin", "rb") as file:
            self.assertEqual(self.server.get(b"/a%20b%25%26%3C%3E.bin?query")[2], file.read())
        status, headers, body = self.server.get(b"/text.txt", method=b"HEAD")
        self.assertEqual((status, headers[b"content-length"], body), (200, b"10", b""))
        self.assertEqual(self.server.get(b"http://host/text.txt")[0], 200)

    def test_ranges(self):
        for asked, status, content, body in (
            (b"bytes=2-4", 206, b"bytes 2-4/10", b"234"), (b"bytes=7-", 206, b"bytes 7-9/10", b"789"),
            (b"bytes=-3", 206, b"bytes 7-9/10", b"789"), (b"bytes=-99", 206, b"bytes 0-9/10", b"0123456789"),
            (b"bytes=9-99", 206, b"bytes 9-9/10", b"9"), (b"bytes=10-", 416, b"bytes */10", b""),
            (b"bytes=-0", 416, b"bytes */10", b""), (b"bytes=4-2", 200, None, b"0123456789"),
            (b"bytes=1-2,4-5", 200, None, b"0123456789"), (b"lines=1-2", 200, None, b"0123456789")):
            got = self.server.get(b"/text.txt", b"Range: " + asked)
            self.assertEqual((got[0], got[1].get(b"content-range"), got[2]), (status, content, body), asked)
        tag = self.server.get(b"/text.txt")[1][b"etag"]
        self.assertEqual(self.server.get(b"/text.txt", b"Range: bytes=0-0", b"If-Range: " + tag)[0], 206)
        self.assertEqual(self.server.get(b"/text.txt", b"Range: bytes=0-0", b'If-Range: "old"')[0], 200)

    def test_directories(self):
        status, headers, _ = self.server.get(b"/sub")
        self.assertEqual((status, headers[b"location"]), (301, b"/sub/"))
        self.assertEqual(self.server.get(b"/sub/")[2], b"index")
        page = self.server.get(b"/")[2].decode()
        self.assertIn('<a href="./a%20b%25%26%3C%3E.bin">a b%&amp;&lt;&gt;.bin</a>', page)
        self.assertIn('<a href="./sub/">sub/</a>', page)

    def test_keep_alive_and_pipelining(self):
        with self.server.connect() as one:
            for _ in range(3):
                self.assertEqual(self.server.ask(b"GET /text.txt HTTP/1.1\r\nHost: x\r\n\r\n", one)[0], 200)
            one.sendall(b"GET /text.txt HTTP/1.1\r\nHost: x\r\n\r\n" * 2 +
                        b"GET /empty HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data = b""
            while more := one.recv(65536):
                data += more
            self.assertEqual(data.count(b"HTTP/1.1 200 OK"), 3)
            self.assertEqual(data.count(b"0123456789"), 2)
        self.assertEqual(self.server.ask(b"GET / HTTP/1.0\r\n\r\n")[1][b"connection"], b"close")

    def test_errors(self):
        self.assertEqual(self.server.get(b"/missing")[0], 404)
        self.assertEqual(self.server.get(b"/text.txt/x")[0], 404)
        self.assertEqual(self.server.get(b"/fifo")[0], 403)
        status, headers, _ = self.server.get(b"/text.txt", method=b"DELETE")
        self.assertEqual((status, headers[b"allow"]), (405, b"GET, HEAD"))
        for bad in (b"/%", b"/%zz", b"/a%00b", b"relative"):
            self.assertEqual(self.server.get(bad)[0], 400, bad)
        self.assertEqual(self.server.ask(b"nonsense\r\n\r\n")[0], 400)
        self.assertEqual(self.server.get(b"/" + b"a" * 9000)[0], 414)
        self.assertEqual(self.server.get(b"/", b"X: " + b"a" * 40_000)[0], 431)

    def test_nothing_outside_the_root(self):
        for target in (b"/../outside/secret", b"/%2e%2e/outside/secret", b"/sub/../../outside/secret",
                       b"/way-out/secret", b"//etc/passwd", b"/sub/%2e%2e/%2e%2e/outside/secret"):
            status, _, body = self.server.get(target)
            self.assertIn(status, (400, 403, 404), target)
            self.assertNotIn(b"secret", body)

    def test_nothing_outside_while_links_are_swapped(self):
        with open(self.root + "/sub/deep/secret", "wb") as file:
            file.write(b"inside")
        over = threading.Event()

        def swap():
            while not over.is_set():
                os.rename(self.root + "/sub/deep", self.root + "/sub/was")
                os.symlink(self.outside, self.root + "/sub/deep")
                os.unlink(self.root + "/sub/deep")
                os.rename(self.root + "/sub/was", self.root + "/sub/deep")

        attacker = threading.Thread(target=swap)
        attacker.start()
        try:
            with self.server.connect() as one:
                for _ in range(3000):
                    answer = self.server.ask(b"GET /sub/deep/secret HTTP/1.1\r\nHost: x\r\n\r\n", one)
                    self.assertNotIn(b"secret", answer[2].replace(b"inside", b""))
        finally:
            over.set()
            attacker.join()

    def test_who_stalls_costs_no_thread(self):
        self.server.get(b"/text.txt")
        before = self.server.threads()
        with contextlib.ExitStack() as open_ones:
            for _ in range(200):
                one = open_ones.enter_context(self.server.connect())
                one.sendall(b"GET /text.txt HTT")
            self.assertEqual(self.server.get(b"/text.txt")[0], 200)
            self.assertLessEqual(self.server.threads(), before + 1)

    def test_who_goes_away_harms_nobody(self):
        for _ in range(50):
            with self.server.connect() as one:
                one.sendall(b"GET /a%20b%25%26%3C%3E.bin HTTP/1.1\r\nHost: x\r\n\r\n")
                one.recv(1000)
        self.assertEqual(self.server.get(b"/text.txt")[0], 200)

    def test_a_file_that_shrinks_ends_the_connection(self):
        large = 64 << 20  # more than the buffers hold on the way to a client that does not read
        self.write("large", b"")
        os.truncate(self.root + "/large", large)
        with self.server.connect() as one:
            one.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            one.recv(1000)
            os.truncate(self.root + "/large", 10)
            size = 1000
            with contextlib.suppress(ConnectionError):
                while more := one.recv(65536):
                    size += len(more)
            self.assertLess(size, large)


class StartTest(unittest.TestCase):
    def fails(self, *arguments):
        end = subprocess.run([SERVE, *arguments], capture_output=True, text=True, timeout=20)
        self.assertNotEqual(end.returncode, 0)
        return end.stderr

    def test_bad_input(self):
        self.assertIn("No such file or directory", self.fails("--port", "0", "/no/such/root"))
        self.assertIn("Not a directory", self.fails("--port", "0", "/etc/passwd"))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.assertIn("Address already in use", self.fails("--port", port, "/tmp"))
        self.assertIn("not an IPv4 or IPv6 address", self.fails("--address", "nonsense", "/tmp"))
        self.assertNotEqual(self.fails("--port", "70000", "/tmp"), "")

    def test_more_connections_than_descriptors(self):
        with tempfile.TemporaryDirectory() as root:
            server = Server(root, "--connections", "5")
            with contextlib.ExitStack() as open_ones:
                for _ in range(20):
                    open_ones.enter_context(server.connect())
                time.sleep(0.1)
            self.assertEqual(server.get(b"/")[0], 200)  # once the others have gone
            self.assertEqual(server.stop(signal.SIGINT)[0], 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
