"""Segmentation and coalescing: scapy checks every wire packet, and joining what was cut gives what was whole."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from ustack._core.py.probe_wire import Bench

TCP4, USO = 1, 3
FIN, PSH, ACK, CWR = 1, 8, 16, 128
sizes = st.integers(1, 9000)
strategies = st.sampled_from([0, 14])


def tcp_packet(payload: bytes, l3: int = 0, flags: int = ACK, seq: int = 1000, options=(), **more) -> bytes:
    ip = {"src": "10.0.0.1", "dst": "10.0.0.2", "id": 7, "flags": "DF", **more}
    packet = IP(**ip) / TCP(sport=1, dport=2, seq=seq, ack=99, flags=flags, options=list(options)) / Raw(payload)
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet if l3 else packet)


def udp_packet(payload: bytes, l3: int = 0) -> bytes:
    packet = IP(src="10.0.0.1", dst="10.0.0.2", id=65530) / UDP(sport=1, dport=2) / Raw(payload)
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet if l3 else packet)


def rebuilt(packet: bytes, l3: int) -> bytes:
    """The packet with all lengths and checksums as scapy computes them."""
    whole = IP(packet[l3:])
    for layer in (whole, whole[TCP] if TCP in whole else whole[UDP]):
        del layer.chksum
    del whole.len
    return packet[:l3] + bytes(whole)


@st.composite
def cut(draw, length: int) -> list[int]:
    return sorted(set(draw(st.lists(st.integers(1, max(length - 1, 1)), max_size=6))))


@given(st.data(), st.integers(0, 20000), sizes, strategies, st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_tcp_segments(data, length: int, mss: int, l3: int, timestamps: bool, sums: bool):
    assume(length // mss < 500)
    payload = bytes(i * 7 & 255 for i in range(length))
    options = [("NOP", None), ("NOP", None), ("Timestamp", (5, 6))] if timestamps else []
    whole = tcp_packet(payload, l3, FIN | PSH | ACK | CWR, 2**32 - 3000, options)
    header = len(whole) - length
    bench = Bench()
    cuts = data.draw(cut(len(whole)))
    stride = mss if sums and length > 3000 and mss >= 1000 else 0
    out = bench.segment(whole, l3, mss, TCP4, cuts=cuts, header=header, stride=stride)
    assert len(out) == max((length + mss - 1) // mss, 1)
    for i, (packet, csum, _) in enumerate(out):
        assert csum == 1
        assert packet == rebuilt(packet, l3)
        ip, tcp = IP(packet[l3:]), IP(packet[l3:])[TCP]
        first, last = i == 0, i == len(out) - 1
        assert ip.id == 7 + i
        assert tcp.seq == (2**32 - 3000 + i * mss) % 2**32
        assert tcp.flags == ACK | CWR * first | (FIN | PSH) * last
        assert packet[:l3] == whole[:l3]
        assert dict(tcp.options).get("Timestamp") == ((5, 6) if timestamps else None)
    assert b"".join(packet[header:] for packet, _, _ in out) == payload
    assert bench.live == 0
    if stride:
        # The sums that send kept were enough, but for a last segment that is not a whole stride.
        assert bench.ledger().get("tx.checksum", 0) <= length % mss
    else:
        assert bench.ledger().get("tx.checksum", 0) == length


@given(st.integers(1, 20000), sizes, strategies)
@settings(max_examples=60, deadline=None)
def test_udp_segments(length: int, size: int, l3: int):
    assume(length // size < 500)
    payload = bytes(i * 7 & 255 for i in range(length))
    whole = udp_packet(payload, l3)
    out = Bench().segment(whole, l3, size, USO)
    for i, (packet, _, _) in enumerate(out):
        assert packet == rebuilt(packet, l3)
        assert IP(packet[l3:]).id == (65530 + i) % 65536
    assert b"".join(packet[l3 + 28:] for packet, _, _ in out) == payload


@given(st.integers(1, 5000), st.integers(500, 1460))
@settings(max_examples=40, deadline=None)
def test_partial_checksums_can_be_completed_later(length: int, mss: int):
    bench = Bench()
    whole = tcp_packet(bytes(length))
    for packet, csum, _ in bench.segment(whole, 0, mss, TCP4, keep_partial=True):
        assert csum == 2
        assert bench.checksum(packet, 20, 16) == rebuilt(packet, 0)


@given(st.data(), st.integers(0, 3000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_checksum_completion_leaves_other_holders_alone(data, length: int, shared: bool):
    bench = Bench()
    whole = udp_packet(bytes(length))
    partial, _, _ = bench.segment(whole, 0, 65000, USO, keep_partial=True)[0]
    cuts = data.draw(cut(len(partial)))
    assert bench.checksum(partial, 20, 6, cuts, shared) == rebuilt(partial, 0)
    assert bench.live == 0


def test_a_udp_checksum_of_0_is_sent_as_ffff():
    bench = Bench()
    packet = bytearray(udp_packet(b"\0\0"))
    rest = int.from_bytes(packet[26:28], "big")             # payload that makes the sum come out as 0xFFFF
    packet[28:30] = rest.to_bytes(2, "big")
    partial, _, _ = bench.segment(bytes(packet), 0, 65000, USO, keep_partial=True)[0]
    assert bench.checksum(partial, 20, 6)[26:28] == b"\xff\xff"


def test_facts_that_do_not_fit_are_refused():
    bench = Bench()
    whole = tcp_packet(bytes(4000))
    assert bench.segment(whole, 0, 1000, USO) == -22
    assert bench.segment(whole, 14, 1000, TCP4) == -22
    assert bench.segment(whole[:-1], 0, 1000, TCP4) == -22
    assert bench.segment(whole, 0, 10, TCP4, max=5) == -7
    assert bench.segment(udp_packet(bytes(4000)), 0, 1000, TCP4) == -22
    assert bench.checksum(whole, 4030, 16) == -22
    assert bench.live == 0


@given(st.binary(max_size=200), st.integers(0, 64), st.integers(1, 100), st.sampled_from([1, 3]))
def test_any_bytes_to_segment(data: bytes, l3: int, size: int, kind: int):
    assume(data)
    bench = Bench()
    bench.segment(data, l3, size, kind)
    bench.coalesce([(data, 0), (data, 1)], l3)
    assert bench.live == 0


@given(st.data(), st.integers(1, 40000), st.integers(200, 1460), strategies, st.sampled_from([0, 1]))
@settings(max_examples=80, deadline=None)
def test_coalescing_undoes_segmentation(data, length: int, mss: int, l3: int, csum: int):
    bench = Bench()
    whole = tcp_packet(bytes(i * 11 & 255 for i in range(length)), l3, PSH | ACK,
                       options=[("NOP", None), ("NOP", None), ("Timestamp", (5, 6))])
    cuts = data.draw(st.sampled_from([(), (l3 + 52,), (l3 + 52, l3 + 60)]))
    parts = [(packet, csum) for packet, _, _ in bench.segment(whole, l3, mss, TCP4)]
    out = bench.coalesce(parts, l3, cuts)
    assert len(out) == 1
    joined = out[0]
    assert rebuilt(joined["data"], l3) == rebuilt(whole, l3)
    assert IP(joined["data"][l3:]).len == len(whole) - l3
    if len(parts) > 1:
        assert (joined["gso_size"], joined["segs"], joined["csum"]) == (mss, len(parts), 1)
    if len(parts) > 1:
        summed = 0 if csum else sum(len(p) - l3 - 20 for p, _ in parts)
        assert bench.ledger().get("rx.checksum", 0) == summed
    assert bench.counters().get("offload.coalesce", 0) == len(parts) - 1
    assert bench.live == 0


def joined(packets: list[bytes], csum: int = 0) -> list[bytes]:
    return [p["data"] for p in Bench().coalesce([(p, csum) for p in packets], 0)]


def two(**second) -> list[bytes]:
    return [tcp_packet(bytes(100)), tcp_packet(bytes(100), **{"seq": 1100, **second})]


def test_what_is_joined_and_what_leaves_alone():
    assert len(joined(two())) == 1
    assert len(joined(two(flags=PSH | ACK))) == 1
    for second in ({"seq": 1101}, {"seq": 1000}, {"flags": FIN | ACK}, {"flags": ACK | 32}, {"tos": 1}, {"ttl": 63},
                   {"flags": ACK | 64}, {"options": [("Timestamp", (1, 2))]}, {"src": "10.0.0.3"}):
        assert joined(two(**second)) == two(**second), second


def test_a_bad_checksum_leaves_alone():
    good, bad = two()
    bad = bad[:-1] + b"\x01"
    assert joined([good, bad]) == [good, bad]
    assert len(joined([good, bad], csum=1)) == 1             # the link has vouched for it


def test_shorter_segments_end_a_run_and_longer_ones_begin_one():
    packets = [tcp_packet(bytes(n), seq=seq) for n, seq in ((100, 0), (100, 100), (50, 200), (100, 250), (200, 350))]
    assert [len(p) for p in joined(packets)] == [290, 140, 240]


def test_a_pure_acknowledgement_between_data_keeps_its_place():
    packets = [tcp_packet(bytes(100), seq=0), tcp_packet(b"", seq=100), tcp_packet(bytes(100), seq=100)]
    assert joined(packets) == packets


def test_flows_of_one_burst_are_joined_apart():
    packets = [tcp_packet(bytes(100), seq=i * 100, src=f"10.0.0.{flow}") for i in range(3) for flow in range(1, 7)]
    assert [len(p) for p in joined(packets)] == [340] * 6


def test_nothing_grows_beyond_an_ip_packet():
    packets = [tcp_packet(bytes(1460), seq=i * 1460) for i in range(60)]
    assert [len(p) for p in joined(packets, 1)] == [40 + 44 * 1460, 40 + 16 * 1460]


def test_padded_frames_leave_alone():
    frame = tcp_packet(b"x", 14) + bytes(5)
    after = tcp_packet(b"y", 14, seq=1001) + bytes(5)
    assert [p["data"] for p in Bench().coalesce([(frame, 0), (after, 0)], 14)] == [frame, after]


def test_flatten():
    bench = Bench()
    data = bytes(range(256)) * 20
    assert bench.flatten(data, (1, 100, 3000)) == (data, 1)
    assert bench.ledger() == {"tx.flatten": len(data)}
    assert bench.live == 0
