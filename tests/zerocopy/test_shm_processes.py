"""SharedMemory between two real processes: transfers, and what is left when one of them is killed."""

import contextlib
import hashlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from beds import FAR, NEAR, PATIENCE, read_all
from helpers import Background
from shm_peer import PORT

import ustack

DATA = random.Random(9).randbytes(1 << 20)


@contextlib.contextmanager
def beside(tmp_path, work, **options):
    """(our stack, our link, the other process), which listens."""
    path = tmp_path / "link"
    with ustack.SharedMemory.listen(path, **options) as listener:
        process = subprocess.Popen([sys.executable, "-P", Path(__file__).parent / "shm_peer.py", path, FAR, work],
                                   stdout=subprocess.PIPE)
        try:
            link = listener.accept(PATIENCE)
            with ustack.Stack() as net:
                net.add_interface(link, addresses=[f"{NEAR}/24"])
                assert process.stdout.readline() == b"ready\n"
                yield net, link, process
        finally:
            process.kill()
            process.wait(PATIENCE)
            process.stdout.close()


def connect(net):
    s = net.create_connection((FAR, PORT))
    s.settimeout(PATIENCE)
    return s


def test_a_transfer_is_the_same_by_its_digest(tmp_path):
    whole = hashlib.sha256()
    with beside(tmp_path, "sink") as (net, link, process), connect(net) as s:
        assert link.peer_pid == process.pid
        for _ in range(32):
            s.sendall(DATA)
            whole.update(DATA)
        s.shutdown(1)
        assert s.recv(100) == whole.digest()
        assert link.error is None


def test_both_ways_at_once(tmp_path):
    with beside(tmp_path, "echo", device="thread") as (net, _link, _process), connect(net) as s:
        sender = Background(lambda: (s.sendall(DATA * 8), s.shutdown(1)))
        got = read_all(s)
        sender.result(PATIENCE)
        assert got[:-32] == DATA * 8
        assert got[-32:] == hashlib.sha256(DATA * 8).digest()


@pytest.mark.parametrize("victim", ["stack", "its device", "our device"])
def test_a_process_killed_in_mid_transfer(tmp_path, victim):
    """The link is gone and says who it was; calls end with an error; memory, processes and descriptors come back."""
    before = set(os.listdir("/proc/self/fd"))
    with beside(tmp_path, "sink") as (net, link, process):
        ours = link.device_pid
        with connect(net) as s:
            s.settimeout(None)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
            moving = threading.Event()

            def send_for_ever():
                while True:
                    s.sendall(DATA)
                    moving.set()

            sender = Background(send_for_ever)
            assert moving.wait(PATIENCE)
            os.kill({"stack": process.pid, "our device": ours}.get(victim) or device_of(process), signal.SIGKILL)
            with pytest.raises(TimeoutError, match="timed out"):
                sender.result(PATIENCE)
            with pytest.raises(OSError, match=r"unreachable|down"):
                net.create_connection((FAR, PORT))
            assert link.state == "gone"
            assert f"process {ours}" in link.error if victim == "our device" else f"{process.pid}" in link.error
            assert net.stats()["link.gone"] == 1
        assert link.shared["tx"]["in_flight"] == 0
        assert link.shared["tx"]["mapped"] == link.shared["tx"]["unmapped"]
    with pytest.raises(ChildProcessError):
        os.waitpid(ours, os.WNOHANG)
    assert set(os.listdir("/proc/self/fd")) == before


def device_of(process):
    """The device process of the other side: a child of it."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            if int(stat.rsplit(")", 1)[1].split()[1]) == process.pid:
                return int(pid)
    raise AssertionError("it has no device")


def test_devices_end_with_the_process_that_made_them(tmp_path):
    """A killed stack leaves no device behind: it is told by its socket, and nobody has to collect it."""
    with beside(tmp_path, "sink", device="thread") as (_net, _link, process):
        pid = device_of(process)
        watched = os.pidfd_open(pid)
        process.kill()
        assert select.select([watched], [], [], PATIENCE)[0]
        os.close(watched)


def test_a_listener_goes_on_after_a_peer_of_another_kind(tmp_path):
    path = tmp_path / "link"
    with ustack.SharedMemory.listen(path, device="thread") as listener:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(str(path))
            stranger.send(b"hello?")
            with pytest.raises(OSError, match="no shared-memory link"):
                listener.accept(PATIENCE)
        other = Background(ustack.SharedMemory.connect, path)
        with listener.accept(PATIENCE) as a, other.result(PATIENCE) as b:
            assert a.peer_pid == b.peer_pid == os.getpid()
        with pytest.raises(TimeoutError):
            listener.accept(0.01)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        ustack.SharedMemory.connect(path)
