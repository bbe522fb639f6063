"""TCP through sockets, with scapy at the other end: that the bytes on the wire say what RFC 9293 wants."""

import errno
import itertools
import random

import pytest
from oracle import OURS, PEER, ip
from scapy.layers.inet import TCP, in4_chksum
from scapy.packet import Raw
from tcp_peer import PORT, Peer, opened_by_peer, opened_by_us


@pytest.fixture
def listener(wire):
    with wire.net.create_server((OURS, PORT)) as s:
        yield s


@pytest.fixture(params=["accepted", "connected"])
def peer(request, wire, listener):
    p = opened_by_peer(wire, listener) if request.param == "accepted" else opened_by_us(wire)
    yield p
    p.reset()


# --- handshake

def test_options_of_our_syn(wire):
    with wire.net.socket() as s:
        s.connect_ex((PEER, PORT))
        [syn] = wire.drain()
        options = dict(syn[TCP].options)
        assert options["MSS"] == 1460
        assert 0 <= options["WScale"] <= 14
        assert options["Timestamp"][1] == 0
        assert "SAckOK" in options
        assert syn[TCP].window == 65535         # never scaled in a SYN


@pytest.mark.parametrize(("options", "ours"), [
    ([], {"MSS"}),
    ([("MSS", 1460)], {"MSS"}),
    ([("MSS", 1460), ("SAckOK", b"")], {"MSS", "SAckOK"}),
    ([("MSS", 1460), ("WScale", 7)], {"MSS", "WScale"}),
    ([("Timestamp", (5, 0)), ("MSS", 1460)], {"MSS", "Timestamp"}),
    ([(254, b"abcd"), ("MSS", 1460), (253, b"")], {"MSS"}),
    ([("WScale", 255), ("Timestamp", (1, 0)), ("SAckOK", b""), ("MSS", 65535)],
     {"MSS", "WScale", "Timestamp", "SAckOK"}),
])
def test_options_are_answered_in_kind(wire, listener, options, ours):
    [answer] = wire.ask(Peer(wire, 3000, PORT).segment("S", 0, options=options))
    assert {name for name, _ in answer[TCP].options if name not in ("NOP", "EOL")} == ours
    if "Timestamp" in ours:
        assert dict(answer[TCP].options)["Timestamp"][1] == dict(options)["Timestamp"][0]


@pytest.mark.parametrize("raw", [
    b"\x02\x00\x05\xb4", b"\x02\x01\x05\xb4", b"\x02\xff\x05\xb4", b"\x01\x01\x01\x02", b"\x02\x03\x05\x00",
    b"\x03\x00\x00\x00", b"\x08\x0b\x00\x00", b"\x05\x02\x00\x00", b"\x1e\x01\x00\x00",
])
def test_options_that_lie_about_their_length(wire, listener, raw):
    """No answer, or an answer as if the rest were not there; and never worse."""
    segment = bytearray(bytes(TCP(sport=3001, dport=PORT, flags="S", seq=7, dataofs=6, chksum=0)) + raw)
    packet = ip(Raw(bytes(segment)), proto=6)
    segment[16:18] = in4_chksum(6, packet, bytes(segment)).to_bytes(2, "big")
    answers = wire.ask(ip(Raw(bytes(segment)), proto=6))
    assert len(answers) <= 1
    p = opened_by_peer(wire, listener)
    assert p.ask("A", 1, 1, b"alive")
    p.reset()


@pytest.mark.parametrize("mss", [0, 1, 48, 87, 88, 536])
def test_tiny_segment_sizes_are_clamped(wire, listener, mss):
    """RFC 9293 3.7.1 has no lower bound; segments of nothing would be a denial of service (CVE-2019-11479)."""
    p = opened_by_peer(wire, listener, [("MSS", mss)])
    p.sock.send(b"x" * 3000)
    sizes = [len(data) for _, _, _, data in p.drain()]
    if mss == 0:
        assert max(sizes) == 536            # taken as none: the default of RFC 9293 3.7.1
    else:
        assert min(mss, 8) <= max(sizes) <= max(mss, 88)
    p.reset()


def test_syn_ack_is_repeated(wire, listener):
    p = Peer(wire, 3002, PORT)
    [answer] = wire.ask(p.segment("S", 0))
    again = wire.after(3.5)
    assert [a[TCP].seq for a in again] == [answer[TCP].seq] * 2          # after 1 s and 3 s


@pytest.mark.parametrize("flags", ["SF", "SR", "SRF", "", "F", "P", "U", "FPU"])
def test_a_listener_drops_what_means_nothing(wire, listener, flags):
    assert Peer(wire, 3003, PORT).ask(flags, 0) == []


def test_land(wire, listener):
    wire.dropped(ip(TCP(sport=PORT, dport=PORT, flags="S"), src=OURS), ip_bad_source=1)


@pytest.mark.parametrize("dst", ["10.9.0.255", "255.255.255.255"])
def test_broadcasts(wire, listener, dst):
    wire.dropped(ip(TCP(dport=PORT, flags="S"), dst=dst), tcp_broadcast=1)


def test_a_bad_checksum(wire, listener):
    wire.dropped(ip(TCP(dport=PORT, flags="S", chksum=0x1234)), tcp_bad_checksum=1)


@pytest.mark.parametrize("raw", [b"", b"\0" * 19, bytes(12) + b"\x40" + bytes(7), bytes(12) + b"\x60" + bytes(7)])
def test_short_segments(wire, raw):
    wire.dropped(ip(Raw(raw), proto=6), tcp_short=1)


def test_closed_ports_reset_as_they_should(wire):
    """RFC 9293 3.10.7.1: seq=SEG.ACK, or ack=SEG.SEQ+LEN; never in reply to a reset."""
    p = Peer(wire, 3004, 81, iss=1000)
    assert p.ask("S", 0) == [("RA", 0, 1, b"")]
    assert p.ask("A", 5, 77) == [("R", 77, -1000 & 0xFFFFFFFF, b"")]
    assert p.ask("SF", 0, data=b"abc") == [("RA", 0, 5, b"")]
    assert p.ask("R", 0) == p.ask("RA", 0, 5) == []


# --- data

def test_data_both_ways(peer):
    assert peer.ask("PA", 1, 1, b"hello") == [("A", 1, 6, b"")]
    assert peer.sock.recv(100) == b"hello"
    peer.sock.send(b"answer")
    assert peer.drain() == [("PA", 1, 6, b"answer")]
    assert peer.ask("A", 6, 7) == []
    assert peer.after(10) == []


def test_any_order_gives_the_same_bytes(wire, listener):
    text = bytes(k * 31 & 255 for k in range(5000))
    rnd = random.Random(11)
    for _ in range(20):
        p = opened_by_peer(wire, listener)
        cuts = sorted(rnd.sample(range(1, 5000), 12))
        parts = [(a, text[a:b + rnd.choice((0, 0, 30))]) for a, b in itertools.pairwise([0, *cuts, 5000])]
        parts += rnd.sample(parts, 4)
        rnd.shuffle(parts)
        for at, data in parts:
            p.ask("A", 1 + at, 1, data)
        assert p.sock.recv(10_000) == text
        p.reset()


def test_sack_blocks_and_dsack(wire, listener):
    p = opened_by_peer(wire, listener, [("MSS", 1460), ("SAckOK", b"")])

    def blocks(flags, seq, data):
        [answer] = wire.ask(p.segment(flags, seq, 1, data))
        edges = dict(answer[TCP].options).get("SAck", ())
        return answer[TCP].ack - p.iss & 0xFFFFFFFF, [
            (a - p.iss & 0xFFFFFFFF, b - p.iss & 0xFFFFFFFF) for a, b in zip(edges[::2], edges[1::2], strict=True)]

    assert blocks("A", 11, b"b" * 10) == (1, [(11, 21)])
    assert blocks("A", 31, b"d" * 10) == (1, [(31, 41), (11, 21)])
    assert blocks("A", 51, b"f" * 10) == (1, [(51, 61), (31, 41), (11, 21)])
    assert blocks("A", 31, b"d" * 10)[1][0] == (31, 41)          # a duplicate is reported first (RFC 2883)
    assert blocks("A", 1, b"a" * 10)[0] == 21
    p.reset()


def test_data_beyond_the_window_is_not_taken(peer, wire):
    before = wire.net.stats().get("tcp.out_of_window", 0)
    [(flags, _, ack, _)] = peer.ask("A", 200_000_000, 1, b"far away")
    assert (flags, ack) == ("A", 1)
    assert wire.net.stats()["tcp.out_of_window"] == before + 1


def test_retransmission(peer):
    peer.sock.send(b"lost")
    assert peer.drain() == [("PA", 1, 1, b"lost")]
    assert ("PA", 1, 1, b"lost") in peer.after(2)
    assert peer.ask("A", 1, 5) == []
    assert peer.after(30) == []


def test_a_zero_window_is_probed(peer):
    peer.ask("A", 1, 1, window=0)
    peer.sock.send(b"x" * 100)
    assert peer.drain() == []
    probes = peer.after(10)
    assert len(probes) >= 2
    assert all(len(p[3]) <= 1 for p in probes)
    assert b"".join(d for *_, d in peer.ask("A", 1, 1, window=1000)) == b"x" * 100


def test_segments_are_no_larger_than_the_peer_said(wire, listener):
    p = opened_by_peer(wire, listener, [("MSS", 700), ("Timestamp", (9, 0))])
    p.sock.send(b"x" * 5000)
    assert max(len(d) for _, _, _, d in p.drain()) == 700 - 12
    p.reset()


# --- close

def test_the_peer_closes_first(peer):
    assert peer.ask("FA", 1, 1) == [("A", 1, 2, b"")]
    assert peer.sock.recv(1) == b""
    peer.sock.send(b"still")
    assert peer.drain()[0][3] == b"still"
    peer.sock.close()
    assert peer.drain() == [("FA", 6, 2, b"")]
    assert peer.ask("A", 2, 7) == []
    assert peer.ask("A", 2, 7)[0][0] == "R"          # nothing is left of it


def test_we_close_first(peer):
    peer.sock.shutdown(1)
    assert peer.drain() == [("FA", 1, 1, b"")]
    assert peer.ask("A", 1, 2) == []
    assert peer.ask("PA", 1, 2, b"more")[-1][2] == 5
    assert peer.sock.recv(10) == b"more"
    assert peer.ask("FA", 5, 2) == [("A", 2, 6, b"")]
    assert peer.ask("FA", 5, 2) == [("A", 2, 6, b"")]        # TIME-WAIT answers a repeated FIN
    assert peer.sock.recv(10) == b""


def test_simultaneous_close(peer):
    peer.sock.shutdown(1)
    assert peer.drain() == [("FA", 1, 1, b"")]
    assert peer.ask("FA", 1, 1) == [("A", 2, 2, b"")]
    assert peer.ask("A", 2, 2) == []
    assert peer.sock.recv(1) == b""


def test_simultaneous_open(wire):
    with wire.net.socket() as s:
        s.connect_ex((PEER, PORT))
        [syn] = wire.drain()
        p = Peer(wire, PORT, syn[TCP].sport)
        p.their_iss = syn[TCP].seq
        assert p.ask("S", 0) == [("SA", 0, 1, b"")]
        p.ask("SA", 0, 1)
        assert s.connect_ex((PEER, PORT)) in (0, errno.EISCONN)
        p.ask("PA", 1, 1, b"both")
        assert s.recv(10) == b"both"
        p.ask("R", 5, 1)


# --- robustness (T4, RFC 5961)

def test_only_the_exact_reset_resets(peer, wire):
    with wire.counts(tcp_challenge_ack=1, tcp_rst_bad=1):
        assert peer.ask("R", 1000) == [("A", 1, 1, b"")]
    with wire.counts(tcp_rst_bad=1):
        assert peer.ask("R", 200_000_000) == []
    with pytest.raises(BlockingIOError):
        peer.sock.recv(1)
    assert peer.ask("R", 1) == []
    with pytest.raises(ConnectionResetError):
        peer.sock.recv(1)


def test_a_syn_in_the_middle_is_challenged(peer, wire):
    for seq in (0, 1, 1000, 200_000_000):
        assert peer.ask("S", seq) == [("A", 1, 1, b"")], seq
    assert wire.net.stats()["tcp.challenge_ack"] == 4        # whatever its number
    assert peer.ask("PA", 1, 1, b"unharmed") == [("A", 1, 9, b"")]


def test_acks_of_what_was_never_sent(peer):
    for ack in (1000, -200_000_000):
        for _, seq, acked, data in peer.ask("A", 1, ack, b"evil"):
            assert (seq, acked, data) == (1, 1, b"")
    with pytest.raises(BlockingIOError):
        peer.sock.recv(1)


def test_challenges_are_limited(peer, wire):
    """RFC 5961 7, and not by a number that an observer could count on (CVE-2016-5696)."""
    answers = sum(len(peer.ask("S", 500)) for _ in range(2000))
    assert 0 < answers < 2000
    assert wire.net.stats()["tcp.challenge_limited"] == 2000 - answers


def test_a_flood_of_syns_harms_nobody(wire, listener):
    p = opened_by_peer(wire, listener)
    rnd = random.Random(3)
    for k in range(3000):
        wire.send(ip(TCP(sport=rnd.randrange(1024, 65536), dport=PORT, seq=rnd.getrandbits(32), flags="S"),
                     src=f"172.16.{k >> 8}.{k & 255}"))
        if k % 100 == 0:
            wire.drain()
    wire.drain()
    assert wire.net.memory()["held"] < 4 << 20
    assert p.ask("PA", 1, 1, b"alive")[-1][2] == 6
    assert p.sock.recv(10) == b"alive"
    p.reset()
