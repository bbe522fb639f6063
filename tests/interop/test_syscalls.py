"""How often the kernel is asked, as strace sees it: in a spinning round trip, and when nothing happens."""

import collections
import re
import shutil
import socket
import sys

import pytest

from ustack import testbed

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing:  apt-get install strace"),
]

# Run under strace in the namespace of a veth whose other end is the kernel's; the marks are calls that nothing
# else makes, with arguments that strace shows.
PROGRAM = """
import os, sys, threading
import ustack

def mark(name):
    try:
        os.rmdir("/mark/" + name)
    except OSError:
        pass

net = ustack.Stack(busy_poll=10.0)
net.add_interface(ustack.PacketRing("us0"), addresses=["10.9.0.2/24"])
s = net.create_connection(("10.9.0.1", int(sys.argv[1])))
s.setsockopt(6, 1, 1)
buffer = bytearray(1)
for name in ("warm", "hot"):
    mark(name)
    for _ in range(200):
        s.send(b"x")
        s.recv_into(buffer)
mark("cooling")
if sys.argv[2] == "accept":
    listener = net.create_server(("10.9.0.2", 0))
    waiting = threading.Thread(target=lambda: listener.accept(), daemon=True)
    waiting.start()
# Delayed ACKs and the like have had their time.
threading.Event().wait(1.5)
mark("idle")
threading.Event().wait(3)
mark("end")
os._exit(0)
"""


def trace(path):
    """{mark: Counter of system calls until the next mark}, all threads together."""
    counts = collections.defaultdict(collections.Counter)
    now = "start"
    for line in path.read_text().splitlines():
        if found := re.search(r'rmdir\("/mark/(\w+)"', line):
            now = found[1]
        elif found := re.match(r"\d+ +(\w+)\(", line):
            counts[now][found[1]] += 1
    return counts


def echo(ns):
    """A kernel's socket that sends back what comes, in a thread of this process."""
    listener = ns.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("10.9.0.1", 0))
    listener.listen()
    listener.settimeout(30)
    return listener


def run(tmp_path, how):
    import threading

    with testbed.Namespace("peer") as peer, testbed.Namespace("ours") as ours:
        testbed.veth(peer, "k0", ours, "us0")
        peer.add_address("k0", "10.9.0.1/24")
        with echo(peer) as listener:
            conns = []

            def serve():
                conn, _ = listener.accept()
                conns.append(conn)
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with conn:
                    while data := conn.recv(100):
                        conn.sendall(data)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            log = tmp_path / "trace"
            done = ours.run("strace", "-f", "-qq", "-o", str(log), sys.executable, "-P", "-c", PROGRAM,
                            str(listener.getsockname()[1]), how)
            for conn in conns:      # the program ended without a word to its peer
                conn.shutdown(socket.SHUT_RDWR)
            thread.join(30)
        assert done.returncode == 0, done.stderr
    return trace(log)


def test_a_spinning_round_trip_makes_two_calls_and_no_futex(tmp_path):
    counts = run(tmp_path, "alone")
    calls = counts["hot"]
    ours = sum(n for name, n in calls.items() if name not in ("rt_sigreturn",))
    assert ours <= 2 * 200, calls
    assert calls["futex"] == 0, calls
    # Nothing armed, nothing to do: nobody wakes. The wait of the test itself is one call, its timeout another.
    assert sum(counts["idle"].values()) <= 4, counts["idle"]


def test_a_thread_blocked_in_accept_does_not_wake_either(tmp_path):
    counts = run(tmp_path, "accept")
    assert sum(counts["idle"].values()) <= 4, counts["idle"]
