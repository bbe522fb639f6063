"""A TAP between a link and the kernel: frames both ways, super-frames, TUN, queues, devices that go away."""

import errno
import fcntl
import os
import resource
import socket
import struct
import subprocess
import sys

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from ustack import testbed
from ustack._core.py.devices import Tap
from ustack._core.py.probe_links import Harness

pytestmark = [pytest.mark.root, pytest.mark.tun]

MAC = b"\x02\0\0\0\0\x01"
PARTIAL = {"csum": 2, "csum_start": 34, "csum_offset": 16}
ETH_P_TEST = 0x88B5  # IEEE 802 local experimental


@pytest.fixture
def ns():
    with testbed.Namespace("taptest") as namespace:
        yield namespace


def make(ns, name="us0", **options):
    with ns.entered():
        return Tap(name, mac=MAC, **options)


def raw_socket(ns, device="us0", protocol=ETH_P_TEST):
    s = ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    s.bind((device, protocol))
    s.settimeout(5)
    return s


def frames_of(harness, wanted, ethertype=ETH_P_TEST):
    """Receive until ``wanted`` frames of the type have come; the kernel's own noise is left out."""
    got = []
    while len(got) < wanted:
        assert harness.wait(), f"only {len(got)} of {wanted} frames came"
        got += [p for p in harness.rx() if p["data"][12:14] == ethertype.to_bytes(2, "big")]
    return got


def frame(n, payload=b"\xab"):
    return MAC + b"\x02\0\0\0\0\x02" + ETH_P_TEST.to_bytes(2, "big") + (payload * n)[: n - 14]


@pytest.mark.parametrize("offloads", [True, False, ["csum"]])
def test_frames_both_ways(ns, offloads):
    tap = make(ns, mtu=9000, offloads=offloads)
    assert tap.name == "us0"
    assert tap.mtu == 9000
    assert tap.mac == MAC
    sizes = [60, 1514, 2037, 2038, 2039, 2047, 2048, 2049, 4096, 9014]
    with Harness(tap) as h, raw_socket(ns) as s:
        for n in sizes:
            s.send(frame(n, bytes(range(251))))
        got = frames_of(h, len(sizes))
        assert [p["data"] for p in got] == [frame(n, bytes(range(251))) for n in sizes]
        for n in sizes:
            assert h.tx([frame(n, bytes(range(249)))]) == 1
            assert s.recv(65536) == frame(n, bytes(range(249)))
        # Chains are gathered by the device, in one call.
        data = frame(3000)
        h.tx([[data[:14], data[14:15], b"", data[15:2000], data[2000:]]])
        assert s.recv(65536) == data
        assert tap.stats["tx"] == tap.stats["tx_calls"] == len(sizes) + 1


def burst(sizes):
    return [frame(n, bytes([i % 251 + 1])) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("uring", [True, False])
@pytest.mark.parametrize("offloads", [True, False])
def test_a_burst_goes_out_in_order(ns, offloads, uring):
    """With io_uring by few calls, else by one for each frame; what is too large is left out and counted."""
    tap = make(ns, mtu=1500, offloads=offloads)
    sizes = [60, 1514, 61, 1600, *range(100, 159), 1514]  # 1600 is beyond the MTU
    with Harness(tap) as h, raw_socket(ns) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        if not uring:  # no descriptor is left for it
            spare = os.open("/dev/null", os.O_RDONLY)
            os.close(spare)
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, limits[1]))
        try:
            frames = burst(sizes)
            assert h.tx(frames) == len(frames)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for f in frames:
            if len(f) <= 1514:
                assert s.recv(65536) == f
        sent = len(sizes) - 1
        assert (tap.stats["tx"], tap.stats["tx_drop"]) == (sent, 1)
        if uring and io_uring():
            assert tap.stats["tx_calls"] <= 4
        if not uring:
            assert tap.stats["tx_calls"] == sent
        assert h.live <= 2


def io_uring():
    """Whether the kernel has it and lets us use it."""
    try:
        with open("/proc/sys/kernel/io_uring_disabled") as f:
            return int(f.read()) == 0
    except FileNotFoundError:
        return False


def test_a_burst_into_a_device_that_is_down_is_kept(ns):
    tap = make(ns)
    with Harness(tap) as h:
        ns.down("us0")
        with pytest.raises(OSError, match="down") as e:
            h.tx(burst(range(60, 70)))
        assert e.value.errno == errno.ENETDOWN
        assert tap.stats["tx"] == tap.stats["tx_drop"] == 0
        assert tap.state == "down"


def test_an_mtu_that_grows_behind_our_back(ns):
    """Frames of a device with a small MTU are read by one buffer; the first that is longer is lost, and counted."""
    tap = make(ns, mtu=1500, offloads=False)
    with Harness(tap) as h, raw_socket(ns) as s:
        s.send(frame(1514))
        assert [p["data"] for p in frames_of(h, 1)] == [frame(1514)]
        with ns.entered(), socket.socket() as control:
            fcntl.ioctl(control, 0x8922, struct.pack("16sI12x", b"us0", 9000))  # SIOCSIFMTU
        for n in (9000, 3000, 2048):
            s.send(frame(n))
        assert [p["data"] for p in frames_of(h, 2)] == [frame(3000), frame(2048)]
        assert tap.stats["rx_truncated"] == 1


def test_small_frames_leave_the_large_block_alone(ns):
    tap = make(ns)
    with Harness(tap) as h, raw_socket(ns) as s:
        for n in (60, 1514, 60):
            s.send(frame(n))
        assert [p["blocks"] for p in frames_of(h, 3)] == [[60], [1514], [60]]


def test_a_super_frame_arrives_whole_and_its_pages_are_aligned(ns):
    """UDP_SEGMENT makes the kernel send one super-datagram; its checksum is left to us."""
    tap = make(ns)
    if "uso" not in tap.capabilities:
        pytest.skip("this kernel has no UDP segmentation offload for TAP")
    ns.add_address("us0", "10.9.0.1/24")
    ns.run("ip", "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:01", "dev", "us0", check=True)
    with Harness(tap) as h, ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_UDP, 103, 1000)  # UDP_SEGMENT
        payload = os.urandom(40_000)
        s.sendto(payload, ("10.9.0.2", 9))
        [got] = frames_of(h, 1, 0x0800)
        assert got["data"][42:] == payload
        assert (got["gso_type"], got["gso_size"]) == (3, 1000)
        assert (got["csum"], got["csum_start"], got["csum_offset"]) == (2, 34, 6)
        assert got["blocks"][0] == 2048 - 10
        assert h.ledger == {"device.rx": tap.stats["rx_bytes"] + 10 * tap.stats["rx"]}


def test_a_super_segment_is_sent_whole(ns):
    tap = make(ns)
    ip = IP(src="10.9.0.2", dst="10.9.0.1") / TCP() / bytes(60000)
    segment = bytes(Ether(src=MAC, dst="02:00:00:00:00:02") / ip)
    with Harness(tap) as h, raw_socket(ns, protocol=0x0800) as s:
        assert tap.gso_max == 3 * 65536
        assert h.tx([segment], gso_type=1, gso_size=1448, hdr_len=54, **PARTIAL) == 1
        assert len(s.recv(1 << 17)) == len(segment)
        # The same without the facts is a frame far beyond the MTU, and is not ours to send.
        assert h.tx([segment]) == 1
        assert tap.stats["tx_drop"] == 1


def test_partial_checksums_are_completed_by_the_kernel(ns):
    """A datagram with only the pseudo-header summed is delivered to a socket that checks."""
    tap = make(ns)
    ns.add_address("us0", "10.9.0.1/24")
    ns.set("us0", address="02:00:00:00:00:02")
    ip = IP(src="10.9.0.2", dst="10.9.0.1") / UDP(sport=7, dport=7777) / b"hello"
    whole = bytes(Ether(src=MAC, dst="02:00:00:00:00:02") / ip)
    pseudo = sum(int.from_bytes(whole[26 + i : 28 + i], "big") for i in range(0, 8, 2)) + 17 + 13
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    partial = whole[:40] + pseudo.to_bytes(2, "big") + whole[42:]
    with Harness(tap) as h, ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("10.9.0.1", 7777))
        s.settimeout(5)
        h.tx([partial], csum=2, csum_start=34, csum_offset=6)
        assert s.recv(100) == b"hello"


def test_tun_carries_ip_packets(ns):
    tun = make(ns, "us1", tun=True)
    assert tun.layer == 3
    assert tun.mac is None
    ns.add_address("us1", "10.9.0.1/24")
    with Harness(tun) as h, ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("10.9.0.1", 7777))
        s.settimeout(5)
        s.sendto(b"to you", ("10.9.0.2", 9))
        while True:
            assert h.wait()
            got = [IP(p["data"]) for p in h.rx() if p["data"][0] >> 4 == 4]
            if got:
                break
        assert got[0].dst == "10.9.0.2"
        assert bytes(got[0][UDP].payload) == b"to you"
        h.tx([bytes(IP(src="10.9.0.2", dst="10.9.0.1") / UDP(sport=9, dport=7777) / b"to me")])
        assert s.recv(100) == b"to me"


def test_a_device_that_goes_down_and_comes_back(ns):
    tap = make(ns)
    with Harness(tap) as h, raw_socket(ns) as s:
        h.tx([frame(60)])
        assert s.recv(100) == frame(60)
        ns.down("us0")
        with pytest.raises(OSError, match="down") as e:
            h.tx([frame(60)])
        assert e.value.errno == errno.ENETDOWN
        assert tap.state == "down"
        h.rx()  # no error: it may come back
        ns.up("us0")
        assert h.tx([frame(77)]) == 1
        assert tap.state == "up"
        with pytest.raises(OSError, match="down"):  # what the socket learned while it was
            s.recv(100)
        assert s.recv(100) == frame(77)


def test_a_device_deleted_while_running(ns):
    tap = make(ns)
    with Harness(tap) as h:
        h.tx([frame(60)])
        ns.remove("us0")
        assert h.wait()  # a sleeper is woken
        for act in (h.rx, lambda: h.tx([frame(60)])):
            with pytest.raises(OSError, match="device") as e:
                act()
            assert e.value.errno == errno.ENODEV
        assert tap.state == "gone"
        assert h.live <= 2  # the buffers of the next frame


def test_no_memory_leaves_the_frame_with_the_device(ns):
    tap = make(ns)
    with Harness(tap, budget=1000) as h, raw_socket(ns) as s:
        s.send(frame(60))
        assert h.wait()
        assert h.rx() == []
        assert tap.stats["rx_nomem"] == 1


def test_nothing_leaks(ns):
    tap = make(ns)
    h = Harness(tap)
    with raw_socket(ns) as s:
        for n in (60, 1514, 60):
            s.send(frame(n))
        frames_of(h, 3)
    assert h.close() == 0
    assert tap.state == "closed"
    assert "us0" not in ns.links()


def test_several_queues(ns):
    first = make(ns, multi_queue=True)
    second = make(ns, multi_queue=True)
    with Harness(first) as a, Harness(second) as b, raw_socket(ns) as s:
        for h in (a, b):
            h.tx([frame(60)])
            assert s.recv(100) == frame(60)
        with pytest.raises(OSError, match="multi_queue"):
            make(ns)


def test_mtu_is_that_of_the_device_when_it_is_attached(ns):
    tap = make(ns, offloads=False)
    assert tap.mtu == 1500
    ns.set("us0", mtu=4000)
    with Harness(tap):
        assert tap.mtu == tap.gso_max == 4000


def test_from_fd(ns):
    with ns.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"us7", 0x0002 | 0x1000 | 0x4000))
            mine = Tap.from_fd(fd, mac=MAC)
        finally:
            os.close(fd)
    assert (mine.name, mine.mtu, mine.layer) == ("us7", 1500, 2)
    assert "tso4" in mine.capabilities
    ns.up("us7")
    with Harness(mine) as h, raw_socket(ns, "us7") as s:
        h.tx([frame(100)])
        assert s.recv(1000) == frame(100)
    with open("/dev/null") as f, pytest.raises(OSError, match="not an attached TAP"):
        Tap.from_fd(f.fileno())


def test_wrong_names_and_busy_devices(ns):
    for bad in ("", "x" * 16, "a/b"):
        with pytest.raises(ValueError, match="device name"):
            Tap(bad)
    with pytest.raises(TypeError, match="device name"):
        Tap(7)
    with make(ns), pytest.raises(OSError, match="another program") as e:
        make(ns)
    assert e.value.errno == errno.EBUSY
    with pytest.raises(OSError, match="no TAP") as e:
        make(ns, "lo")
    assert e.value.errno == errno.EINVAL


def test_without_privilege_the_remedy_is_named():
    code = (
        "from ustack._core.py.devices import Tap\n"
        "import os\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Tap('us0')\n"
        "except PermissionError as e: print(e)\n"
    )
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert "unshare" in out.stdout, out.stderr
