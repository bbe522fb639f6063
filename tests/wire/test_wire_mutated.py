"""Random damage to good traffic: nothing crashes, memory is bounded, and an established connection is not hurt."""

import os
import random

import pytest
from oracle import OUR_MAC, OURS, PEER, PEER_MAC, Wire, ip
from scapy.layers.inet import ICMP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from tcp_peer import PORT, Peer, opened_by_peer

FRAMES = int(os.environ.get("USTACK_FRAMES", "100000"))


def good_traffic(victim, dport):
    """Packets of every kind that the stack serves, towards sockets that exist."""
    other = Peer(victim.wire, 40_000, dport)
    return [
        ip(ICMP(id=1, seq=2) / Raw(b"echo" * 20)),
        ip(ICMP(type=3, code=4, nexthopmtu=1400) / ip(TCP(sport=PORT, dport=victim.sport), src=OURS, dst=PEER)),
        ip(ICMP(type=3, code=3) / ip(UDP(sport=5000, dport=6), src=OURS, dst=PEER)),
        ip(UDP(sport=6, dport=5000) / Raw(b"datagram" * 10)),
        *fragment(ip(UDP(sport=6, dport=5000) / Raw(b"fragmented" * 300), id=7)),
        other.segment("S", 0, options=[("MSS", 1460), ("WScale", 7), ("Timestamp", (1, 0)), ("SAckOK", b"")]),
        other.segment("A", 1, 1),
        other.segment("PA", 1, 1, b"data of another connection"),
        other.segment("FA", 27, 1),
        ip(TCP(sport=9, dport=PORT, flags="R", seq=5)),
    ]


def mutate(rnd, raw):
    """Some bytes changed, or the packet cut or grown; IP's checksum is mended half of the time."""
    data = bytearray(raw)
    for _ in range(rnd.choice((1, 1, 2, 4, 16))):
        where = rnd.randrange(min(len(data), 80) if rnd.random() < 0.9 else len(data))
        data[where] = rnd.choice((0, 255, 1, data[where] ^ 1 << rnd.randrange(8), rnd.randrange(256)))
    if rnd.random() < 0.1:
        data = data[:rnd.randrange(len(data))]
    elif rnd.random() < 0.1:
        data += rnd.randbytes(rnd.randrange(1, 40))
    return data


def mend(data, at):
    """Make the IP header's checksum right again, so that the damage is seen by who comes behind."""
    length = (data[at] & 15) * 4 if len(data) > at else 0
    if length < 20 or len(data) < at + length:
        return
    data[at + 10:at + 12] = b"\0\0"
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(at, at + length, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[at + 10:at + 12] = (~total & 0xFFFF).to_bytes(2, "big")


@pytest.mark.parametrize("layer", [2, 3])
def test_damaged_frames_hurt_nobody(layer):
    rnd = random.Random(2024 + layer)
    wire = Wire(layer=layer)
    at = 14 if layer == 2 else 0
    if layer == 2:
        wire.learn()
    with wire.net, wire.net.create_server((OURS, PORT)) as listener, wire.net.socket(2, 2) as udp:
        udp.bind(("0.0.0.0", 5000))
        victim = opened_by_peer(wire, listener)
        packets = [bytes(Ether(src=PEER_MAC, dst=OUR_MAC) / p if layer == 2 else p)
                   for p in good_traffic(victim, PORT)]
        if layer == 2:
            packets += [bytes(Ether(src=PEER_MAC, dst=OUR_MAC) / ARP(
                op=op, hwsrc=PEER_MAC, psrc="10.9.0.9", pdst=OURS)) for op in (1, 2)]
        sent = 0
        peak = 0
        for k in range(FRAMES // 2):
            damaged = mutate(rnd, rnd.choice(packets))
            if rnd.random() < 0.5:
                mend(damaged, at)
            if damaged:
                wire.pipe.inject(bytes(damaged))
            if k % 100 == 0:
                wire.pipe.drain()
                peak = max(peak, wire.net.memory()["held"])
                wire.net.advance_to(wire.net.now_ns() + rnd.randrange(10_000_000))
            if k % 5000 == 0:
                # The victim's stream goes on, and is exact.
                piece = rnd.randbytes(100)
                if layer == 2:
                    wire.learn()         # somebody may have moved us to another station
                victim.ask("PA", 1 + sent, 1, piece)
                assert victim.sock.recv(1000) == piece
                sent += len(piece)
        assert peak < 16 << 20
        victim.reset()
        wire.after(600)
        for s in iter(lambda: accept_or_none(listener), None):
            s.close()
        udp.close()             # with what nobody read, up to SO_RCVBUF
        wire.after(600)
        assert wire.net.memory()["held"] <= 1 << 20


def accept_or_none(listener):
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None
