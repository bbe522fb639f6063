"""ICMP (RFC 792, 1122 3.2.2, 1191, 1812, 5927): echoes, errors that we send, errors that we get."""

import errno
import socket

import pytest
from oracle import OURS, PEER, SECOND, ip
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.packet import Raw

from ustack.socket import IP_MTU, IP_MTU_DISCOVER, IP_PMTUDISC_DO


@pytest.mark.parametrize("size", [0, 1, 56, 1471, 1472])
def test_echo(wire, size):
    data = bytes(k & 255 for k in range(size))
    with wire.counts(icmp_echo=1):
        [reply] = wire.ask(ip(ICMP(id=0xABCD, seq=0xFFFF) / Raw(data)))
    assert (reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq) == (0, 0xABCD, 0xFFFF)
    assert bytes(reply[ICMP].payload) == data
    assert reply.src == OURS


@pytest.mark.parametrize("dst", ["10.9.0.255", "255.255.255.255", "10.9.0.0"])
def test_no_echo_to_broadcasts(wire, dst):
    assert wire.ask(ip(ICMP(id=1, seq=1), dst=dst)) == []


@pytest.mark.parametrize(("packet", "counter"), [
    (ip(ICMP(chksum=0x1234)), "icmp_bad_checksum"),
    (ip(Raw(b"\x08\x00\xf7"), proto=1), "icmp_bad"),
    (ip(ICMP(type=4) / Raw(bytes(ip(UDP())))), "icmp_ignored"),       # source quench (RFC 6633)
    (ip(ICMP(type=5, gw="10.9.0.9") / Raw(bytes(ip(UDP())))), "icmp_ignored"),
    (ip(ICMP(type=15)), "icmp_ignored"),
    (ip(ICMP(type=17)), "icmp_ignored"),
    (ip(ICMP(type=200)), "icmp_ignored"),
    (ip(ICMP(type=3, code=3) / Raw(b"short")), "icmp_bad_quote"),
    (ip(ICMP(type=3, code=3) / ip(UDP(sport=1, dport=2), src="10.9.0.99", dst=PEER)), "icmp_bad_quote"),
])
def test_dropped(wire, packet, counter):
    wire.dropped(packet, **{counter: 1})


def closed_port(**fields):
    return ip(UDP(sport=1111, dport=2222) / Raw(b"who is there, of all ports?"), **fields)


def test_a_closed_port_is_unreachable(wire):
    asked = closed_port(id=4242)
    with wire.counts(udp_no_port=1, icmp_error_tx=1):
        [error] = wire.ask(asked)
    assert (error.src, error.dst, error[ICMP].type, error[ICMP].code) == (OURS, PEER, 3, 3)
    quote = bytes(error[ICMP].payload)
    assert quote == bytes(asked)[:len(quote)]
    assert len(quote) >= 28
    assert len(error) <= 576


def test_no_errors_about_errors_broadcasts_and_fragments(wire):
    assert wire.ask(
        closed_port(dst="255.255.255.255"),
        closed_port(dst="10.9.0.255"),
        closed_port(src="224.0.0.5"),
        *fragment(closed_port(), fragsize=16)[1:],
        ip(ICMP(type=3, code=3) / closed_port(src=OURS, dst=PEER)),
        ip(ICMP(type=3, code=2) / ip(ICMP(type=3), src=OURS, dst=PEER)),
    ) == []


def test_errors_are_rate_limited_and_come_again(wire):
    errors = wire.ask(*[closed_port()] * 900)
    assert 0 < len(errors) < 900
    assert wire.net.stats()["icmp.rate_limited"] == 900 - len(errors)
    wire.after(2)
    assert len(wire.ask(closed_port())) == 1


def connected(wire):
    s = wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((PEER, 53))
    s.send(b"question")
    [sent] = wire.drain()
    return s, sent


@pytest.mark.parametrize(("code", "number"), [
    (0, errno.ENETUNREACH), (1, errno.EHOSTUNREACH), (2, errno.ENOPROTOOPT), (3, errno.ECONNREFUSED),
    (5, errno.EOPNOTSUPP), (6, errno.ENETUNREACH), (7, errno.EHOSTDOWN), (8, errno.ENONET), (9, errno.ENETUNREACH),
    (10, errno.EHOSTUNREACH), (11, errno.ENETUNREACH), (12, errno.EHOSTUNREACH), (13, errno.EHOSTUNREACH),
    (14, errno.EHOSTUNREACH), (15, errno.EHOSTUNREACH),
])
def test_unreachable_reaches_the_connected_socket_once(wire, code, number):
    s, sent = connected(wire)
    other, _ = connected(wire)
    with s, other:
        wire.send(ip(ICMP(type=3, code=code) / sent))
        if code not in (0, 1, 5, 11, 12):       # as Linux has it: those are taken as passing trouble
            with pytest.raises(OSError, match=rf"Errno {number}\]"):
                s.recv(100)
        for each in (s, other):
            with pytest.raises(BlockingIOError):
                each.recv(100)


@pytest.mark.parametrize(("code", "number"), [
    (0, errno.ENETUNREACH), (2, errno.ENOPROTOOPT), (5, errno.EOPNOTSUPP), (7, errno.EHOSTDOWN), (9, errno.ENETUNREACH),
    (12, errno.EHOSTUNREACH),
])
def test_unreachable_ends_a_connect_with_the_error_that_linux_has_for_it(wire, code, number):
    with wire.net.socket() as s:
        s.setblocking(False)
        assert s.connect_ex((PEER, 80)) == errno.EINPROGRESS
        [syn] = wire.drain()
        wire.send(ip(ICMP(type=3, code=code) / syn))
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == number


def test_what_was_not_put_together_in_time_ends_no_connect(wire):
    """11/1, unlike 11/0: as on Linux, the SYN is simply sent again."""
    with wire.net.socket() as s:
        s.setblocking(False)
        assert s.connect_ex((PEER, 80)) == errno.EINPROGRESS
        [syn] = wire.drain()
        wire.dropped(ip(ICMP(type=11, code=1) / syn), icmp_ignored=1)
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        wire.send(ip(ICMP(type=11, code=0) / syn))
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH


def test_a_quotation_of_somebody_elses_port_is_ignored(wire):
    s, sent = connected(wire)
    with s:
        forged = sent.copy()
        forged[UDP].dport = 54
        wire.send(ip(ICMP(type=3, code=3) / forged))
        with pytest.raises(BlockingIOError):
            s.recv(100)


# --- path MTU discovery (E7)

def tcp_connection(wire, to=PEER):
    """A connection from us, established, with 10 segments of data in flight."""
    wire.drain()
    s = wire.net.socket()
    assert s.connect_ex((to, 80)) == errno.EINPROGRESS
    [syn] = wire.drain()
    assert dict(syn[TCP].options)["MSS"] == 1460            # what we take; what they send takes its own path
    wire.send(ip(TCP(sport=80, dport=syn[TCP].sport, seq=1000, ack=syn[TCP].seq + 1, flags="SA", window=65535,
                     options=[("MSS", 1460)]), src=to))
    wire.drain()
    assert s.send(b"x" * 20_000) == 20_000
    return s, wire.drain()


def too_big(sent, mtu, **change):
    quoted = sent.copy()
    for name, value in change.items():
        setattr(quoted[TCP], name, value)
    return ip(ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(bytes(quoted)[:28]))


def test_frag_needed_lowers_the_segment_size(wire):
    s, sent = tcp_connection(wire)
    with s:
        assert all(p.flags.DF for p in sent)
        assert max(len(p) for p in sent) == 1500
        again = wire.ask(too_big(sent[0], 1000)) + wire.after(2)
        assert wire.net.stats()["tcp.path_mtu"] == 1
        assert again
        assert max(len(p) for p in again) <= 1000
        assert again[0][TCP].seq == sent[0][TCP].seq
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize("case", ["other sequence", "never sent", "68", "larger", "other port"])
def test_bogus_frag_needed_is_ignored(wire, case):
    s, sent = tcp_connection(wire)
    with s:
        seq = sent[0][TCP].seq
        bogus = {
            "other sequence": too_big(sent[0], 600, seq=seq - 100_000 & 0xFFFFFFFF),
            "never sent": too_big(sent[0], 600, seq=seq + 1_000_000 & 0xFFFFFFFF),
            "68": too_big(sent[0], 68),
            "larger": too_big(sent[0], 1501),
            "other port": too_big(sent[0], 600, dport=81),
        }[case]
        wire.ask(bogus)
        assert max(len(p) for p in wire.after(2)) >= (552 if case == "68" else 1500)
        assert "ip.path_mtu" not in wire.net.stats()
        abort(s)
        assert largest_of_new_connection(wire) == 1500


def largest_of_new_connection(wire, to=PEER):
    s, sent = tcp_connection(wire, to)
    abort(s)
    return max(len(p) for p in sent)


def abort(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    s.close()


def test_a_path_mtu_is_remembered_for_its_destination_for_ten_minutes(wire):
    s, sent = tcp_connection(wire)
    wire.send(too_big(sent[0], 1000))
    assert wire.net.stats()["ip.path_mtu"] == 1
    abort(s)
    wire.after(599)
    assert largest_of_new_connection(wire) == 1000
    assert largest_of_new_connection(wire, "10.9.0.78") == 1500
    wire.after(2)
    assert largest_of_new_connection(wire) == 1500


def test_whoever_connects_to_us_gets_segments_of_the_path_mtu_that_is_known(wire):
    s, sent = tcp_connection(wire)
    wire.send(too_big(sent[0], 1000))
    abort(s)
    with wire.net.create_server((OURS, 80)) as server:
        [answer] = wire.ask(ip(TCP(sport=5000, dport=80, seq=7, flags="S", options=[("MSS", 1460)])))
        assert dict(answer[TCP].options)["MSS"] == 1460
        wire.send(ip(TCP(sport=5000, dport=80, seq=8, ack=answer[TCP].seq + 1, flags="A")))
        other, _ = server.accept()
        other.send(bytes(5000))
        assert max(len(p) for p in wire.drain()) == 1000
        abort(other)


def test_datagrams_are_cut_to_the_path_mtu_that_a_stream_has_learnt(wire):
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.connect((PEER, 53))
        u.send(bytes(1400))
        assert [len(p) for p in wire.drain()] == [1428]
        s, sent = tcp_connection(wire)
        wire.send(too_big(sent[0], 1000))
        abort(s)
        wire.drain()
        u.send(bytes(1400))
        pieces = wire.drain()
        assert [len(p) for p in pieces] == [996, 20 + 1408 - 976]
        assert not any(p.flags.DF for p in pieces)
        assert u.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1000
        wire.after(601)
        u.send(bytes(1400))
        assert [len(p) for p in wire.drain()] == [1428]


def test_a_datagram_that_may_not_be_cut_is_refused_when_its_path_is_too_narrow(wire):
    """IP_PMTUDISC_DO: refused with EMSGSIZE, at first by a router."""
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        assert u.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == IP_PMTUDISC_DO
        with pytest.raises(OSError, match="Invalid"):
            u.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 6)
        u.connect((PEER, 53))
        u.send(bytes(1400))
        [sent] = wire.drain()
        assert sent.flags.DF
        wire.send(ip(ICMP(type=3, code=4, nexthopmtu=1000) / Raw(bytes(sent)[:28])))
        for _ in range(2):              # what the router said, then what is known by now
            with pytest.raises(OSError, match="too long") as refused:
                u.send(bytes(1400))
            assert refused.value.errno == errno.EMSGSIZE
        u.send(bytes(972))
        [sent] = wire.drain()
        assert len(sent) == 1000
        wire.after(601)
        u.send(bytes(1400))
        assert len(wire.drain()[0]) == 1428


def test_a_forged_frag_needed_about_datagrams_that_may_be_cut_teaches_nothing(wire):
    s, sent = connected(wire)
    with s:
        forged = sent.copy()
        forged.flags = "DF"
        forged.len = 1400
        wire.send(ip(ICMP(type=3, code=4, nexthopmtu=1000) / Raw(bytes(forged)[:28])))
        assert "ip.path_mtu" not in wire.net.stats()
        s.send(bytes(1400))
        assert len(wire.drain()) == 1


@pytest.mark.parametrize("kind", [(3, 1), (3, 3), (3, 2), (11, 0), (12, 0)])
def test_hard_errors_do_not_end_an_established_connection(wire, kind):
    """RFC 5927 5.2: not even one that quotes what is in flight."""
    s, sent = tcp_connection(wire)
    with s:
        wire.ask(ip(ICMP(type=kind[0], code=kind[1]) / Raw(bytes(sent[0])[:28])))
        last = max(p[TCP].seq + len(p[TCP].payload) for p in sent)
        wire.ask(ip(TCP(sport=80, dport=sent[0][TCP].sport, seq=1001, ack=last, flags="A", window=65535)))
        assert s.send(b"y") == 1
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_our_ping(wire):
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
        s.sendto(bytes(ICMP(type=8, seq=9) / Raw(b"hello")), (PEER, 0))
        [sent] = wire.drain()
        assert (sent[ICMP].type, sent[ICMP].seq, bytes(sent[ICMP].payload)) == (8, 9, b"hello")
        wire.send(ip(ICMP(type=0, id=sent[ICMP].id ^ 1, seq=9) / Raw(b"hello")))
        with pytest.raises(BlockingIOError):
            s.recv(100)
        wire.send(ip(ICMP(type=0, id=sent[ICMP].id, seq=9) / Raw(b"hello")))
        data, (host, _) = s.recvfrom(100)
        assert host == PEER
        assert data[8:] == b"hello"
    assert wire.net.now_ns() == SECOND
    assert IP in sent
