"""A vocabulary for TCP tests: a scripted peer that speaks in numbers relative to the two initial sequence numbers.

    p = established()                       one constructor per state of RFC 9293
    p.send("A", seq=1, ack=1, data=b"abc")  a segment from the peer; S F R P A U are the flags
    p.recv("A", ack=4)                      the next segment from us, compared in what is named
    p.recv_nothing()
    p.after(0.2)                            let time pass

Our side is ``p.conn`` (and ``p.host``); 0 is each side's SYN, 1 its first byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ustack._core.py.probe_tcp import Conn, Host

US, PEER = 0x0A000001, 0x0A000002
OUR_PORT, PEER_PORT = 80, 4000
PEER_ISS = 0x10000000
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}
MS, S = 1_000_000, 1_000_000_000
MASK = 0xFFFFFFFF
VERSION = 4                     # of IP; with 6 the address n stands for fd00::n (see probe_tcp.speak)


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def bits(flags: str) -> int:
    return sum(FLAGS[f] for f in flags)


def letters(value: int) -> str:
    return "".join(name for name, bit in FLAGS.items() if value & bit)


def options_bytes(
    mss: int | None = None,
    wscale: int | None = None,
    sackok: bool = False,
    ts: tuple[int, int] | None = None,
    sack: list[tuple[int, int]] | None = None,
) -> bytes:
    """Options as the wire has them; SACK edges are absolute here."""
    out = b""
    if mss is not None:
        out += struct.pack("!BBH", 2, 4, mss)
    if sackok:
        out += b"\4\2"
    if wscale is not None:
        out += struct.pack("!BBB", 3, 3, wscale)
    if ts is not None:
        out += struct.pack("!BBII", 8, 10, ts[0] & MASK, ts[1] & MASK)
    if sack:
        out += struct.pack("!BB", 5, 2 + 8 * len(sack))
        out += b"".join(struct.pack("!II", a & MASK, b & MASK) for a, b in sack)
    return out + b"\1" * (-len(out) % 4)


@dataclass
class Segment:
    """A segment as parsed from a packet; numbers absolute, ``window`` as in the header."""

    src: int
    dst: int
    sport: int
    dport: int
    seq: int
    ack: int
    flags: str
    window: int
    data: bytes
    mss: int | None = None
    wscale: int | None = None
    sackok: bool = False
    ts: tuple[int, int] | None = None
    sack: list[tuple[int, int]] = field(default_factory=list)
    gso: int = 0
    ttl: int = 64
    urgent: int = 0


def read_options(raw: bytes, s: Segment) -> None:
    i = 0
    while i < len(raw) and raw[i] != 0:
        kind = raw[i]
        if kind == 1:
            i += 1
            continue
        n = raw[i + 1]
        body = raw[i + 2 : i + n]
        if kind == 2:
            s.mss = struct.unpack("!H", body)[0]
        elif kind == 3:
            s.wscale = body[0]
        elif kind == 4:
            s.sackok = True
        elif kind == 5:
            edges = struct.unpack(f"!{len(body) // 4}I", body)
            s.sack = list(zip(edges[::2], edges[1::2], strict=True))
        elif kind == 8:
            tsval, tsecr = struct.unpack("!II", body)
            s.ts = (tsval, tsecr)
        i += n


def address(number: int) -> bytes:
    """As in a header."""
    if VERSION == 4:
        return struct.pack("!I", number)
    if number == 0x7F000001:
        return bytes(15) + b"\1"
    return struct.pack("!HxxxxxxxxxxI", 0xFD00, number)


def ip_header(src: int, dst: int, tcp: int, proto: int = 6) -> bytes:
    """An IP header in front of so many bytes."""
    if VERSION == 6:
        return struct.pack("!IHBB", 0x60000000, tcp, proto, 64) + address(src) + address(dst)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + tcp, 0, 0, 64, proto, 0) + address(src) + address(dst)
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]


def pseudo_header(src: int, dst: int, tcp: int) -> bytes:
    return address(src) + address(dst) + (struct.pack("!II", tcp, 6) if VERSION == 6 else struct.pack("!HH", 6, tcp))


def split(packet: bytes) -> tuple[int, int, int, bytes]:
    """Source, destination, TTL or hop limit, and the segment; the IP header must be right."""
    if VERSION == 6:
        word, length, proto, hops = struct.unpack("!IHBB", packet[:8])
        assert (word >> 28, proto, length) == (6, 6, len(packet) - 40)
        src, dst = struct.unpack("!12xI12xI", packet[8:40])
        return src, dst, hops, packet[40:]
    ihl = (packet[0] & 15) * 4
    total, _id, _frag, ttl, proto = struct.unpack("!HHHBB", packet[2:10])
    assert proto == 6
    assert total == len(packet)
    assert checksum(packet[:ihl]) == 0
    src, dst = struct.unpack("!II", packet[12:20])
    return src, dst, ttl, packet[ihl:]


def parse(packet: bytes, gso: int = 0, csum: int = 1) -> Segment:
    """Take a packet of ours apart; its checksums must hold (a partial one: be that of the pseudo header)."""
    src, dst, ttl, tcp = split(packet)
    pseudo = packet[8:40] + struct.pack("!II", len(tcp), 6) if VERSION == 6 else pseudo_header(src, dst, len(tcp))
    if csum == 2:
        assert struct.unpack("!H", tcp[16:18])[0] == ~checksum(pseudo) & 0xFFFF
    else:
        assert checksum(pseudo + tcp) == 0
    sport, dport, seq, ack, offset, flags, window, _sum, urgent = struct.unpack("!HHIIBBHHH", tcp[:20])
    header = (offset >> 4) * 4
    s = Segment(src, dst, sport, dport, seq, ack, letters(flags), window, tcp[header:], gso=gso, ttl=ttl)
    s.urgent = urgent
    read_options(tcp[20:header], s)
    return s


def build(
    flags: int,
    seq: int,
    ack: int,
    data: bytes = b"",
    window: int = 65535,
    options: bytes = b"",
    src: tuple[int, int] = (PEER, PEER_PORT),
    dst: tuple[int, int] = (US, OUR_PORT),
    urgent: int = 0,
    offset: int | None = None,
    reserved: int = 0,
    spoil: int = 0,
) -> bytes:
    """A whole IP packet."""
    words = 5 + len(options) // 4 if offset is None else offset
    head = struct.pack(
        "!HHIIBBHHH", src[1], dst[1], seq & MASK, ack & MASK, words << 4 | reserved, flags, window, 0, urgent
    )
    tcp = head + options + data
    pseudo = pseudo_header(src[0], dst[0], len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp) ^ spoil) + tcp[18:]
    return ip_header(src[0], dst[0], len(tcp)) + tcp


class Peer:
    """The scripted side. ``ts``: use timestamps (our clock's value is ``tsval``); ``sack``: SACK was agreed."""

    def __init__(self, host: Host, conn: Conn, *, src: tuple[int, int] = (PEER, PEER_PORT), iss: int = PEER_ISS):
        self.host = host
        self.conn = conn
        self.src = src
        self.dst = (US, OUR_PORT)
        self.iss = iss
        self.ours = 0               # our initial sequence number
        self.tsval: int | None = None
        self.tsecr = 0
        self.window = 65535
        self.sacks = False
        self.inbox: list[Segment] = []

    # --- from the peer
    def send(
        self,
        flags: str,
        seq: int = 1,
        ack: int | None = 1,
        data: bytes = b"",
        *,
        window: int | None = None,
        sack: list[tuple[int, int]] | None = None,
        tsval: int | None = None,
        options: bytes | None = None,
        gso: int = 0,
        egress: bool = True,
        **more: int,
    ) -> None:
        """A segment; timestamps are added where they were agreed, unless ``options`` says everything."""
        if options is None:
            value = self.tsval if tsval is None else tsval
            blocks = [(self.ours + a, self.ours + b) for a, b in sack or []]
            options = options_bytes(ts=None if value is None else (value, self.tsecr), sack=blocks)
        packet = build(
            bits(flags),
            self.iss + seq,
            self.ours + ack if "A" in flags and ack is not None else 0,
            data,
            self.window if window is None else window,
            options,
            self.src,
            self.dst,
            **more,
        )
        self.host.input(packet, gso_size=gso, csum=1 if gso else 0, egress=egress)

    # --- from us
    def fetch(self) -> None:
        self.inbox += [parse(data, gso, csum) for data, gso, csum in self.host.drain()]

    def take(self) -> Segment:
        """The next segment from us, numbers absolute."""
        self.fetch()
        assert self.inbox, "nothing was sent"
        s = self.inbox.pop(0)
        if s.ts is not None:
            self.tsecr = s.ts[0]
        return s

    def recv(
        self,
        flags: str | None = None,
        *,
        seq: int | None = None,
        ack: int | None = None,
        data: bytes | None = None,
        length: int | None = None,
        window: int | None = None,
        sack: list[tuple[int, int]] | None = None,
    ) -> Segment:
        """The next segment from us, compared in what is named; flags without P, which is asked for apart."""
        s = self.take()
        if flags is not None:
            assert set(s.flags) - {"P"} == set(flags) - {"P"}, s
            assert "P" not in flags or "P" in s.flags, s
        if seq is not None:
            assert (s.seq - self.ours) & MASK == seq & MASK, s
        if ack is not None:
            assert (s.ack - self.iss) & MASK == ack & MASK, s
        if data is not None:
            assert s.data == data, s
        if length is not None:
            assert len(s.data) == length, s
        if window is not None:
            assert s.window == window, s
        if sack is not None:
            assert [((a - self.iss) & MASK, (b - self.iss) & MASK) for a, b in s.sack] == sack, s
        return s

    def recv_all(self) -> list[Segment]:
        self.fetch()
        out, self.inbox = self.inbox, []
        return out

    def recv_nothing(self) -> None:
        self.fetch()
        assert not self.inbox, self.inbox

    def recv_challenge(self, seq: int | None = None, ack: int | None = None) -> None:
        """An ACK without data that says where we are."""
        self.recv("A", seq=seq, ack=ack, data=b"")
        self.recv_nothing()

    # --- time
    def after(self, seconds: float) -> None:
        self.host.advance(round(seconds * S))

    def counter(self, name: str) -> int:
        return self.host.counters().get(name, 0)


# --- one constructor per state ------------------------------------------------------------------------------------
def listening(backlog: int = 16, host: Host | None = None, **options: int | str) -> Peer:
    host = host or Host(US, seed=1)
    conn = host.socket(**options)
    assert conn.bind(US, OUR_PORT) == 0
    assert conn.listen(backlog) == 0
    return Peer(host, conn)


def syn_received(mss: int | None = 1460, sack: bool = False, ts: int | None = None, wscale: int | None = None,
                 host: Host | None = None, window: int = 65535, **options: int | str) -> Peer:
    """``conn`` is the listener still."""
    p = listening(host=host, **options)
    p.sacks, p.tsval, p.window = sack, ts, window
    p.send("S", 0, options=options_bytes(mss, wscale, sack, None if ts is None else (ts, 0)))
    p.ours = p.recv("SA", ack=1).seq
    return p


def established(mss: int | None = 1460, sack: bool = False, ts: int | None = None, wscale: int | None = None,
                host: Host | None = None, window: int = 65535, quick: bool = False, **options: int | str) -> Peer:
    """Opened by the peer. Without ``quick`` our first, immediate ACKs are over: ACKs are delayed as later on."""
    p = syn_received(mss, sack, ts, wscale, host, window, **options)
    p.send("A", 1, 1)
    p.recv_nothing()
    conn = p.conn.accept()
    assert conn is not None
    p.listener, p.conn = p.conn, conn
    assert conn.state == "ESTABLISHED"
    if not quick:
        # One exchange in which data answers data: we take the peer for an interactive one.
        p.send("A", 1, 1, b"?", egress=False)
        conn.send(b"!")
        p.recv("PA", seq=1, ack=2, data=b"!")
        assert conn.recv() == b"?"
        p.send("A", 2, 2)
        p.recv_nothing()
        p.iss += 1
        p.ours += 1
    return p


def syn_sent(host: Host | None = None, **options: int | str) -> Peer:
    host = host or Host(US, seed=1)
    conn = host.socket(**options)
    assert conn.connect(PEER, 80) == -115
    p = Peer(host, conn, src=(PEER, 80))
    s = p.take()
    assert s.flags == "S"
    p.ours = s.seq
    p.dst = (US, s.sport)
    return p


def connected(mss: int | None = 1460, sack: bool = False, ts: int | None = None, wscale: int | None = None,
              window: int = 65535, **options: int | str) -> Peer:
    """Opened by us."""
    p = syn_sent(**options)
    p.window, p.tsval, p.sacks = window, ts, sack
    p.send("SA", 0, 1, options=options_bytes(mss, wscale, sack, None if ts is None else (ts, p.tsecr)))
    p.recv("A", seq=1, ack=1, data=b"")
    p.recv_nothing()
    assert p.conn.state == "ESTABLISHED"
    return p


def fin_wait_1(**options: int | str) -> Peer:
    p = established(**options)
    assert p.conn.shutdown(1) == 0
    p.recv("FA", seq=1, ack=1)
    assert p.conn.state == "FIN-WAIT-1"
    return p


def fin_wait_2(**options: int | str) -> Peer:
    p = fin_wait_1(**options)
    p.send("A", 1, 2)
    p.recv_nothing()
    assert p.conn.state == "FIN-WAIT-2"
    return p


def closing(**options: int | str) -> Peer:
    p = fin_wait_1(**options)
    p.send("FA", 1, 1)
    p.recv("A", seq=2, ack=2)
    assert p.conn.state == "CLOSING"
    return p


def time_wait(**options: int | str) -> Peer:
    p = fin_wait_2(**options)
    p.send("FA", 1, 2)
    p.recv("A", seq=2, ack=2)
    assert p.conn.state == "TIME-WAIT"
    return p


def close_wait(**options: int | str) -> Peer:
    p = established(**options)
    p.send("FA", 1, 1)
    p.recv("A", seq=1, ack=2)
    assert p.conn.state == "CLOSE-WAIT"
    return p


def last_ack(**options: int | str) -> Peer:
    p = close_wait(**options)
    assert p.conn.shutdown(1) == 0
    p.recv("FA", seq=1, ack=2)
    assert p.conn.state == "LAST-ACK"
    return p


STATES = {
    "SYN-SENT": syn_sent,
    "LISTEN": listening,
    "ESTABLISHED": established,
    "FIN-WAIT-1": fin_wait_1,
    "FIN-WAIT-2": fin_wait_2,
    "CLOSING": closing,
    "TIME-WAIT": time_wait,
    "CLOSE-WAIT": close_wait,
    "LAST-ACK": last_ack,
    "SYN-RECEIVED": syn_received,
}
