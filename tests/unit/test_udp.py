"""UDP endpoints without an engine: who gets what, what is refused, what is counted, and what comes back from ICMP."""

import errno
from itertools import pairwise

import pytest
from inet_harness import ICMP, IP, MAC, OUR_MAC, PEER, UDP, US, Ether, Host, Raw, number

IN, OUT, ERR = 1, 4, 8
PEER_N, US_N = number(PEER), number(US)


def datagram(data: bytes = b"data", sport: int = 5, dport: int = 7, **fields: object) -> UDP:
    return UDP(sport=sport, dport=dport, **fields) / Raw(data)


def bound(host: Host, port: int = 7, addr: int = 0):
    u = host.udp_socket()
    assert u.bind(addr, port) == 0
    return u


def test_a_datagram_arrives_with_its_source():
    with Host() as host:
        u = bound(host)
        assert u.events() & IN == 0
        host.ip(datagram(), ttl=33)
        assert host.ready() == 1
        assert u.events() & IN
        assert u.recv(peek=True) == (b"data", PEER_N, 5, 33)
        assert u.recv() == (b"data", PEER_N, 5, 33)
        assert u.recv() is None
        host.ip(datagram(b""))
        assert u.recv() == (b"", PEER_N, 5, 64)
        u.close()


def test_checksums_and_lengths():
    with Host() as host:
        u = bound(host)
        host.ip(datagram(chksum=0))                          # none
        assert u.recv() is not None
        host.ip(datagram(chksum=1))
        host.ip(datagram(len=7))
        host.ip(datagram(len=13))
        host.ip(Raw(b"1234567"), proto=17)
        assert u.recv() is None
        counted = host.counted()
        assert counted["udp.bad_checksum"] == 1
        assert counted["udp.short"] == 3
        host.ip(datagram(chksum=1), facts={"csum": 1})       # the link has vouched for it
        assert u.recv() is not None
        short = datagram(b"data", len=10)
        host.ip(UDP(bytes(IP(src=PEER, dst=US) / short)[20:]), facts={"csum": 1})
        assert u.recv()[0] == b"da"                          # what lies behind is no part of it
        u.close()


def test_connect_filters():
    with Host() as host:
        u = bound(host)
        assert u.connect(PEER_N, 5) == 0
        assert u.local == (US_N, 7)
        host.ip(datagram(sport=6))
        host.ip(datagram(), src="10.0.0.3")
        assert u.recv() is None
        assert host.counted()["udp.no_port"] == 2
        host.sent()
        host.ip(datagram())
        assert u.recv() is not None
        assert u.disconnect() == 0
        assert u.local == (0, 7)
        assert u.disconnect() == -errno.ENOTCONN
        host.ip(datagram(sport=6))
        assert u.recv() is not None
        u.close()


def test_the_most_specific_endpoint_gets_it():
    with Host() as host:
        host.add_addr(host.eth, number("10.0.0.50"), 24)
        host.sent()
        a, b, c = host.udp_socket(), host.udp_socket(), host.udp_socket()
        for u in (a, b, c):
            u.option(reuse_addr=1)
        assert a.bind(0, 7) == b.bind(US_N, 7) == c.bind(US_N, 7) == 0
        assert c.connect(PEER_N, 5) == 0
        host.ip(datagram(b"connected"))
        host.ip(datagram(b"bound", sport=9))
        host.ip(datagram(b"any"), dst="10.0.0.50")
        assert [u.recv()[0] for u in (c, b, a)] == [b"connected", b"bound", b"any"]
        for u in (a, b, c):
            u.close()


def test_an_error_is_given_once_and_to_the_connected_endpoint_only():
    with Host() as host:
        u, other = bound(host), bound(host, 8)
        assert u.connect(PEER_N, 5) == 0
        assert u.send(b"x") == 0
        assert other.send(b"x", (PEER_N, 5)) == 0
        for sent in host.sent():
            host.ip(ICMP(type=3, code=3) / sent[IP])
        assert host.ready() == 1
        assert u.events() & ERR
        assert u.send(b"x") == -errno.ECONNREFUSED
        assert u.send(b"x") == 0
        assert other.send(b"x", (PEER_N, 5)) == 0
        host.ip(ICMP(type=3, code=1) / host.sent()[0][IP])   # a router's guess
        assert u.send(b"x") == 0
        assert host.counted()["udp.icmp_errors"] == 1
        u.close()
        other.close()


def test_a_silent_next_hop_is_an_error():
    with Host() as host:
        u = bound(host)
        assert u.connect(number("10.0.0.9"), 5) == 0
        assert u.send(b"x") == 0
        host.advance(4 * 10**9)
        assert u.send(b"x") == -errno.EHOSTUNREACH
        u.close()


@pytest.mark.parametrize("stride", [0, 500])
def test_what_is_sent(stride: int):
    with Host() as host:
        u = bound(host)
        for size in (0, 1, 511, 1472):
            data = bytes(i * 5 & 255 for i in range(size))
            assert u.send(data, (PEER_N, 5), stride=stride) == 0
            (frame,) = host.sent()
            assert bytes(frame[UDP].payload) == data
            assert (frame[UDP].sport, frame[UDP].dport, frame[UDP].len) == (7, 5, 8 + size)
            sum_sent = frame[UDP].chksum
            del frame[UDP].chksum
            assert Ether(bytes(frame))[UDP].chksum == sum_sent
        u.close()


def test_a_link_that_sums_gets_partial_checksums():
    with Host(caps=1) as host:
        u = bound(host)
        assert u.send(b"x", (PEER_N, 5)) == 0
        ((_, facts),) = host.eth.sent
        assert (facts["csum"], facts["csum_start"], facts["csum_offset"]) == (2, 34, 6)
        assert "tx.checksum" not in host.ledger()
        u.close()


def test_super_datagrams():
    with Host() as host:
        u = bound(host)
        data = bytes(i * 5 & 255 for i in range(5000))
        assert u.send(data, (PEER_N, 5), gso_size=1000) == 0
        frames = host.sent()
        assert [bytes(f[UDP].payload) for f in frames] == [data[i:i + 1000] for i in range(0, 5000, 1000)]
        assert len({f[IP].id for f in frames}) == 5
        assert u.send(data, (PEER_N, 5), gso_size=1473) == -errno.EINVAL
        assert u.send(bytes(200), (PEER_N, 5), gso_size=1) == -errno.EINVAL
        u.close()
    with Host(caps=1 | 16) as host:
        u = bound(host)
        assert u.send(data, (PEER_N, 5), gso_size=1000) == 0
        ((frame, facts),) = host.eth.sent
        assert (facts["gso_size"], facts["gso_type"], len(frame)) == (1000, 3, 14 + 28 + 5000)
        host.eth.drain()
        host.ip(datagram(data, chksum=0), facts={"gso_size": 1000, "gso_type": 3})
        assert [u.recv()[0] for _ in range(5)] == [data[i:i + 1000] for i in range(0, 5000, 1000)]
        assert u.recv() is None
        u.close()


def test_the_books():
    """Everything on the way of a datagram, in and out, is counted under its name."""
    with Host() as host:
        u = bound(host)
        host.ip(datagram())
        assert host.counted() == {"ip.rx": 1, "udp.rx": 1}
        assert u.send(b"x", (PEER_N, 5)) == 0
        assert host.counted() == {"ip.tx": 1, "udp.tx": 1, "offload.checksum": 1}
        assert u.send(bytes(3000), (PEER_N, 5), gso_size=1000) == 0
        assert host.counted() == {"ip.tx": 1, "udp.tx": 1, "offload.segment": 1}
        assert u.send(bytes(3000), (PEER_N, 5)) == 0
        assert host.counted() == {"ip.frag_tx": 3, "udp.tx": 1, "offload.checksum": 1}
        for frame in host.sent()[-3:]:
            host.ip(frame[IP].payload, proto=17, id=frame[IP].id, flags=frame[IP].flags, frag=frame[IP].frag)
        counted = host.counted()
        assert {k: counted[k] for k in ("ip.rx", "ip.frag_rx", "ip.frag_reassembled")} == {
            "ip.rx": 3, "ip.frag_rx": 3, "ip.frag_reassembled": 1}
        u.close()


def test_what_may_not_be_sent():
    with Host() as host:
        u = host.udp_socket()
        assert u.send(b"x") == -errno.EDESTADDRREQ
        assert u.send(b"x", (PEER_N, 0)) == -errno.EINVAL
        assert u.send(bytes(65508), (PEER_N, 5)) == -errno.EMSGSIZE
        assert u.send(b"x", (number("10.0.0.255"), 5)) == -errno.EACCES
        assert u.send(b"x", (number("255.255.255.255"), 5)) == -errno.EACCES
        assert u.connect(number("10.0.0.255"), 5) == -errno.EACCES
        assert host.sent() == []
        u.option(broadcast=1)
        assert u.send(b"x", (number("10.0.0.255"), 5)) == 0
        assert u.send(b"x", (number("224.1.2.3"), 5)) == 0
        first, second = host.sent()
        assert first.dst == "ff:ff:ff:ff:ff:ff"
        assert (second.dst, second[IP].ttl) == ("01:00:5e:01:02:03", 1)
        host.eth.room = 0
        assert u.send(b"x", (PEER_N, 5)) == -errno.EAGAIN
        assert u.events() & OUT == 0
        host.eth.room = 1
        assert u.events() & OUT
        u.option(shut_wr=1)
        assert u.send(b"x", (PEER_N, 5)) == -errno.EPIPE
        host.del_route(0, 0)
        u.option(shut_wr=0)
        assert u.send(b"x", (number("8.8.8.8"), 5)) == -errno.ENETUNREACH
        u.close()


def test_bind():
    with Host() as host:
        u = bound(host)
        assert u.bind(0, 8) == -errno.EINVAL
        v = host.udp_socket()
        assert v.bind(number("10.0.0.77"), 0) == -errno.EADDRNOTAVAIL
        assert v.bind(0, 7) == -errno.EADDRINUSE
        assert v.bind(US_N, 7) == -errno.EADDRINUSE
        assert v.bind(US_N, 8) == 0
        w = host.udp_socket()
        assert w.bind(0, 8) == -errno.EADDRINUSE
        assert w.bind(number("127.0.0.1"), 8) == 0           # another address
        for option in ("reuse_addr", "reuse_port"):
            a, b, c = host.udp_socket(), host.udp_socket(), host.udp_socket()
            a.option(**{option: 1})
            b.option(**{option: 1})
            assert (a.bind(0, 9), b.bind(0, 9)) == (0, 0)
            assert c.bind(0, 9) == -errno.EADDRINUSE         # all of them have to agree
            for x in (a, b, c):
                x.close()
        u.close()
        x = bound(host)                                      # free again
        for y in (v, w, x):
            y.close()


def test_ephemeral_ports_are_random_and_run_out():
    with Host() as host:
        sockets = [bound(host, 0) for _ in range(300)]
        ports = [s.local[1] for s in sockets]
        assert len(set(ports)) == 300
        assert all(32768 <= p <= 60999 for p in ports)
        steps = [b - a for a, b in pairwise(ports)]
        assert len(set(steps)) > 250
        sockets += [bound(host, 0) for _ in range(60999 - 32768 + 1 - 300)]
        last = host.udp_socket()
        assert last.bind(0, 0) == -errno.EADDRINUSE
        assert last.send(b"x", (PEER_N, 5)) == -errno.EAGAIN
        sockets.pop().close()
        assert last.bind(0, 0) == 0
        for s in (*sockets, last):
            s.close()


def test_reuse_port_spreads_flows_and_keeps_each_where_it_is():
    with Host() as host:
        group = []
        for _ in range(4):
            u = host.udp_socket()
            u.option(reuse_port=1)
            assert u.bind(0, 7) == 0
            group.append(u)
        owner = {}
        for _ in range(2):
            for sport in range(1, 200):
                host.ip(datagram(sport=sport))
                (got,) = [i for i, u in enumerate(group) if u.recv()]
                assert owner.setdefault(sport, got) == got
        assert set(owner.values()) == {0, 1, 2, 3}
        for u in group:
            u.close()


def test_broadcasts_go_to_everyone_on_the_port():
    with Host() as host:
        sockets = []
        for addr in (0, number("10.0.0.255"), US_N, 0):
            u = host.udp_socket()
            u.option(reuse_addr=1)
            assert u.bind(addr, 7) == 0
            sockets.append(u)
        assert sockets[3].connect(number("10.0.0.3"), 5) == 0
        host.frame(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=PEER, dst="10.0.0.255") / datagram())
        assert [u.recv() is not None for u in sockets] == [True, True, False, False]
        host.frame(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=PEER, dst="10.0.0.255") / datagram(dport=9))
        assert host.sent() == []
        assert host.counted()["udp.no_port"] == 1
        for u in sockets:
            u.close()


def test_the_receive_buffer_is_bounded_by_storage_and_drops_the_newest():
    with Host() as host:
        u = bound(host)
        u.option(rcvbuf=20000)
        for i in range(100):
            host.ip(datagram(bytes([i])))
        assert u.held <= 20000
        dropped = host.counted()["udp.rcvbuf"]
        assert 0 < dropped < 100
        got = []
        while (received := u.recv()) is not None:
            got.append(received[0][0])
        assert got == list(range(100 - dropped))
        assert u.held == 0
        u.option(rcvbuf=1)
        host.ip(datagram())
        assert u.recv() is not None                          # one always fits
        u.close()


def test_payload_is_not_copied_on_the_way_in_or_out():
    with Host(caps=1) as host:
        u = bound(host)
        host.ip(datagram(bytes(1400)), facts={"csum": 1})
        u.recv()
        assert u.send(bytes(1400), (PEER_N, 5)) == 0
        assert host.ledger() == {"tx.copy": 1400}
        host.eth.drain()
        u.close()


def test_loopback_and_ourselves():
    with Host() as host:
        u, v = bound(host), host.udp_socket()
        for to in ("127.0.0.1", US, "127.9.9.9"):
            assert v.send(to.encode() * 1000, (number(to), 7)) == 0
            host.pump(host.lo)
            data, src, sport, _ = u.recv()
            assert data == to.encode() * 1000
            assert src == number(to)
            assert sport == v.local[1]
        assert v.send(b"x", (number("127.0.0.1"), 99)) == 0
        assert host.pump(host.lo) == 2                       # and the port unreachable
        assert v.connect(number("127.0.0.1"), 99) == 0
        assert v.send(b"x") == 0
        host.pump(host.lo)
        assert v.send(b"x") == -errno.ECONNREFUSED
        assert host.sent() == []
        u.close()
        v.close()


def test_frames_from_the_wire_cannot_pretend_to_be_local():
    with Host() as host:
        u = bound(host)
        host.ip(datagram(), src="127.0.0.1")
        host.ip(datagram(), src=US)
        host.ip(datagram(), dst="127.0.0.1")
        assert u.recv() is None
        u.close()


def test_an_interface_that_is_gone_is_not_asked():
    with Host() as host:
        u = bound(host)
        assert u.connect(PEER_N, 5) == 0
        assert u.send(b"x") == 0
        host.sent()
        host.remove_if(host.eth)
        host.eth.room = 0
        assert u.events() & OUT
        assert u.send(b"x") == -errno.ENETUNREACH
        other = host.add_if(mac=b"\x02\0\0\0\0\x05")
        assert host.add_addr(other, US_N, 24) == 0
        assert u.send(b"x") == 0                             # found its way anew: asks for the peer there
        assert other.drain()
        u.close()


def test_shutdown_for_reading_drops_and_reports():
    with Host() as host:
        u = bound(host)
        u.option(shut_rd=1)
        host.frame(Ether(src=MAC, dst=OUR_MAC) / IP(src=PEER, dst=US) / datagram())
        assert u.recv() is None
        assert u.events() & IN
        assert host.counted()["udp.rcvbuf"] == 1
        u.close()
