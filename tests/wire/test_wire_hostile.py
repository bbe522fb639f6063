"""Attacks on a stack, each while an established transfer goes on through the same interface (see bystander)."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from bystander import FRIEND, FRIEND_PORT, SERVICE, Attacked, Reply, raw_ip, raw_tcp
from oracle import OUR_MAC, OURS

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32


@pytest.fixture
def victim() -> Iterator[Attacked]:
    with Attacked() as a:
        a.step()
        yield a


@pytest.fixture
def dice() -> random.Random:
    return random.Random(2)


def ts(value: int) -> bytes:
    return struct.pack("!BBBBII", 1, 1, 8, 10, value, 0)


class Edge:
    """What the victim says to its friend: an attacker who could see this would not be blind."""

    def __init__(self, a: Attacked) -> None:
        self.rcv_nxt = self.snd_nxt = 0
        a.watch = self.see
        a.step()

    def see(self, packet: bytes) -> None:
        r = Reply(packet)
        self.rcv_nxt = r.ack
        self.snd_nxt = (r.seq + len(r.data)) & 0xFFFFFFFF


# --- H1: blind injection into the transfer itself -----------------------------------------------------------------
@pytest.mark.parametrize("flags", [RST, RST | ACK, SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, 0])
def test_blind_segments_swept_over_the_numbers(victim: Attacked, dice: random.Random, flags: int) -> None:
    edge = Edge(victim)
    for i in range(3000):
        # Half of them well inside the window, where only the exact number may do harm.
        seq = edge.rcv_nxt + 1 + dice.randrange(60_000) if i % 2 else dice.getrandbits(32)
        if seq == edge.rcv_nxt:
            continue
        data = b"evil" if not flags & (RST | SYN) else b""
        victim.attack(raw_tcp(FRIEND_PORT, SERVICE, flags, seq, edge.snd_nxt + (1 << 30) + i, data, src=FRIEND))
    assert victim.net.stats().get("tcp.challenge_ack", 0) < 3000


# --- H2: ICMP about the transfer ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "code", "detail"), [
    (3, 0, 0), (3, 1, 0), (3, 2, 0), (3, 3, 0), (3, 13, 0), (11, 0, 0), (12, 0, 20), (4, 0, 0), (3, 4, 68), (3, 4, 576),
    (3, 4, 0), (3, 4, 1499), (3, 4, 65535), (5, 0, 0),
])
def test_blind_icmp_errors(victim: Attacked, dice: random.Random, kind: int, code: int, detail: int) -> None:
    edge = Edge(victim)
    mss = victim.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    for _ in range(500):
        seq = edge.snd_nxt + 1 + dice.randrange(1 << 31)
        quoted = raw_tcp(SERVICE, FRIEND_PORT, ACK, seq, src=OURS, dst=FRIEND, data=b"x" * 1460)[:28]
        body = struct.pack("!BBHI", kind, code, 0, detail) + quoted[:2] + b"\x05\xdc" + quoted[4:]
        victim.attack(icmp(body))
    assert victim.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == mss


def icmp(body: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return raw_ip(body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:], 1)


def test_source_quench_changes_nothing(victim: Attacked) -> None:
    """RFC 6633: even one that knows the numbers."""
    edge = Edge(victim)
    before = victim.net.stats().get("icmp.ignored", 0)
    for _ in range(200):
        quoted = raw_tcp(SERVICE, FRIEND_PORT, ACK, edge.snd_nxt - 1, src=OURS, dst=FRIEND)[:28]
        victim.attack(icmp(struct.pack("!BBHI", 4, 0, 0, 0) + quoted))
    victim.step()
    assert victim.net.stats()["icmp.ignored"] == before + 200


# --- H3: PAWS -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["outside", "bad ack"])
def test_timestamps_of_the_blind_poison_nothing(victim: Attacked, dice: random.Random, where: str) -> None:
    edge = Edge(victim)
    for _ in range(2000):
        seq = edge.rcv_nxt - 1 if where == "bad ack" else edge.rcv_nxt + (1 << 28) + dice.getrandbits(30)
        ack = edge.snd_nxt + (1 << 30)
        victim.attack(raw_tcp(FRIEND_PORT, SERVICE, ACK, seq, ack, b"??", options=ts(dice.getrandbits(32)), src=FRIEND))


# --- H4, H5 -------------------------------------------------------------------------------------------------------
def test_a_flood_of_syns_from_everywhere(victim: Attacked, dice: random.Random) -> None:
    for _ in range(20_000):
        src = f"{dice.randrange(11, 126)}.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(1, 255)}"
        victim.attack(raw_tcp(dice.randrange(1, 65536), 80, SYN, dice.getrandbits(32), options=b"\2\4\5\xb4", src=src))
    assert len(victim.net.sockets()) < 2000


def test_land(victim: Attacked) -> None:
    for port in (80, SERVICE, 9):
        for flags in range(64):
            victim.attack(raw_tcp(port, port, flags, 1, 1, src=OURS))
    assert victim.replies() == []


# --- H6, H7: fragments --------------------------------------------------------------------------------------------
MF = 0x2000


def test_teardrop_and_its_kin(victim: Attacked, dice: random.Random) -> None:
    for i in range(500):
        victim.attack(raw_ip(bytes(36), 17, ident=i, frag=MF), raw_ip(bytes(4), 17, ident=i, frag=3))        # teardrop
        victim.attack(raw_ip(bytes(800), 17, ident=i + 1000, frag=MF), raw_ip(bytes(800), 17, ident=i + 1000, frag=50))
        victim.attack(raw_ip(b"", 17, ident=i + 2000, frag=MF), raw_ip(b"", 17, ident=i + 2000, frag=8))     # empty
        victim.attack(raw_ip(bytes(8), 6, ident=i + 3000, frag=MF), raw_ip(bytes(8), 6, ident=i + 3000, frag=1))
        victim.attack(raw_ip(bytes(100), 17, ident=i + 4000, frag=100))                           # last without first
        victim.attack(raw_ip(bytes(dice.randrange(1, 1400)), dice.choice((1, 6, 17)), ident=i % 50 + 5000,
                             frag=dice.choice((0, MF)) | dice.randrange(8192)))
    victim.replies()
    assert victim.net.stats()["ip.frag_overlap"] >= 500
    assert victim.net.stats()["ip.frag_bad"] >= 1500


def test_a_flood_of_first_fragments(victim: Attacked) -> None:
    """FragmentSmack (CVE-2018-5391)."""
    for i in range(65_536):
        victim.attack(raw_ip(bytes(8), 17, ident=i, frag=MF))
    assert victim.net.stats()["ip.frag_limit"] > 60_000


def test_one_datagram_in_the_smallest_pieces(victim: Attacked) -> None:
    for rounds in range(4):
        for i in reversed(range(8190)):
            victim.attack(raw_ip(bytes(8), 17, ident=rounds, frag=MF | i))


def test_ping_of_death(victim: Attacked) -> None:
    for i in range(200):
        victim.attack(raw_ip(bytes(1400), 1, ident=i, frag=MF))
        victim.attack(raw_ip(bytes(1400), 1, ident=i, frag=8191), raw_ip(bytes(8), 1, ident=i, frag=8191 | MF),
                      raw_ip(bytes(1400), 1, ident=i, frag=8189))
    assert victim.replies() == []
    assert victim.net.stats()["ip.frag_bad"] >= 400


# --- H9: tiny segments --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["up", "down", "random"])
def test_tiny_segments_out_of_order(victim: Attacked, dice: random.Random, order: str) -> None:
    """SegmentSmack (CVE-2018-5390)."""
    conn, iss = victim.open(5000)
    where = list(range(3, 30_000, 2))
    if order == "down":
        where.reverse()
    elif order == "random":
        dice.shuffle(where)
    for at in where:
        victim.attack(raw_tcp(5000, 80, ACK, 1000 + at, iss + 1, b"x"))
    victim.attack(raw_tcp(5000, 80, ACK, 1001, iss + 1, b"y" * 1400))
    victim.step()
    data = conn.recv(10_000)                    # what came first is kept, and what could not be is sent again
    assert len(data) >= 1400
    assert set(data) == set(b"xy")
    conn.close()


# --- H10: ACKs that lie -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["optimistic", "division", "duplicates", "unsent"])
def test_acks_that_lie(victim: Attacked, how: str) -> None:
    conn, iss = victim.open(5001)
    conn.send(b"z" * 2_000_000)
    una = iss + 1
    got = 0
    for i in range(400):
        end = una
        for r in map(Reply, victim.replies()):
            if r.dport == 5001 and r.data:
                got += len(r.data)
                end = max(end, r.seq + len(r.data), key=lambda n: (n - una) & 0xFFFFFFFF)
        if how == "duplicates":
            for _ in range(10):
                victim.attack(raw_tcp(5001, 80, ACK, 1001, una))
            continue
        if how == "unsent":
            victim.attack(raw_tcp(5001, 80, ACK, 1001, end + 5_000_000 + i))
            continue
        if how == "division":
            for part in range(10):
                victim.attack(raw_tcp(5001, 80, ACK, 1001, una + (end - una) * part // 10))
        else:
            victim.attack(raw_tcp(5001, 80, ACK, 1001, min(end + 1460, end + got)))     # more than came
        victim.attack(raw_tcp(5001, 80, ACK, 1001, end))
        una = end
    if how in ("duplicates", "unsent"):
        assert got < 100_000
    abort(conn)


def abort(conn: socket.socket) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


# --- H11: those who never read ------------------------------------------------------------------------------------
def test_a_thousand_closed_windows_are_bounded_in_memory_and_in_time() -> None:
    """Sockstress, slow readers (RFC 6429)."""
    with Attacked(held=96 << 20) as victim:     # a block of 64 KB each
        conns = []
        for i in range(1000):
            conn, iss = victim.open(6000 + i, window=0)
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            with contextlib.suppress(BlockingIOError):
                conn.send(b"z" * 100_000)
            conns.append((conn, iss, 6000 + i))
        for _ in range(60):
            victim.step(0.5)
            for _conn, iss, port in conns:
                victim.attack(raw_tcp(port, 80, ACK, 1001, iss + 1, window=0))
        timed_out = 0
        for conn, _, _ in conns:
            timed_out += conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT
            conn.close()
        assert timed_out == 1000
        victim.replies()


# --- H12, H15: options and headers --------------------------------------------------------------------------------
def odd_options(dice: random.Random) -> bytes:
    known = [b"\2\4\5\xb4", b"\2\4\0\0", b"\2\4\0\x30", b"\3\3\xff", b"\3\3\7", b"\4\2", b"\1", b"\0",
             ts(dice.getrandbits(32)),
             b"\x05\x0a" + dice.randbytes(8), b"\x05\x22" + dice.randbytes(32), b"\x13\x12" + bytes(16), b"\x1d\4\1\1",
             b"\2\0", b"\2\1", b"\2\xff", b"\x05\2", b"\x08\x0b", dice.randbytes(dice.randrange(1, 12))]
    raw = b"".join(dice.choice(known) for _ in range(dice.randrange(1, 6)))[:40]
    return raw + bytes(-len(raw) % 4)


def test_odd_options_in_syns_and_in_a_connection(victim: Attacked, dice: random.Random) -> None:
    conn, iss = victim.open(5002, options=b"\2\4\5\xb4\4\2\1\1" + ts(1))
    at = 1001
    for i in range(4000):
        victim.attack(raw_tcp(7000 + i, 80, SYN, 1, options=odd_options(dice)))
        victim.attack(raw_tcp(5002, 80, ACK, at + dice.randrange(-5, 50), iss + 1, dice.randbytes(dice.randrange(3)),
                              options=odd_options(dice)))
    abort(conn)


@pytest.mark.parametrize("offset", range(16))
def test_every_data_offset(victim: Attacked, offset: int) -> None:
    before = victim.net.stats().get("tcp.short", 0)
    for flags in range(64):
        victim.attack(raw_tcp(7000, 80, flags, 1, 1, bytes(12), offset=offset))
        victim.attack(raw_tcp(FRIEND_PORT, SERVICE, flags & ~RST, 1, 1, bytes(12), offset=offset, src=FRIEND))
    victim.step()
    if offset < 5 or offset > 8:
        assert victim.net.stats()["tcp.short"] == before + 128


def test_bad_checksums(victim: Attacked, dice: random.Random) -> None:
    edge = Edge(victim)
    for i in range(1, 2000):
        victim.attack(raw_tcp(FRIEND_PORT, SERVICE, RST if i % 2 else ACK, edge.rcv_nxt, edge.snd_nxt,
                              b"evil" if i % 2 == 0 else b"", src=FRIEND, spoil=dice.randrange(1, 65535)))
    victim.step()
    assert victim.net.stats()["tcp.bad_checksum"] == 1999


@pytest.mark.parametrize("pointer", [0, 1, 2, 4, 5, 65535])
def test_urgent_pointers_anywhere(victim: Attacked, pointer: int) -> None:
    conn, iss = victim.open(5003)
    for i in range(100):
        victim.attack(raw_tcp(5003, 80, ACK | URG | PSH, 1001 + 4 * i, iss + 1, b"abcd", urgent=pointer))
    victim.step()
    assert conn.recv(1000) == b"abcd" * 100
    conn.close()


# --- H14: IP ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("src", [OURS, "10.9.0.255", "255.255.255.255", "224.0.0.5", "0.0.0.0", "127.0.0.1",
                                 "240.1.1.1"])
def test_sources_that_are_nobody(victim: Attacked, src: str) -> None:
    for flags in range(64):
        victim.attack(raw_tcp(7000, 80, flags, 1, 1, src=src), raw_tcp(7000, 9, flags, 1, 1, src=src))
        victim.attack(raw_ip(struct.pack("!HHHH", 9, 9, 8, 0), 17, src=src), icmp_echo(src))
    assert victim.replies() == []


def icmp_echo(src: str) -> bytes:
    return raw_ip(b"\x08\0\xf7\xff\0\0\0\0", 1, src=src)


@pytest.mark.parametrize("dst", ["255.255.255.255", "10.9.0.255", "224.0.0.1", "224.0.0.251", "10.9.0.200"])
def test_segments_to_everybody(victim: Attacked, dst: str) -> None:
    for flags in range(64):
        victim.attack(raw_tcp(7000, 80, flags, 1, 1, dst=dst), raw_tcp(7000, 9, flags, 1, 1, dst=dst))
    assert victim.replies() == []


@pytest.mark.parametrize("options", [b"\x83\7\4\1\2\3\4\0", b"\x89\7\4\1\2\3\4\0", b"\x83\3\4\0", b"\7\7\4\1\2\3\4\0",
                                     b"\7\0\0\0", b"\xff\xff\xff\xff", b"\x44\4\5\0", b"\x94\4\0\0"])
def test_ip_options(victim: Attacked, options: bytes) -> None:
    for i in range(300):
        inner = raw_tcp(7000 + i, 80, SYN, 1)[20:]
        victim.attack(raw_ip(inner, 6, options=options))
    syn_acks = [r for r in victim.replies() if r[9] == 6]
    assert (len(syn_acks) > 0) == (options[0] not in (0x83, 0x89, 0xFF) and options[:2] != b"\7\0")


def test_lengths_versions_and_sums_that_lie(victim: Attacked, dice: random.Random) -> None:
    good = raw_tcp(7000, 80, SYN, 1, data=bytes(40))
    for _ in range(3000):
        bad = bytearray(good)
        bad[dice.choice((0, 2, 3, 8, 10, 11))] = dice.randrange(256)
        victim.attack(bytes(bad[:dice.randrange(1, len(bad) + 1)]))


# --- H16: windows -------------------------------------------------------------------------------------------------
def test_windows_that_shrink_close_and_overflow(victim: Attacked, dice: random.Random) -> None:
    conn, iss = victim.open(5004, options=b"\2\4\5\xb4\3\3\x0e\0")
    conn.send(b"z" * 1_000_000)
    una = iss + 1
    for _ in range(600):
        for r in map(Reply, victim.replies()):
            if r.dport == 5004 and r.data and r.seq == una & 0xFFFFFFFF and dice.random() < 0.7:
                una += len(r.data)
        victim.attack(raw_tcp(5004, 80, ACK, 1001, una, window=dice.choice((0, 0, 1, 2, 65535, dice.randrange(65536)))))
        if dice.random() < 0.2:
            victim.step(0.3)
    abort(conn)


# --- H17: connections that do not end -----------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "TIME-WAIT"])
def test_pile_up(victim: Attacked, state: str) -> None:
    held = []
    for i in range(1000):
        conn, iss = victim.open(8000 + i)
        if state == "CLOSE-WAIT":
            victim.attack(raw_tcp(8000 + i, 80, FIN | ACK, 1001, iss + 1))
            held.append(conn)
            continue
        conn.close()
        if state == "FIN-WAIT-2":
            victim.attack(raw_tcp(8000 + i, 80, ACK, 1001, iss + 2))
        elif state == "TIME-WAIT":
            victim.attack(raw_tcp(8000 + i, 80, FIN | ACK, 1001, iss + 2))
    victim.step()
    assert sum(s["state"] == state.replace("-", "_").replace("_WAIT_", "_WAIT") or s["state"] == state
               for s in victim.net.sockets()) in range(990, 1001)
    for conn in held:
        conn.close()            # now LAST-ACK, and the peer says nothing any more
    for _ in range(120):
        victim.step(2)          # orphans are given up after eight retransmissions, the others after a minute
    assert len(victim.net.sockets()) <= 3
    victim.replies()


def test_time_wait_is_not_assassinated(victim: Attacked) -> None:
    """RFC 1337: an old duplicate in TIME-WAIT draws an ACK, and the reset that answers it is ignored."""
    conn, iss = victim.open(5005)
    conn.close()
    victim.attack(raw_tcp(5005, 80, FIN | ACK, 1001, iss + 2))
    victim.replies()
    victim.attack(raw_tcp(5005, 80, ACK, 900, iss + 2, b"old"))
    [answer] = map(Reply, victim.replies())
    assert (answer.flags, answer.ack) == (ACK, 1002)
    victim.attack(raw_tcp(5005, 80, RST, answer.ack))
    victim.step()
    assert any(s["state"] == "TIME-WAIT" for s in victim.net.sockets())


# --- H20: frames --------------------------------------------------------------------------------------------------
def test_odd_frames(dice: random.Random) -> None:
    with Attacked(layer=2) as victim:
        victim.step()
        ours = bytes.fromhex(OUR_MAC.replace(":", ""))
        packet = raw_tcp(7000, 80, SYN, 1)
        for kind in [b"\x81\0\0\5\x08\0", b"\x88\xa8\0\5\x81\0\0\6\x08\0", b"\0\x2e", b"\x05\xdc", b"\x86\xdd",
                     b"\x88\xcc", b"\xff\xff",
                     b"\0\0", b"\x08\6", b"\x08\0"]:
            for dst in (ours, b"\xff" * 6, b"\1\0\x5e\0\0\1", b"\2" * 6):
                frame = dst + b"\2\0\0\0\0\1" + kind + packet
                victim.attack(frame, frame + bytes(9000), frame + bytes(70_000))
                for n in range(0, 60, 3):
                    victim.attack(frame[:n] or b"\0")
        for _ in range(3000):
            victim.attack(dice.randbytes(dice.randrange(1, 100)))


# --- H22: two who disagree ----------------------------------------------------------------------------------------
def test_an_ack_storm_is_damped(victim: Attacked) -> None:
    """The attacker reflects every segment of one connection to the victim: numbers never fit (RFC 5961 7)."""
    conn, iss = victim.open(5006)
    victim.replies()
    answers = 0
    victim.attack(raw_tcp(5006, 80, ACK, 5_000_000, iss + 1))
    for _ in range(500):
        for r in map(Reply, victim.replies()):
            if r.dport == 5006:
                answers += 1
                victim.attack(raw_tcp(5006, 80, ACK, 5_000_000, r.seq + 7))
        victim.step(0.001)
    assert 0 < answers <= 20
    conn.close()


def damaged() -> None:
    with Attacked() as a:
        a.step()
        a.sockets[1].send(b"not in the pattern")
        a.step()


def standing_still() -> None:
    with Attacked() as a:
        a.step()
        a.carry = lambda: None


@pytest.mark.parametrize("harm", [damaged, standing_still])
def test_the_fixture_notices(harm: Callable[[], None]) -> None:
    with pytest.raises(AssertionError, match="the transfer"):
        harm()
