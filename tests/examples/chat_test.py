#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""chat: rooms, order, a reader that does not read, clients that vanish, and an end in order.

    chat_test.py PATH_OF_CHAT
"""
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import unittest

from complaints import complaints

CHAT = os.path.abspath(sys.argv.pop(1))


class Server:
    def __init__(self, *options):
        self.process = subprocess.Popen([CHAT, "--port", "0", *options], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        first = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+), \d+ threads", first).group(1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def client(self, name, room=None, **options):
        return Client(self.port, name, room, **options)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, complaints(err)


class Client:
    """Knows how to speak, and to wait for a line."""

    def __init__(self, port, name, room=None, receive_buffer=None):
        self.name, self.room = name, room
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        self.lines = self.socket.makefile("r", encoding="utf-8", newline="\n")
        self.say(name)
        assert self.hear() == f"welcome {name}"
        if room:
            self.join(room)

    def join(self, room):
        self.room = room
        self.say(f"/join {room}")
        self.hear_until(f"* {room} {self.name} joined")

    def say(self, text):
        self.socket.sendall(text.encode() + b"\n")

    def hear(self):
        """The next line, "" at the end."""
        return self.lines.readline().rstrip("\n")

    def hear_until(self, wanted):
        """All up to that line, which must come."""
        heard = []
        while not heard or heard[-1] != wanted:
            one = self.hear()
            if one == "":
                raise AssertionError(f"{self.name} never heard: {wanted}")
            heard.append(one)
        return heard

    def close(self):
        self.lines.close()
        self.socket.close()


class Chat(unittest.TestCase):
    def test_what_is_said_in_a_room_is_heard_there_and_nowhere_else(self):
        with Server("--threads", "3") as server:
            ann, bob = server.client("ann", "tea"), server.client("bob", "tea")
            eve = server.client("eve", "garden")
            ann.say("milk?")
            bob.hear_until("tea ann: milk?")
            bob.say("two")
            self.assertIn("tea ann: milk?", ann.hear_until("tea bob: two"))
            eve.say("rain")
            self.assertEqual([], [line for line in eve.hear_until("garden eve: rain") if "tea" in line])
            bob.join("garden")
            ann.hear_until("* tea bob left")
            bob.say("hello")
            eve.hear_until("garden bob: hello")
            eve.close()
            bob.hear_until("* garden eve left")
            self.assertEqual(server.stop()[0], 0)

    def test_many_clients_in_several_rooms_hear_each_speaker_in_order(self):
        rooms, members, said = 7, 12, 60
        with Server("--threads", "4") as server:
            clients = [server.client(f"c{n}", f"room{n % rooms}") for n in range(rooms * members)]
            errors = []

            def speak(client):
                for number in range(said):
                    client.say(f"{number}")

            def listen(client):
                try:
                    last = {}
                    while sum(number + 1 for number in last.values()) < members * said:
                        line = client.hear()
                        if line.startswith("* "):
                            continue
                        room, who, number = re.fullmatch(r"(\S+) (\S+): (\d+)", line).groups()
                        assert room == client.room, line
                        assert int(number) == last.get(who, -1) + 1, (line, last)
                        last[who] = int(number)
                except Exception as error:  # pylint: disable=broad-except
                    errors.append((client.name, error))

            # The first listener must not be disconnected because it is slow itself.
            threads = [threading.Thread(target=listen, args=(c,)) for c in clients]
            threads += [threading.Thread(target=speak, args=(c,)) for c in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            self.assertEqual(errors, [])
            self.assertEqual(server.stop()[0], 0)

    def test_a_reader_that_does_not_read_is_shown_out_and_stops_nobody(self):
        with Server("--threads", "2") as server:
            slow = server.client("slow", "hall", receive_buffer=2048)
            ann, bob = server.client("ann", "hall"), server.client("bob", "hall")
            text = "x" * 1000
            for number in range(20000):  # far more than sockets and channel hold
                ann.say(f"{number} {text}")
                bob.hear_until(f"hall ann: {number} {text}")
                ann.hear_until(f"hall ann: {number} {text}")
                if number % 50 == 0 and self.connections(server) == 2:
                    break
            else:
                self.fail("who does not read was never shown out")
            self.assertEqual(self.connections(server), 2)
            slow.close()
            ann.say("still here")
            bob.hear_until("hall ann: still here")
            self.assertEqual(server.stop()[0], 0)

    @staticmethod
    def connections(server):
        """The sockets of the server that are connected to a client."""
        inodes = set()
        directory = f"/proc/{server.process.pid}/fd"
        for name in os.listdir(directory):
            try:
                target = os.readlink(f"{directory}/{name}")
            except OSError:
                continue
            if match := re.fullmatch(r"socket:\[(\d+)\]", target):
                inodes.add(match.group(1))
        established = 0
        with open(f"/proc/{server.process.pid}/net/tcp", encoding="ascii") as table:
            for row in list(table)[1:]:
                fields = row.split()
                established += fields[3] != "0A" and fields[9] in inodes  # 0A: LISTEN
        return established

    def test_clients_that_vanish_or_talk_nonsense_harm_nobody(self):
        with Server("--threads", "2") as server:
            ann = server.client("ann", "hall")
            for n in range(50):
                one = socket.create_connection(("127.0.0.1", server.port), timeout=60)
                if n % 3 == 0:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset
                one.sendall([b"", b"half a na", b"x\n/join hall\nhi\n/quit\n", b"y" * 5000, b"\n\n"][n % 5])
                one.close()
            ann.say("all well")
            ann.hear_until("hall ann: all well")
            self.assertEqual(server.stop()[0], 0)

    def test_sigterm_and_sigint_end_it_in_order_with_clients_connected_and_talking(self):
        for how in (signal.SIGTERM, signal.SIGINT):
            with Server() as server:
                clients = [server.client(f"c{n}", "hall") for n in range(20)]
                for client in clients:
                    client.say("to be continued")
                code, out, err = server.stop(how)
                self.assertEqual((code, err), (0, ""))
                self.assertIn(f"stopped by signal {int(how)}", out)
                for client in clients:  # the server has closed every connection
                    try:
                        while client.hear() != "":
                            pass
                    except ConnectionResetError:
                        pass

    def test_a_port_that_is_taken_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            result = subprocess.run([CHAT, "--port", port], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(result.returncode, 1)
            self.assertIn(f"chat: 127.0.0.1:{port}", result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
