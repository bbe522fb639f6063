"""AF_XDP on veths: frames both ways, TCP with the kernel, rings that are full, devices and processes that vanish."""

import errno
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
from helpers import Background

import ustack
from ustack import Xdp, testbed
from ustack._core.py.probe_links import Harness

pytestmark = pytest.mark.root

MAC, PEER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
TYPE = 0x88B5                   # IEEE 802 local experimental
PATIENCE = 60
SO_RCVBUFFORCE = 33
MODES = ["generic", "native"]


@pytest.fixture
def bed(request):
    """The kernel's end ``k0`` of a veth in one namespace, ``us0`` for the link in another."""
    with testbed.Namespace("kernel") as kernel, testbed.Namespace("ours") as ours:
        testbed.veth(kernel, "k0", ours, "us0", mtu=getattr(request, "param", 1500))
        kernel.set("k0", address="02:00:00:00:00:02")
        kernel.offload("k0", tx=False)
        yield kernel, ours


def make(ns, **options):
    with ns.entered():
        try:
            return Xdp("us0", **{"mac": MAC} | options)
        except PermissionError as e:
            pytest.skip(f"{e} (needs CAP_BPF and CAP_NET_ADMIN of the real root)")


def raw_socket(ns, device="k0"):
    s = ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(TYPE))
    s.bind((device, TYPE))
    s.settimeout(5)
    return s


def frame(n, source=PEER, to=MAC, seed=1):
    return to + source + TYPE.to_bytes(2, "big") + random.Random(seed + n).randbytes(n - 14)


def ours_only(packets):
    """Without what the kernel sends by itself."""
    return [p["data"] for p in packets if p["data"][12:14] == TYPE.to_bytes(2, "big")]


def collect(harness, wanted):
    got = []
    while len(got) < wanted:
        assert harness.wait(), f"only {len(got)} of {wanted} frames came"
        got += ours_only(harness.rx())
    return got


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bed", [1500, 9000], indirect=True)
def test_frames_both_ways(bed, mode):
    kernel, ours = bed
    link = make(ours, mode=mode)
    mtu = link.mtu
    assert (link.kind, link.mac, link.name, link.layer) == ("xdp", MAC, "us0", 2)
    assert link.mode == f"{mode}, copy"
    assert link.facts["zero_copy"] is False                     # veths have none
    sizes = [n for n in (60, 511, 1514, 4095, 4096, 4097, 9014) if n <= mtu + 14]
    with Harness(link) as h, raw_socket(kernel) as s:
        for n in sizes:
            s.send(frame(n))
        assert collect(h, len(sizes)) == [frame(n) for n in sizes]
        assert h.tx([frame(n, MAC, PEER) for n in sizes]) == len(sizes)
        for n in sizes:
            assert s.recv(1 << 16) == frame(n, MAC, PEER)
        assert h.ledger["device.tx"] == h.ledger["tx.ring"] == sum(sizes)
        assert h.ledger["device.rx"] == h.ledger["rx.ring"] >= sum(sizes)
        assert h.close() == 0
    assert link.facts["rx_invalid"] == link.facts["tx_invalid"] == link.facts["bad_desc"] == 0
    assert link.mode == f"{mode}, copy"                         # also when it is closed


def test_frames_beyond_the_mtu_are_dropped_and_counted(bed):
    _, ours = bed
    link = make(ours)
    with Harness(link) as h:
        assert h.tx([frame(1515), frame(60)]) == 2
        assert (link.stats["tx_drop"], link.stats["tx"]) == (1, 1)
        assert h.close() == 0


def test_nobody_reads_and_then_somebody_does(bed):
    """More frames than chunks: the kernel drops the rest, and says so; nothing is lost for good."""
    kernel, ours = bed
    link = make(ours, frames=64)
    with Harness(link) as h, raw_socket(kernel) as s:
        for _ in range(300):
            s.send(frame(100))
        got = collect(h, 60)
        assert all(data == frame(100) for data in got)
        facts = link.facts
        assert facts["rx_dropped"] + facts["rx_ring_full"] + facts["fill_empty"] >= 300 - 64
        for k in range(500):                                    # each chunk is used many times
            s.send(frame(200, seed=k))
            assert collect(h, 1)[-1] == frame(200, seed=k)
        assert h.close() == 0


def test_bursts_beyond_the_chunks_for_sending(bed):
    kernel, ours = bed
    link = make(ours, frames=64)
    with Harness(link) as h, raw_socket(kernel) as s:
        s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        sent = 0
        while sent < 1000:
            sent += h.tx([frame(1000, MAC, PEER, seed=sent + k) for k in range(32)])
        for k in range(sent):
            assert s.recv(1 << 16) == frame(1000, MAC, PEER, seed=k)
        assert h.close() == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bed", [1500, 9000], indirect=True)
def test_tcp_with_the_kernel(bed, mode):
    """Both ways by SHA-256."""
    kernel, ours = bed
    body = random.Random(3).randbytes(4 << 20)
    kernel.add_address("k0", "10.9.0.1/24")
    kernel.offload("k0", tso=False, gso=False)
    with ustack.Stack() as net, kernel.socket() as listener:
        net.add_interface(make(ours, mode=mode), addresses=["10.9.0.2/24"])
        listener.bind(("10.9.0.1", 0))
        listener.listen()

        def echo():
            s, _ = listener.accept()
            with s:
                s.settimeout(PATIENCE)
                seen = hashlib.sha256()
                while data := s.recv(1 << 16):
                    seen.update(data)
                s.sendall(seen.digest() + body)

        other = Background(echo)
        with net.create_connection(listener.getsockname()) as c:
            c.settimeout(PATIENCE)
            c.sendall(body)
            c.shutdown(socket.SHUT_WR)
            got = bytearray()
            while data := c.recv(1 << 18):
                got += data
        other.result(PATIENCE)
        assert got[:32] == hashlib.sha256(body).digest()
        assert got[32:] == body
        assert not {name for name, n in net.stats().items() if name.endswith("bad_checksum") and n}


@pytest.mark.parametrize("bed", [1500], indirect=True)
def test_a_device_that_vanishes(bed):
    kernel, ours = bed
    kernel.add_address("k0", "10.9.0.1/24")
    with ustack.Stack() as net:
        link = make(ours)
        net.add_interface(link, addresses=["10.9.0.2/24"])
        c = net.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with c:
            c.sendto(b"x", ("10.9.0.1", 9))
            kernel.remove("k0")
            c.settimeout(0.05)
            while link.state != "gone":
                with pytest.raises(OSError):  # noqa: PT011 (what it is depends on who notices first)
                    c.sendto(b"x", ("10.9.0.1", 9)) and c.recv(1)
        assert net.stats()["link.gone"] == 1


def test_down_and_up_again(bed):
    kernel, ours = bed
    link = make(ours)
    with Harness(link) as h, raw_socket(kernel) as s:
        ours.down("us0")
        with pytest.raises(OSError, match=os.strerror(errno.ENETDOWN)):
            h.rx(now=10**12)
        assert link.state == "down"
        ours.up("us0")
        h.rx(now=10**13)
        assert link.state == "up"
        s.send(frame(99))
        assert collect(h, 1) == [frame(99)]
        assert h.close() == 0


def test_the_kernel_has_the_frames_back_when_the_link_closes(bed):
    kernel, ours = bed
    with raw_socket(kernel) as s, raw_socket(ours, "us0") as seen:
        with Harness(make(ours)) as h:
            s.send(frame(100))
            assert collect(h, 1) == [frame(100)]
        s.send(frame(101))
        assert seen.recv(1 << 16)[-87:] == frame(101)[-87:]     # not the one of 100 bytes


def patiently(ns):
    """The kernel gives a queue back some time behind the end of the process that had it."""
    while True:
        try:
            return make(ns)
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise


VICTIM = textwrap.dedent("""
    import ctypes, os, sys
    if ctypes.CDLL(None, use_errno=True).setns(int(sys.argv[1]), 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")
    import ustack
    link = ustack.Xdp("us0")
    print(link.mode, flush=True)
    sys.stdin.read()
""")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_ends_takes_its_program_along(bed, end):
    kernel, ours = bed
    child = subprocess.Popen([sys.executable, "-P", "-c", VICTIM, str(ours.fd)], pass_fds=[ours.fd],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with child:
        assert b"copy" in child.stdout.readline()
        with pytest.raises(OSError, match="somebody else has this queue") as caught:
            make(ours)
        assert caught.value.errno == errno.EBUSY
        child.send_signal(end)
        child.wait(PATIENCE)
    with Harness(patiently(ours)) as h, raw_socket(kernel) as s:
        s.send(frame(100))
        assert collect(h, 1) == [frame(100)]
        assert h.close() == 0


@pytest.mark.parametrize(("options", "error"), [
    ({"mode": "fast"}, ValueError), ({"frames": 100}, ValueError), ({"frames": 32}, ValueError),
    ({"queue": -1}, ValueError), ({"queue": 7}, OSError), ({"mac": "nonsense"}, ValueError)])
def test_arguments_that_cannot_be(bed, options, error):
    _, ours = bed
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(error):
        make(ours, **options)
    assert set(os.listdir("/proc/self/fd")) == before


def test_devices_that_cannot_be(bed):
    _, ours = bed
    with ours.entered():
        with pytest.raises(OSError, match="no device"):
            Xdp("none0")
        with pytest.raises(ValueError, match="no Ethernet"):
            Xdp("lo")
