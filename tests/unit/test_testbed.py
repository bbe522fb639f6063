"""The testbed: namespaces that end with their holder, veth pairs, TAPs, programs."""

import errno
import os
import select
import socket
import subprocess
import sys
import threading

import pytest

from ustack import testbed

pytestmark = pytest.mark.root


def netns_of_this_thread() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_a_namespace_has_only_a_loopback_device_that_is_up(namespace):
    assert namespace.links() == ["lo"]
    with namespace.socket() as server, namespace.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


def test_entered_comes_back_also_after_an_error(namespace):
    home = netns_of_this_thread()

    def fail():
        with namespace.entered():
            assert netns_of_this_thread() != home
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert netns_of_this_thread() == home


def test_entered_moves_only_the_calling_thread(namespace):
    home = netns_of_this_thread()
    seen = []
    go, done = threading.Event(), threading.Event()

    def look():
        go.wait(10)
        seen.append(netns_of_this_thread())
        done.set()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    with namespace.entered():
        go.set()
        assert done.wait(10)
    thread.join(60)
    assert seen == [home]


def test_two_namespaces_talk_over_their_veth(two_namespaces):
    a, b = two_namespaces
    with a.socket() as server, b.socket() as client:
        server.bind(("10.9.0.1", 0))
        server.listen()
        client.settimeout(10)
        client.connect(server.getsockname())
        conn, peer = server.accept()
        with conn:
            assert peer[0] == "10.9.0.2"
            client.sendall(b"hello")
            assert conn.recv(5) == b"hello"


def test_programs_run_in_the_namespace(two_namespaces):
    a, _ = two_namespaces
    code = "import socket; print([name for _, name in socket.if_nameindex()])"
    assert "a0" in a.run(sys.executable, "-c", code, check=True).stdout


def test_a_program_ends_with_its_namespace():
    with testbed.Namespace() as ns:
        program = ns.popen(sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)",
                           stdout=subprocess.PIPE)
        assert program.stdout.readline() == b"up\n"
    assert program.poll() is not None


def test_a_missing_program_is_an_error_that_names_it(namespace):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        namespace.run("no-such-program")


def test_a_missing_device_is_an_error_that_names_it(namespace):
    with pytest.raises(OSError, match="'eth7'") as e:
        namespace.up("eth7")
    assert e.value.errno == errno.ENODEV


def test_removing_one_end_of_a_veth_removes_the_other(two_namespaces):
    a, b = two_namespaces
    a.remove("a0")
    assert b.links() == ["lo"]


def test_routes_and_mtu(two_namespaces):
    a, b = two_namespaces
    a.set("a0", mtu=9000)
    b.set("b0", mtu=9000)
    b.add_route("10.8.0.0/16", "10.9.0.1")
    a.add_address("lo", "10.8.1.1/32")
    with a.socket() as server, b.socket() as client:
        server.bind(("10.8.1.1", 0))
        server.listen()
        client.settimeout(10)
        client.connect(server.getsockname())
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 8000


def test_congestion_control_is_chosen_per_socket(namespace):
    with namespace.socket() as s:
        testbed.set_congestion(s, "reno")
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).split(b"\0")[0] == b"reno"


def test_a_killed_holder_leaves_nothing_behind():
    code = """
import sys
from ustack import testbed
ns = testbed.Namespace()
p = ns.popen(sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)", stdout=-1)
p.stdout.readline()
print(p.pid, flush=True)
sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as holder:
        pid = int(holder.stdout.readline())
        watch = os.pidfd_open(pid)
        holder.kill()
        holder.wait()
    try:
        assert select.select([watch], [], [], 10)[0], "the program outlived the holder of its namespace"
    finally:
        os.close(watch)
