"""Hostile peers and strangers: no crash, bounded memory, counted, and the connection goes on."""

from __future__ import annotations

import random
import struct

import pytest
from tcp_script import MASK, PEER, STATES, US, Host, Peer, build, established, listening, options_bytes, syn_sent

FULL = b"x" * 1460


def still_works(p: Peer) -> None:
    """Data goes both ways."""
    b = p.conn.block()
    nxt, ours = (b["rcv_nxt"] - p.iss) & MASK, (b["snd_nxt"] - p.ours) & MASK
    p.recv_all()
    p.send("A", nxt, ours, b"fine", window=60000, tsval=None if p.tsval is None else p.tsval + 10)
    assert p.conn.recv() == b"fine"
    p.conn.send(b"indeed")
    assert any(s.data == b"indeed" for s in p.recv_all())


# --- H1, H19: blind injection -------------------------------------------------------------------------------------
def test_swept_resets_do_not_reset():
    p = established()
    for off in range(1, 60000, 100):
        p.send("R", 1 + off)
    assert len(p.recv_all()) <= 10
    still_works(p)


def test_challenge_acks_are_limited_globally_at_random():
    seen = set()
    for seed in range(5):
        host = Host(US, seed=seed, limit=100_000)
        p = listening(host=host)
        peers = []
        for i in range(300):
            q = Peer(host, p.conn, src=(PEER, 5000 + i))
            q.send("S", 0)
            q.ours = q.recv("SA").seq
            q.send("A", 1, 1)
            p.conn.accept()
            peers.append(q)
        for _ in range(10):
            for q in peers:
                q.send("S", 5)
        seen.add(len(p.recv_all()))
    assert len(seen) > 1
    assert all(500 <= n <= 1500 for n in seen)


def test_an_ack_of_what_was_never_sent_adds_no_text():
    """As on Linux: however large the window, what is older than the connection cannot be acknowledged."""
    p = established(window=60000)
    p.send("A", 1, -9, b"ghost")
    p.recv_challenge()
    assert p.counter("ack_old") == 1
    assert p.conn.recv() == -11
    p.send("A", 1, 0, b"our SYN")                   # what is acknowledged already may be so again
    assert p.conn.recv() == b"our SYN"
    p.conn.send(b"x" * 100)
    p.send("A", 8, 101)
    p.recv_all()
    p.send("A", 8, 1, b"late")
    assert p.conn.recv() == b"late"
    still_works(p)


def test_blind_data_with_an_impossible_ack():
    p = established()
    for ack in (5000, -(1 << 25), 1 << 30):
        p.send("A", 1, ack, b"evil")
    assert p.conn.recv() == -11
    still_works(p)


# --- H2: ICMP -----------------------------------------------------------------------------------------------------
HARD = [1, 2, 3, 4, 6, 7]


@pytest.mark.parametrize("kind", HARD)
def test_icmp_ends_only_what_is_being_opened(kind: int):
    p = syn_sent()
    p.host.icmp(kind, p.dst, p.src, p.ours + 1)             # not a number of ours
    assert p.conn.state == "SYN-SENT"
    p.host.icmp(kind, p.dst, p.src, p.ours)
    assert p.conn.state == "CLOSED"
    assert p.conn.error in (101, 113, 92, 111)
    q = established()
    q.conn.send(b"x")
    q.host.icmp(kind, (US, 80), (PEER, 4000), q.ours + 1)
    assert q.conn.state == "ESTABLISHED"
    assert q.conn.error == 0
    assert q.counter("icmp_error") == 0


def test_too_big_lowers_the_segment_size_if_it_is_credible():
    p = established(nodelay=1)
    p.conn.send(b"x" * 5840)
    assert len(p.recv_all()) == 4
    for seq in (0, 5841, 1 << 20):                          # not in flight
        p.host.icmp(5, (US, 80), (PEER, 4000), p.ours + seq, 1000)
    assert p.conn.info()["snd_mss"] == 1460
    p.host.icmp(5, (US, 80), (PEER, 4000), p.ours + 1, 1400)
    assert p.conn.info()["snd_mss"] == 1360
    again = p.recv_all()
    assert again
    assert max(len(s.data) for s in again) <= 1360
    assert (again[0].seq - p.ours) & MASK == 1
    p.host.icmp(5, (US, 80), (PEER, 4000), p.ours + 1, 68)  # absurd: no less than 552
    assert p.conn.info()["snd_mss"] == 512
    p.host.icmp(5, (US, 80), (PEER, 4000), p.ours + 1, 9000)
    assert p.conn.info()["snd_mss"] == 512


@pytest.mark.parametrize(("sent", "mtu", "credible"), [(100, 1000, False), (960, 1000, False), (961, 1000, True),
                                                       (5840, 1000, True), (5840, 1499, True), (5840, 1500, False)])
def test_nothing_in_flight_that_fits_can_have_been_too_big(sent: int, mtu: int, credible: bool):
    p = established(nodelay=1)
    p.conn.send(b"x" * sent)
    p.recv_all()
    p.host.icmp(5, (US, 80), (PEER, 4000), p.ours + 1, mtu)
    assert p.conn.info()["snd_mss"] == (mtu - 40 if credible else 1460)


# --- H4: SYN flood ------------------------------------------------------------------------------------------------
def test_syn_flood_is_bounded_and_harms_nobody():
    host = Host(US, limit=1_000_000)
    p = established(host=host)
    before = host.count
    for i in range(20_000):
        host.input(build(2, i * 77777, 0, src=(0x0B000000 + i, 1000 + i % 60000), options=options_bytes(1460)))
        if i % 500 == 0:
            host.drain()
    host.drain()
    assert host.count <= before + 1024
    still_works(p)


# --- H5: LAND -----------------------------------------------------------------------------------------------------
def test_land():
    p = listening()
    p.host.input(build(2, 5, 0, src=(US, 80)))
    p.recv_nothing()


# --- H8: SACK -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("blocks", [
    [(50000, 60000)], [(5000, 4000)], [(1, 1)], [(-5000, -4000)], [(1, 14602)], [(2000, 1 << 31)],
    [(1461, 2921), (2000, 4000), (1461, 2921), (1000, 9000)],
])
def test_odd_sack_blocks(blocks: list[tuple[int, int]]):
    p = established(sack=True, nodelay=1)
    p.conn.send(FULL * 10)
    p.recv_all()
    for _ in range(5):
        p.send("A", 1, 1, sack=blocks)
    info = p.conn.info()
    assert info["sacked"] <= info["unacked"]
    p.recv_all()
    p.send("A", 1, 14601)
    assert p.conn.info()["unacked"] == 0
    still_works(p)


def test_sack_fragments_at_tiny_mss_are_cheap_and_bounded():
    p = established(sack=True, mss=48, nodelay=1, window=65535, wscale=7)
    p.conn.send(b"x" * 200_000)
    for _ in range(8):                                      # open the congestion window
        p.recv_all()
        b = p.conn.block()
        p.send("A", 1, (b["snd_nxt"] - p.ours) & MASK)
    p.recv_all()
    b = p.conn.block()
    una, nxt = (b["snd_una"] - p.ours) & MASK, (b["snd_nxt"] - p.ours) & MASK
    for a in range(una + 48, nxt - 48, 96):
        p.send("A", 1, una, sack=[(a, a + 1)], egress=False)
    assert p.conn.info()["sacked"] <= 512
    p.host.egress()
    assert len(p.recv_all()) < 3000


def test_reneging_is_noticed_and_survived():
    p = established(sack=True, nodelay=1)
    p.conn.send(FULL * 10)
    p.recv_all()
    p.send("A", 1, 1, sack=[(1461, 14601)])
    p.recv_all()
    p.send("A", 1, 1461)                                    # and now it wants what it had
    assert p.counter("sack_reneged") == 1
    got = {(s.seq - p.ours) & MASK for s in p.recv_all()}
    for _ in range(20):
        b = p.conn.block()
        p.send("A", 1, min((b["snd_una"] - p.ours + 1460) & MASK, 14601))
        got |= {(s.seq - p.ours) & MASK for s in p.recv_all()}
    assert set(range(1461, 14601, 1460)) <= got


# --- H9: tiny segments --------------------------------------------------------------------------------------------
def test_tiny_out_of_order_segments_are_bounded():
    p = established(rcvbuf=1 << 20, wscale=5)
    for i in range(20_000):
        p.send("A", 3 + 2 * i, 1, b"x", egress=False)
    assert p.conn.block()["ooo_runs"] <= 1024
    assert p.conn.block()["held"] <= 2 * (1 << 20) + 65536
    assert p.counter("ooo_limit") > 0
    p.send("A", 1, 1, b"x" * 60000)
    assert p.conn.recv() == b"x" * 60000
    still_works(p)


def test_tiny_segments_in_order_do_not_pile_up_storage():
    p = established(rcvbuf=1 << 20)
    for i in range(20_000):
        p.send("A", 1 + i, 1, b"x", egress=False)
        if i % 100 == 0:
            p.host.egress()
            p.recv_all()
            assert p.conn.block()["held"] <= 4 * i + 65536 + 4096
    assert p.conn.recv() == b"x" * 20_000
    assert p.counter("collapsed") > 0


# --- H10: cheating with ACKs --------------------------------------------------------------------------------------
def test_spoofed_duplicates_inflate_nothing():
    p = established()
    p.conn.send(FULL * 100)
    p.recv_all()
    for _ in range(1000):
        p.send("A", 1, 1)
    b = p.conn.block()
    assert (b["snd_nxt"] - b["snd_una"]) & MASK <= 21 * 1460
    p.send("A", 1, (b["snd_nxt"] - p.ours) & MASK)
    assert p.conn.info()["unacked"] <= 30 * 1460


# --- H11, H16: windows --------------------------------------------------------------------------------------------
def test_peer_shrinks_its_window_below_what_is_in_flight():
    p = established()
    p.conn.send(FULL * 5)
    p.recv_all()
    p.send("A", 1, 1461, window=0)
    p.after(3)
    p.recv_all()
    p.send("A", 1, 7301, window=60000)
    still_works(p)


def test_largest_scaled_window_does_not_overflow():
    p = established(wscale=14, window=65535)
    p.send("A", 1, 1)
    assert p.conn.info()["snd_wnd"] == 65535 << 14
    still_works(p)


# --- H12, H15: headers --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", [0, 1, 4, 6, 15])
def test_data_offset_out_of_range(offset: int):
    p = established()
    p.send("A", 1, 1, offset=offset)
    assert p.counter("short") == 1
    p.recv_nothing()
    still_works(p)


def test_bad_checksum():
    p = established()
    p.send("A", 1, 1, b"data", spoil=1)
    p.recv_nothing()
    assert p.counter("bad_checksum") == 1
    still_works(p)


def test_reserved_bits_are_ignored():
    p = established()
    p.send("A", 1, 1, b"data", reserved=0b1110)
    assert p.conn.recv() == b"data"


@pytest.mark.parametrize("raw", [
    b"\x08\x0a\x00\x00", b"\x08\x02\x01\x01", b"\x05\x09" + bytes(10), b"\x05\x02\x00\x00", b"\x03\x00\x00\x00",
    b"\x13\x12" + bytes(18), b"\x1d\x10" + bytes(14), b"\xff" * 40, b"\x05\x22" + b"\xff" * 32 + b"\1\1",
])
def test_option_fuzz_in_a_connection(raw: bytes):
    p = established(sack=True)
    p.send("A", 1, 1, b"data", options=raw)
    assert p.conn.recv() == b"data"
    still_works(p)


def test_timestamps_on_some_segments_only():
    p = established(ts=100)
    p.send("A", 1, 1, b"with")
    p.send("A", 5, 1, b"out", options=b"")
    assert p.conn.recv() == b"without"


# --- H22: two who disagree ----------------------------------------------------------------------------------------
def test_desynchronised_stacks_fall_silent():
    a, b = Host(US, seed=1), Host(PEER, seed=2)
    listener = b.socket()
    listener.bind(PEER, 80)
    listener.listen()
    c = a.socket()
    c.connect(PEER, 80)
    while a.pump(b) or b.pump(a):
        pass
    local = c.local
    # The same four-tuple anew: a forgets, and connects with other numbers into b's established connection.
    c.abort()
    a.drain()
    d = a.socket()
    d.bind(*local)
    d.connect(PEER, 80)
    packets = 0
    while packets < 10_000:
        n = a.pump(b) + b.pump(a)
        if not n:
            break
        packets += n
    assert packets < 100


# --- H21: mutated segments ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", list(STATES))
def test_mutated_segments(state: str):
    dice = random.Random(state)
    for _ in range(60):
        p = STATES[state](**({"sack": True, "ts": 5} if state not in ("SYN-SENT", "LISTEN") else {}))
        b = p.conn.block()
        for _ in range(20):
            seq = (b["rcv_nxt"] + dice.choice((0, 0, 1, -1, 1000, dice.getrandbits(32)))) & MASK
            ack = (b["snd_nxt"] + dice.choice((0, 0, 1, -1, -1000, dice.getrandbits(32)))) & MASK
            options = dice.choice((b"", options_bytes(ts=(dice.getrandbits(32), dice.getrandbits(32))),
                                   dice.randbytes(4 * dice.randrange(11)),
                                   options_bytes(sack=[(ack + dice.randrange(-9, 9), ack + dice.randrange(99))])))
            packet = bytearray(build(dice.randrange(256), seq, ack, dice.randbytes(dice.choice((0, 1, 100, 1400))),
                                     dice.randrange(65536), options, p.src, p.dst))
            if dice.random() < 0.2:
                packet[dice.randrange(len(packet))] ^= 1 << dice.randrange(8)
            p.host.input(bytes(packet), csum=1)
            if dice.random() < 0.2:
                p.after(dice.random())
        p.host.drain()
        assert p.host.close() == 0


def test_truncated_packets():
    whole = build(0x12, 5, 6, b"data", options=options_bytes(1460, 7, True, (1, 2)))
    p = established()
    for n in range(len(whole)):
        p.host.input(whole[:n], csum=1)
        cut = bytearray(whole[: max(n, 20)])
        struct.pack_into("!H", cut, 2, len(cut))
        p.host.input(bytes(cut), csum=1)
    still_works(p)
