"""A bridge of two TAPs: kernel to kernel through our wire, perfect or not; and a stack behind an impaired TAP."""

import errno
import os
import socket
import threading

import pytest

import ustack
from ustack import testbed

pytestmark = [pytest.mark.root, pytest.mark.tun]


@pytest.fixture
def kernels():
    with testbed.Namespace("a") as a, testbed.Namespace("b") as b:
        yield a, a.tap("t0", "10.9.0.1/24"), b, b.tap("t0", "10.9.0.2/24")


def transfer(sender, receiver, data, address=("10.9.0.2", 7000)):
    """Send over kernel TCP; returns what arrived."""
    got = bytearray()
    with receiver.socket() as server:
        server.bind(address)
        server.listen()
        server.settimeout(30)

        def serve():
            s, _ = server.accept()
            s.settimeout(30)
            with s:
                while piece := s.recv(1 << 16):
                    got.extend(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with sender.socket() as s:
            s.settimeout(30)
            s.connect(address)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            assert s.recv(1) == b""
        thread.join(30)
    return bytes(got)


def test_a_perfect_wire(kernels):
    a, tap_a, b, tap_b = kernels
    data = os.urandom(3_000_000)
    with ustack.Bridge(tap_a, tap_b) as bridge:
        assert transfer(a, b, data) == data
        assert transfer(b, a, data, ("10.9.0.1", 7000)) == data
        # Super-frames came, wire packets went.
        assert bridge.stats["a_to_b"] > tap_a.stats["rx"]
    assert tap_a.state == tap_b.state == "closed"


def test_a_bad_wire_is_survived(kernels):
    a, tap_a, b, tap_b = kernels
    data = os.urandom(300_000)
    bad = {"loss": 0.02, "duplicate": 0.02, "reorder": 0.02, "corrupt": 0.01, "delay": 0.0005, "jitter": 0.0005}
    with ustack.Bridge(tap_a, tap_b, seed=7, **bad) as bridge:
        assert transfer(a, b, data) == data
        fates = bridge.fates["a_to_b"]
        assert fates["lost"] > 0
        assert fates["corrupted"] + fates["duplicated"] + fates["reordered"] > 0


def test_ends_without_offloads_get_complete_checksums(kernels):
    a, tap_a, b, tap_b = kernels
    tap_b.close()
    plain = b.tap("t1", "10.9.0.2/24", offloads=False)
    data = os.urandom(500_000)
    with ustack.Bridge(tap_a, plain):
        assert transfer(a, b, data) == data
        assert transfer(b, a, data, ("10.9.0.1", 7000)) == data


def test_one_direction_can_be_cut(kernels):
    a, tap_a, b, tap_b = kernels
    with ustack.Bridge(tap_a, tap_b, b_to_a={"loss": 1}) as bridge:
        ping = a.run("ping", "-c", "1", "-W", "1", "10.9.0.2")
        assert ping.returncode == 1
        assert bridge.fates["b_to_a"]["lost"] > 0
        assert bridge.fates["a_to_b"]["lost"] == 0
        assert b.links() == ["lo", "t0"]


def test_it_sleeps_when_nothing_happens_and_stops_twice(kernels):
    _, tap_a, _, tap_b = kernels
    bridge = ustack.Bridge(tap_a, tap_b)
    bridge.start()
    bridge.start()
    bridge.stop()
    bridge.stop()
    bridge.start()
    bridge.close()
    bridge.close()
    with pytest.raises(ValueError, match="closed"):
        bridge.start()


def test_run_ends_with_the_device(kernels):
    a, tap_a, _, tap_b = kernels
    bridge = ustack.Bridge(tap_a, tap_b)
    timer = threading.Timer(0.1, a.remove, ["t0"])
    timer.start()
    with pytest.raises(OSError, match="bridge ended") as e:
        bridge.run()
    assert e.value.errno == errno.ENODEV
    timer.join()
    bridge.close()


def test_wrong_ends(kernels):
    a, tap_a, _, tap_b = kernels
    with pytest.raises(ValueError, match="no descriptor"):
        ustack.Bridge(tap_a, ustack.Pipe(layer=2))
    with a.entered(), ustack.Tap("u0", tun=True) as tun, pytest.raises(ValueError, match="layer"):
        ustack.Bridge(tap_a, tun)
    tap_a.close()
    tap_b.close()


@pytest.mark.parametrize("kind", ["tap", "ring"])
def test_a_stack_behind_an_impaired_device(kind):
    data = os.urandom(300_000)
    over = testbed.over_tap if kind == "tap" else testbed.over_veth
    with over() as bed:
        wire = ustack.Impair(bed.link, seed=3, loss=0.02, duplicate=0.02, corrupt=0.01, reorder=0.02, delay=0.0005)
        with ustack.Stack() as net, bed.peer.socket() as server:
            net.add_interface(wire, addresses=[bed.address])
            server.bind((bed.peer_ip, 7000))
            server.listen()
            server.settimeout(30)
            echoed = bytearray()

            def serve():
                s, _ = server.accept()
                with s:
                    while piece := s.recv(1 << 16):
                        s.sendall(piece)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            with net.create_connection((bed.peer_ip, 7000), timeout=30) as s:
                sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)), daemon=True)
                sender.start()
                while piece := s.recv(1 << 16):
                    echoed.extend(piece)
                sender.join(30)
            thread.join(30)
            assert bytes(echoed) == data
            assert wire.fates["tx"]["lost"] + wire.fates["rx"]["lost"] > 0
