"""The simulator itself: impairments, time, partitions, applications, what it says when something is wrong."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from typing import Any

import pytest

import ustack
from ustack import sim
from ustack.socket import SO_LINGER, SOL_SOCKET


def pair(net: sim.Network) -> tuple[sim.Host, sim.Host]:
    return net.host("a", "10.0.0.1"), net.host("b", "10.0.0.2")


def transfer(seed: int, **impairments: Any) -> tuple[str, sim.Cable, int]:
    """Digest, cable and number of packets of one transfer of 100 KB."""
    with sim.Network(seed) as net:
        a, b = pair(net)
        cable = net.link(a, b, **impairments)
        flow = net.flow(a, b, 100_000)
        net.run()
        assert flow.exact
        net.drain()
        return net.digest(), cable, len(net.trace)


def test_seed_decides_everything() -> None:
    assert transfer(1, loss=0.05)[0] == transfer(1, loss=0.05)[0]
    assert transfer(1, loss=0.05)[0] != transfer(2, loss=0.05)[0]


@pytest.mark.parametrize(("impairment", "fate"), [
    ("loss", "lost"), ("duplicate", "duplicated"), ("reorder", "late"), ("corrupt", "corrupted"),
])
def test_probabilities(impairment: str, fate: str) -> None:
    total: Counter[str] = Counter()
    for seed in range(30):
        total += transfer(seed, delay=0.001, **{impairment: 0.1})[1].counts
    assert set(total) == {"", fate}
    assert 0.08 < total[fate] / total.total() < 0.12


def test_the_trace_is_what_was_sent() -> None:
    with sim.Network() as net:
        a, b = pair(net)
        net.link(a, b, delay=0.25)
        client = a.datagrams(1000)
        server = b.datagrams(53)
        client.sendto(b"question", (b.address, 53))
        net.run(net.now_ns + 10**9)
        data, sender = server.recvfrom(100)
        assert (data, sender) == (b"question", (a.address, 1000))
        server.sendto(b"answer", sender)
        net.run(net.now_ns)
        rows = [(p.time_ns, p.source, p.sink, p.data[28:], p.fate) for p in net.trace]
        assert rows == [(10**9, "a", "b", b"question", ""), (2 * 10**9, "b", "a", b"answer", "")]
        client.close()
        server.close()


def test_delay_and_rate_take_their_time() -> None:
    with sim.Network() as net:
        a, b = pair(net)
        net.link(a, b, delay=0.5, rate=8000)        # 1000 bytes a second
        one, other = a.datagrams(1), b.datagrams(2)
        for _ in range(3):
            one.sendto(bytes(472), (b.address, 2))  # 500 bytes with the headers

        def collect() -> sim.Steps[list[float]]:
            times = []
            for _ in range(3):
                yield from sim.readable(other)
                other.recv(1000)
                times.append(net.now_ns / 1e9)
            return times

        task = net.spawn(collect())
        net.run()
        assert task.result == [2.0, 2.5, 3.0]
        one.close()
        other.close()


def test_a_full_queue_drops() -> None:
    with sim.Network() as net:
        a, b = pair(net)
        cable = net.link(a, b, rate=8000, queue=5)
        with a.datagrams(1) as one, b.datagrams(2):
            for _ in range(20):
                one.sendto(bytes(100), (b.address, 2))
            net.run(net.now_ns)
        assert cable.counts == {"": 6, "full": 14}


def test_partition_and_healing() -> None:
    with sim.Network(3) as net:
        a, b = pair(net)
        c = net.host("c", "10.0.0.3")
        ab, _ac, bc = net.link(a, b, delay=0.01), net.link(a, c, delay=0.01), net.link(b, c, delay=0.01)
        flows = [net.flow(a, b, 300_000), net.flow(a, c, 300_000), net.flow(b, c, 300_000)]
        net.run(net.now_ns + 30_000_000)
        net.partition([a], [b, c])
        net.run(net.now_ns + 5_000_000_000)
        assert not flows[0].ended
        assert not flows[1].ended
        assert flows[2].exact
        net.heal()
        net.run()
        assert all(flow.exact for flow in flows)
        assert ab.counts["cut"]
        assert not bc.counts["cut"]


def test_a_filter_sees_and_changes_packets() -> None:
    with sim.Network() as net:
        a, b = pair(net)
        cable = net.link(a, b, delay=0.01)
        dropped = 0

        def first_three_data_packets(source: sim.Host, data: bytes) -> bytes | None:
            nonlocal dropped
            if source is a and len(data) > 100 and dropped < 3:
                dropped += 1
                return None
            return data

        cable.filter = first_three_data_packets
        flow = net.flow(a, b, 50_000)
        net.run()
        assert flow.exact
        assert cable.counts["lost"] == dropped == 3


def test_stuck_says_what_is_missing() -> None:
    with sim.Network() as net:
        a, b = pair(net)
        net.link(a, b)
        with b.listen(80) as listener:
            net.spawn(sim.accept(listener), "patience")
            with pytest.raises(sim.Stuck, match="patience"):
                net.run()
            with pytest.raises(sim.Stuck, match="LISTEN"):
                net.run(until=lambda: False)

            def sleeper() -> sim.Steps[None]:
                while True:
                    yield from sim.sleep(1)

            net.spawn(sleeper())
            with pytest.raises(sim.Stuck, match="5 s passed"):
                net.run(limit=5)


def test_errors_of_applications_come_out() -> None:
    with sim.Network() as net:
        a, b = pair(net)
        net.link(a, b)

        def knock() -> sim.Steps[None]:
            with a.socket() as sock:
                yield from sim.connect(sock, (b.address, 80))

        task = net.spawn(knock())
        with pytest.raises(ConnectionRefusedError):
            net.run()
        assert task.done
        assert isinstance(task.error, ConnectionRefusedError)


def test_wrong_arguments() -> None:
    with sim.Network() as net:
        a, b = pair(net)
        with pytest.raises(ValueError, match="already"):
            net.host("a", "10.0.0.9")
        with pytest.raises(ValueError, match="probability"):
            net.link(a, b, loss=2)
        with pytest.raises(ValueError, match="seconds"):
            net.link(a, b, delay=-1)
        with pytest.raises(ValueError, match="different ends"):
            net.link(a, a)


def test_a_quiet_network_stays_quiet() -> None:
    """After the last TIME-WAIT nothing is armed, nothing is sent, and nothing is held, before the stacks close."""
    with sim.Network(9) as net:
        a, b = pair(net)
        net.link(a, b, loss=0.1, delay=0.02)
        flow = net.flow(a, b, 200_000)
        net.run()
        assert not net.quiet
        net.drain()
        assert flow.exact
        assert net.quiet
        assert net.live() == {"a": 0, "b": 0}
        assert not a.stack.sockets()
        assert not b.stack.sockets()
        packets = len(net.trace)
        assert net.run(net.now_ns + 10**15) == net.now_ns
        assert len(net.trace) == packets
    assert net.leaks == {}


def test_closing_in_the_middle_leaks_nothing() -> None:
    for step in range(1, 40):
        with sim.Network(step) as net:
            a, b = pair(net)
            net.link(a, b, loss=0.1, delay=0.01, reorder=0.2, duplicate=0.1)
            net.flow(a, b, 100_000)
            net.run(net.now_ns + step * 7_000_000)
        assert net.leaks == {}


def test_reset_reaches_the_other_end() -> None:
    with sim.Network() as net:
        a, b = pair(net)
        net.link(a, b, delay=0.01)

        def server() -> sim.Steps[None]:
            with b.listen(80) as listener:
                conn = yield from sim.accept(listener)
            with conn:
                assert (yield from sim.recv_exactly(conn, 5)) == b"hello"
                conn.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))

        def client() -> sim.Steps[None]:
            with a.socket() as sock:
                yield from sim.connect(sock, (b.address, 80))
                yield from sim.send_all(sock, b"hello")
                with pytest.raises(ConnectionResetError):
                    yield from sim.recv(sock)

        net.spawn(server())
        net.spawn(client())
        net.run()
        net.drain()
        assert net.quiet


def test_two_confused_stacks_do_not_storm() -> None:
    """Each end holds a connection whose numbers the other does not know: answering each other's answers must damp."""
    with sim.Network(5) as net:
        a, b = pair(net)
        cable = net.link(a, b, delay=0.0005)
        ends: list[ustack.socket.socket] = []

        def server() -> sim.Steps[None]:
            with b.listen(80) as listener:
                ends.append((yield from sim.accept(listener)))

        def client() -> sim.Steps[None]:
            sock = a.socket()
            ends.append(sock)
            yield from sim.connect(sock, (b.address, 80))

        net.spawn(server())
        net.spawn(client())
        net.run()

        # Every segment arrives with its sequence numbers far off: each is answered by a challenge, which is far off
        # again.
        def shift(source: sim.Host, data: bytes) -> bytes:
            seq, ack = struct.unpack_from("!II", data, 24)
            moved = bytearray(data)
            struct.pack_into("!II", moved, 24, seq + 0x10000000 & 0xFFFFFFFF, ack + 0x10000000 & 0xFFFFFFFF)
            moved[36:38] = b"\0\0"
            struct.pack_into("!H", moved, 36, tcp_checksum(bytes(moved)))
            return bytes(moved)

        cable.filter = shift
        before = len(net.trace)
        ends[1].send(b"x")
        net.run(net.now_ns + 10 * 10**9)
        assert len(net.trace) - before < 300
        for sock in ends:
            sock.close()


def tcp_checksum(packet: bytes) -> int:
    """The checksum of an IPv4 TCP packet with 20 bytes of IP header, whose own field is zero (RFC 9293 3.1)."""
    data = packet[12:20] + struct.pack("!HH", 6, len(packet) - 20) + packet[20:]
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_an_application_as_the_manual_shows_it() -> None:
    with sim.Network(seed=7) as net:
        a, b = pair(net)
        net.link(a, b, loss=0.02, delay=0.01)

        def server() -> sim.Steps[str]:
            with b.listen(80) as listener:
                conn = yield from sim.accept(listener)
            digest = hashlib.sha256()
            with conn:
                while part := (yield from sim.recv(conn)):
                    digest.update(part)
            return digest.hexdigest()

        def client() -> sim.Steps[None]:
            with a.socket() as sock:
                yield from sim.connect(sock, (b.address, 80))
                yield from sim.send_all(sock, bytes(50_000))

        task = net.spawn(server())
        net.spawn(client())
        net.run()
        assert task.result == hashlib.sha256(bytes(50_000)).hexdigest()
