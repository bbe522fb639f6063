"""TCP against Linux, and between two stacks: every size, both ways, both at once; every way to begin and to end."""

import errno
import socket
import sys

import pytest
from endpoint import digest_of
from wiring import WIRES, wires

import ustack
from ustack import testbed

SIZES = [0, 1, 1447, 1448, 1449, 65535, 65536, 65537, 10_000_000]


def connected(a, b, address):
    """Handles of a connection that b accepted: (a's, b's)."""
    listener, port = b.call("listen", address)
    accepting = b.start("accept", listener)
    mine = a.call("connect", address, port)
    theirs = accepting.result(60)
    b.call("close", listener)
    return mine, theirs


def both_ways(wire):
    """(client, server, server's address) with us as the client, then as the server."""
    return [(wire.ours, wire.theirs, wire.their_ip), (wire.theirs, wire.ours, wire.our_ip)]


@pytest.mark.parametrize("wire", wires(), indirect=True)
def test_sizes(wire):
    for client, server, address in both_ways(wire):
        for n in SIZES:
            c, s = connected(client, server, address)
            receiving = server.start("receive", s)
            sent = client.call("send", c, n, n)
            assert receiving.result(60) == (n, sent), f"{n} bytes"
            # The same amount back, over the other half of the same connection.
            receiving = client.start("receive", c)
            sent = server.call("send", s, n, n + 1)
            assert receiving.result(60) == (n, sent), f"{n} bytes back"
            client.call("close", c)
            server.call("close", s)


@pytest.mark.parametrize("wire", wires(), indirect=True)
def test_both_directions_at_once(wire):
    n, m = 20_000_000, 17_000_001
    for client, server, address in both_ways(wire):
        c, s = connected(client, server, address)
        a = client.start("exchange", c, n, 1)
        b = server.start("exchange", s, m, 2)
        assert a.result(60) == (m, digest_of(m, 2))
        assert b.result(60) == (n, digest_of(n, 1))
        client.call("close", c)
        server.call("close", s)


@pytest.mark.parametrize("wire", wires("tap", "ring", "rings"), indirect=True)
@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_gigabyte(wire, direction):
    n = 1 << 30
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    a, b = ((wire.ours, c), (wire.theirs, s))[:: 1 if direction == "to" else -1]
    receiving = b[0].start("receive", b[1])
    sent = a[0].start("send", a[1], n, 3)
    assert receiving.result(120) == (n, sent.result(120))


@pytest.mark.parametrize("wire", wires("ring-plain"), indirect=True)
def test_a_ring_of_short_frames_is_not_overrun(wire):
    """A slot holds one frame, however short: the window that is offered is what the slots hold of such frames. Some
    shorter ones may be among them: few may be lost, not window after window."""
    for namespace, device in ((wire.peer, wire.peer_device), (wire.home, wire.home_device)):
        namespace.offload(device, tso=False, gso=False, gro=False)
    n = 30_000_000
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    sending = wire.theirs.start("send", s, n, 8)
    assert wire.ours.call("receive", c) == (n, sending.result(60))
    assert wire.link.stats["rx_overrun"] < wire.link.stats["rx"] // 20


@pytest.mark.root
@pytest.mark.parametrize("delay", [0, 0.01])
def test_on_a_longer_path_the_window_is_more_than_a_ring_holds(delay):
    """What it holds is what can come while nobody looks, for a millisecond: the tenth part of a window of 10 ms."""
    with testbed.over_veth(rx_slots=16, offloads=False) as bed, ustack.Stack() as net:
        bed.peer.offload(bed.peer_device, tso=False, gso=False, gro=False)
        link = ustack.Impair(bed.link, rx={"delay": delay}) if delay else bed.link
        net.add_interface(link, addresses=[bed.address])
        with bed.peer.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((bed.peer_ip, 0))
            listener.listen()
            with net.create_connection(listener.getsockname()) as ours, listener.accept()[0] as theirs:
                for _ in range(4):
                    theirs.sendall(bytes(1000))
                    ours.recv(1000)
                info = theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        window = int.from_bytes(info[228:232], sys.byteorder)       # tcpi_snd_wnd
        assert (window > 5 * 16 * 1500) == bool(delay)


@pytest.mark.parametrize("wire", wires(), indirect=True)
def test_half_close(wire):
    """After a FIN in one direction the other goes on for as long as it likes; the end is seen once and again."""
    for client, server, address in both_ways(wire):
        c, s = connected(client, server, address)
        client.call("shutdown", c)
        assert server.call("sock_recv", s) == b""
        assert server.call("sock_recv", s) == b""
        for n in (1, 100_000, 3):
            receiving = client.start("receive", c, n)
            sent = server.call("send", s, n, n, False)
            assert receiving.result(60) == (n, sent)
        with pytest.raises(BrokenPipeError):
            client.call("sock_send", c, b"x")
        server.call("close", s)
        assert client.call("sock_recv", c) == b""
        client.call("close", c)


@pytest.mark.parametrize("wire", wires(), indirect=True)
def test_refused(wire):
    for client, _, address in both_ways(wire):
        with pytest.raises(ConnectionRefusedError) as e:
            client.call("connect", address, 1)
        assert e.value.errno == errno.ECONNREFUSED
    assert wire.net.stats()["tcp.rst_tx"] >= 1
    assert wire.net.stats()["tcp.no_port"] >= 1


@pytest.mark.parametrize("wire", wires(), indirect=True)
def test_reset_by_linger_zero(wire):
    for client, server, address in both_ways(wire):
        for closer, c_end in ((client, True), (server, False)):
            c, s = connected(client, server, address)
            gone, left, other = (c, s, server) if c_end else (s, c, client)
            receiving = other.start("sock_recv", left)      # blocked while the reset comes
            closer.call("linger", gone, 1, 0)
            closer.call("close", gone)
            with pytest.raises(ConnectionResetError):
                receiving.result(60)
            assert other.call("error_of", left) == 0        # the error was taken once
            assert other.call("sock_recv", left) == b""
            with pytest.raises(BrokenPipeError):
                other.call("sock_send", left, b"x")
            other.call("close", left)


@pytest.mark.parametrize("wire", wires(), indirect=True)
def test_closing_with_unread_data_resets(wire):
    """RFC 2525 2.17: whoever sent what is never read learns it."""
    for client, server, address in both_ways(wire):
        c, s = connected(client, server, address)
        server.call("sock_send", s, b"x" * 100)
        assert client.call("sock_recv", c, 1) == b"x"
        waiting = server.start("sock_recv", s)
        client.call("close", c)
        with pytest.raises(ConnectionResetError):
            waiting.result(60)
        server.call("close", s)


@pytest.mark.parametrize("wire", wires("tap", "tap-plain", "ring"), indirect=True)
@pytest.mark.parametrize("unread", [False, True])
def test_the_peer_is_killed(wire, unread):
    """The kernel closes for a process that died: FIN, or RST if it left data unread."""
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    assert wire.theirs.call("sock_send", s, b"last words") == 10
    assert wire.ours.call("sock_recv", c) == b"last words"
    if unread:
        wire.ours.call("sock_send", c, b"never read")
    waiting = wire.ours.start("sock_recv", c)
    wire.theirs.kill()
    if unread:
        with pytest.raises(ConnectionResetError):
            waiting.result(60)
    else:
        assert waiting.result(60) == b""
        wire.ours.call("sock_send", c, b"is anybody there?")        # answered with RST
        wire.net.ping(wire.their_ip, timeout=10)                    # which came before this
        with pytest.raises(BrokenPipeError):
            wire.ours.call("sock_send", c, b"hello?")
    # The stack goes on.
    assert wire.net.ping(wire.their_ip, timeout=10) < 10


@pytest.mark.parametrize("wire", wires("tap", "ring", "rings"), indirect=True)
def test_a_thousand_connections_at_once(wire):
    n = 1000
    for client, server, address in both_ways(wire):
        listener, port = server.call("listen", address, 0, n)
        accepting = server.start("accept_many", listener, n)
        mine = client.call("connect_many", address, port, n)
        theirs = accepting.result(60)
        client.call("say_names", mine)
        server.call("say_names", theirs)
        assert server.call("hear_names", theirs) == n
        assert client.call("hear_names", mine) == n
        for h in mine:
            client.call("close", h)
        assert all(server.start("sock_recv", h).result(60) == b"" for h in theirs)
        for h in theirs:
            server.call("close", h)
        server.call("close", listener)


@pytest.mark.parametrize("client_is_ours", [True, False])
@pytest.mark.parametrize("wire", wires("tap", "ring"), indirect=True)
def test_linger_waits_for_the_peer(wire, client_is_ours):
    """close() with SO_LINGER returns once all is acknowledged."""
    client, server, address = both_ways(wire)[0 if client_is_ours else 1]
    c, s = connected(client, server, address)
    client.call("linger", c, 1, 30)
    receiving = server.start("receive", s)
    sent = client.call("send", c, 5_000_000, 4, False)
    client.call("close", c)
    assert receiving.result(60) == (5_000_000, sent)


MTUS = [(name, mtu) for name in ("tap", "tap-plain", "ring", "rings") for mtu in (576, 9000, 65521)]


@pytest.mark.parametrize(
    "wire", [pytest.param(p, marks=WIRES[p[0]], id=f"{p[0]}-{p[1]}") for p in MTUS], indirect=True
)
def test_other_mtus(wire):

    for client, server, address in both_ways(wire):
        c, s = connected(client, server, address)
        a = client.start("exchange", c, 3_000_000, 1)
        b = server.start("exchange", s, 2_000_000, 2)
        assert a.result(60) == (2_000_000, digest_of(2_000_000, 2))
        assert b.result(60) == (3_000_000, digest_of(3_000_000, 1))


