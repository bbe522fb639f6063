"""TCP packets as values, and back; as one line of text."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import NamedTuple

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
MASK = 0xFFFFFFFF
Pairs = list[tuple[int, int]]


class Segment(NamedTuple):
    """A TCP segment; numbers absolute, the window as the header has it."""

    src: bytes
    dst: bytes
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    data: bytes
    options: bytes

    @property
    def end(self) -> int:
        """The number behind its last one."""
        return self.seq + len(self.data) + (self.flags & 1) + (self.flags >> 1 & 1) & MASK


class Options(NamedTuple):
    """The options of a segment; None for what it does not have."""

    mss: int | None = None
    wscale: int | None = None
    sack_permitted: bool = False
    ts: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()


def ahead(a: int, b: int) -> int:
    """How far a lies beyond b, on the circle of sequence numbers."""
    return (a - b + 0x80000000 & MASK) - 0x80000000


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    value = int.from_bytes(data, "big") % 0xFFFF        # 2^16 = 1 mod 0xFFFF: the sum of the words
    return 0xFFFF - value


def parse(packet: bytes) -> Segment | None:
    """A whole IP packet that carries TCP; None: it does not."""
    if packet[0] >> 4 == 4:
        if packet[9] != 6 or packet[6] & 0x3F or packet[7]:
            return None
        at, src, dst = (packet[0] & 15) * 4, packet[12:16], packet[16:20]
    else:
        if packet[6] != 6:
            return None
        at, src, dst = 40, packet[8:24], packet[24:40]
    sport, dport, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", packet, at)
    text = at + (offset >> 4) * 4
    return Segment(src, dst, sport, dport, seq, ack, flags, window, packet[text:], packet[at + 20 : text])


def read_options(raw: bytes) -> Options:
    """What the options say; what is malformed ends them."""
    mss = wscale = ts = None
    sack: tuple[tuple[int, int], ...] = ()
    permitted, i = False, 0
    while i < len(raw) and raw[i]:
        if raw[i] == 1:
            i += 1
            continue
        if i + 1 >= len(raw) or raw[i + 1] < 2 or i + raw[i + 1] > len(raw):
            break
        kind, body = raw[i], raw[i + 2 : i + raw[i + 1]]
        if kind == 2:
            mss = int.from_bytes(body, "big")
        elif kind == 3:
            wscale = body[0]
        elif kind == 4:
            permitted = True
        elif kind == 5:
            edges = struct.unpack(f"!{len(body) // 4}I", body)
            sack = tuple(zip(edges[::2], edges[1::2], strict=True))
        elif kind == 8:
            value, echo = struct.unpack("!II", body)
            ts = value, echo
        i += raw[i + 1]
    return Options(mss, wscale, permitted, ts, sack)


def write_options(o: Options) -> bytes:
    """The options, padded."""
    raw = b""
    if o.mss is not None:
        raw += struct.pack("!BBH", 2, 4, o.mss)
    if o.wscale is not None:
        raw += bytes((3, 3, o.wscale))
    if o.sack_permitted:
        raw += b"\4\2"
    if o.ts is not None:
        raw += struct.pack("!BBII", 8, 10, o.ts[0] & MASK, o.ts[1] & MASK)
    blocks = o.sack[: (40 - len(raw) - 2) // 8]
    if blocks:
        raw += bytes((5, 2 + 8 * len(blocks)))
        raw += b"".join(struct.pack("!II", first & MASK, behind & MASK) for first, behind in blocks)
    return raw + b"\1" * (-len(raw) % 4)


def build(s: Segment, *, urgent: int = 0, spoil: int = 0) -> bytes:
    """A whole packet. spoil: what the checksum is wrong by (XOR)."""
    tcp = struct.pack(
        "!HHIIBBHHH", s.sport, s.dport, s.seq & MASK, s.ack & MASK, 5 + len(s.options) // 4 << 4, s.flags, s.window,
        0, urgent) + s.options + s.data
    pseudo = s.src + s.dst + (
        struct.pack("!BBH", 0, 6, len(tcp)) if len(s.src) == 4 else struct.pack("!II", len(tcp), 6))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp) ^ spoil) + tcp[18:]
    if len(s.src) == 16:
        return struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + s.src + s.dst + tcp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0) + s.src + s.dst
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + tcp


def describe(packet: bytes, bases: dict[tuple[bytes, int, bytes, int], int]) -> str:
    """One line: addresses, flags, numbers relative to the first ones seen (kept in ``bases``), options."""
    s = parse(packet)
    if s is None:
        return f"protocol {packet[9] if packet[0] >> 4 == 4 else packet[6]}, {len(packet)} bytes"
    there, back = (s.src, s.sport, s.dst, s.dport), (s.dst, s.dport, s.src, s.sport)
    if s.flags & SYN:
        bases[there] = s.seq
    seq = ahead(s.seq, bases.setdefault(there, s.seq))
    ack = f" ack {ahead(s.ack, bases.setdefault(back, s.ack - 1 & MASK))}" if s.flags & ACK else ""
    o = read_options(s.options)
    rest = "".join((
        f" mss {o.mss}" if o.mss is not None else "", f" wscale {o.wscale}" if o.wscale is not None else "",
        " sackOK" if o.sack_permitted else "", f" ts {o.ts[0]}/{o.ts[1]}" if o.ts else "",
        " sack" + "".join(f" {ahead(a, bases[back])}-{ahead(b, bases[back])}" for a, b in o.sack) if o.sack else ""))
    names = "".join(c for c, bit in zip("FSRPAUEC", (1, 2, 4, 8, 16, 32, 64, 128), strict=True) if s.flags & bit)
    return (f"{ip_address(s.src)}:{s.sport} > {ip_address(s.dst)}:{s.dport} {names or '-'} "
            f"{seq}:{seq + len(s.data)}({len(s.data)}){ack} win {s.window}{rest}")
