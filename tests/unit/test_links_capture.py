"""Captures: what other programs read of them, and what they do to the packets (nothing)."""

import os
import struct

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import PcapNgReader

from ustack._core.py.links import pair
from ustack._core.py.pipe import Pipe
from ustack._core.py.probe_links import Harness
from ustack._core.py.wrappers import Capture, Impair

DATAGRAM = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / b"hello")


def blocks(path):
    """(type, body) of every block; lengths in front and behind agree."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        kind, n = struct.unpack_from("=II", data, at)
        assert n % 4 == 0
        assert struct.unpack_from("=I", data, at + n - 4)[0] == n
        yield kind, data[at + 8 : at + n - 4]
        at += n


def packets(path):
    """(time in ns, direction, original length, bytes) of every packet."""
    for kind, body in blocks(path):
        if kind == 6:
            _, high, low, n, original = struct.unpack_from("=IIIII", body)
            options = body[20 + (n + 3) // 4 * 4 :]
            code, length, flags = struct.unpack_from("=HHI", options)
            assert (code, length) == (2, 4)
            yield high << 32 | low, flags & 3, original, body[20 : 20 + n]


@pytest.mark.parametrize(("layer", "linktype"), [(2, 1), (3, 101)])
def test_both_directions_with_times(tmp_path, layer, linktype):
    path = tmp_path / "trace.pcapng"
    pipe = Pipe(layer=layer)
    capture = Capture(pipe, path, epoch=10**18)
    with Harness(capture) as stack:
        sent = [bytes([i]) * (60 + i) for i in range(5)]
        pipe.inject_many(sent)
        assert [p["data"] for p in stack.rx(now=7)] == sent
        stack.tx([[b"a" * 50, b"b" * 50]], now=8)
        assert pipe.drain() == [(8, b"a" * 50 + b"b" * 50)]
        assert stack.ledger == {"pipe.inject": sum(map(len, sent)), "pipe.drain": 100}
        assert capture.captured["packets"] == 6
        assert stack.live == 0
    expected = [(10**18 + 7, 1, len(p), p) for p in sent] + [(10**18 + 8, 2, 100, b"a" * 50 + b"b" * 50)]
    assert list(packets(path)) == expected
    kinds = [kind for kind, _ in blocks(path)]
    assert kinds == [0x0A0D0D0A, 1] + [6] * 6
    assert struct.unpack_from("=H", next(body for kind, body in blocks(path) if kind == 1))[0] == linktype


def test_scapy_reads_it(tmp_path):
    path = tmp_path / "trace.pcapng"
    pipe = Pipe()
    with Harness(Capture(pipe, str(path), epoch=0)) as stack:
        stack.tx([DATAGRAM], now=1_500_000_000)
        pipe.drain()
    with PcapNgReader(str(path)) as reader:
        [p] = list(reader)
    assert bytes(p) == DATAGRAM
    assert p[UDP].payload.load == b"hello"
    assert float(p.time) == pytest.approx(1.5)


def test_partial_checksums_are_completed_in_the_record_only(tmp_path):
    path = tmp_path / "trace.pcapng"
    pseudo = sum(struct.unpack(">4H", DATAGRAM[12:20])) + 17 + len(DATAGRAM) - 20
    partial = DATAGRAM[:26] + ((pseudo & 0xFFFF) + (pseudo >> 16)).to_bytes(2, "big") + DATAGRAM[28:]
    a, b = pair()
    with Harness(Capture(a, path)) as left, Harness(b) as right:
        left.tx([partial], csum=2, csum_start=20, csum_offset=6)
        [got] = right.rx()
        assert (got["data"], got["csum"]) == (partial, 2)
    [(_, _, _, data)] = packets(path)
    assert data == DATAGRAM


def test_snaplen_cuts_the_record_not_the_packet(tmp_path):
    path = tmp_path / "trace.pcapng"
    pipe = Pipe()
    with Harness(Capture(pipe, path, snaplen=64)) as stack:
        stack.tx([b"x" * 1001])
        assert len(pipe.drain()[0][1]) == 1001
    [(_, _, original, data)] = packets(path)
    assert (original, data) == (1001, b"x" * 64)


def test_more_than_the_buffer_holds(tmp_path):
    path = tmp_path / "trace.pcapng"
    pipe = Pipe()
    with Harness(Capture(pipe, path)) as stack:
        for i in range(60):
            pipe.inject(bytes([i]) * 60_000)
            stack.rx(now=i)
    assert [(t, data[0], len(data)) for t, _, _, data in packets(path)] == [
        (t, i, 60_000) for i, (t, _, _, _) in enumerate(packets(path))
    ]
    assert len(list(packets(path))) == 60


def test_only_what_the_device_took_is_recorded(tmp_path):
    path = tmp_path / "trace.pcapng"
    a, _ = pair(queue=2)
    with Harness(Capture(a, path)) as left:
        assert left.tx([b"1" * 20, b"2" * 20, b"3" * 20]) == 2
    assert [data[:1] for *_, data in packets(path)] == [b"1", b"2"]


def test_flush_and_idle_write(tmp_path):
    path = tmp_path / "trace.pcapng"
    pipe = Pipe()
    capture = Capture(pipe, path)
    with Harness(capture) as stack:
        stack.tx([DATAGRAM])
        assert list(packets(path)) == []
        capture.flush()
        assert len(list(packets(path))) == 1
        stack.tx([DATAGRAM])
        stack.rx(now=2_000_000_000)
        assert len(list(packets(path))) == 2
    capture.flush()


def test_a_full_disk_ends_the_recording_not_the_link():
    pipe = Pipe()
    with open("/dev/full", "wb", buffering=0) as full:
        capture = Capture(pipe, full)
    with Harness(capture) as stack:
        stack.tx([DATAGRAM])
        with pytest.raises(OSError, match="recording ended"):
            capture.flush()
        stack.tx([DATAGRAM])
        assert len(pipe.drain()) == 2


def test_files_by_descriptor_and_wrong_ones(tmp_path):
    with open(tmp_path / "f", "wb") as f, Capture(Pipe(), f.fileno()):
        pass
    assert os.path.getsize(tmp_path / "f") == 60
    with pytest.raises(FileNotFoundError):
        Capture(Pipe(), tmp_path / "no" / "where")
    with pytest.raises(OSError, match="cannot write"):
        Capture(Pipe(), 12345)
    with pytest.raises(ValueError, match="snaplen"):
        Capture(Pipe(), tmp_path / "g", snaplen=1)
    link = Pipe()
    link.close()
    with pytest.raises(ValueError, match="closed"):
        Capture(link, tmp_path / "h")


def test_capture_of_an_impaired_wire_and_the_other_way_round(tmp_path):
    near, far = tmp_path / "near", tmp_path / "far"
    pipe = Pipe()
    wire = Capture(Impair(Capture(pipe, far), loss=1), near)
    with Harness(wire) as stack:
        stack.tx([DATAGRAM])
    assert (len(list(packets(near))), len(list(packets(far)))) == (1, 0)
