"""Devices that go down, come back and vanish while data flows; and wires that lose."""

import errno
import socket

import pytest
from endpoint import digest_of
from test_transfer_stream import connected
from wiring import wires

import ustack
from ustack import testbed


def until(condition, net):
    """Drive the stack (waiting in a call that times out) until the condition holds."""
    with net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("0.0.0.0", 0))
        s.settimeout(0.05)
        for _ in range(200):
            if condition():
                return
            with pytest.raises(TimeoutError):
                s.recv(1)
    raise AssertionError("it did not happen in 10 s")


@pytest.mark.parametrize("wire", wires("tap", "ring"), indirect=True)
def test_a_device_deleted_while_data_flows(wire):
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    sending = wire.ours.start("send", c, 1 << 40)
    assert wire.theirs.call("receive", s, 1_000_000)[0] == 1_000_000
    wire.peer.remove(wire.peer_device)
    until(lambda: wire.net.stats().get("link.gone", 0) == 1, wire.net)
    assert wire.link.state == "gone"
    # The stack lives: it says what it can no longer do, and serves who does not need the device.
    with pytest.raises(OSError, match="cannot connect") as e:
        wire.ours.call("connect", wire.their_ip, 80)
    assert e.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
    with wire.net.create_server(("127.0.0.1", 0)) as server, wire.net.create_connection(server.getsockname()) as mine:
        other, _ = server.accept()
        mine.sendall(b"still here")
        assert other.recv(100) == b"still here"
        other.close()
    # A blocked sender is let go by closing its socket, as always.
    assert not sending.done()
    wire.ours.call("close", c)
    with pytest.raises(OSError, match="Bad file") as e:
        sending.result(60)
    assert e.value.errno == errno.EBADF


@pytest.mark.parametrize("wire", wires("tap", "ring"), indirect=True)
def test_a_device_that_goes_down_and_comes_back(wire):
    """Data in flight is lost, sent again, and arrives."""
    c, s = connected(wire.ours, wire.theirs, wire.their_ip)
    n = 300_000_000
    sending = wire.ours.start("send", c, n, 5)
    first = wire.theirs.start("receive", s)
    until(lambda: wire.net.stats().get("tcp.tx_bytes", 0) > 20_000_000, wire.net)
    wire.home.down(wire.home_device)
    until(lambda: wire.net.stats().get("link.down", 0) >= 1, wire.net)
    assert wire.link.state == "down"
    wire.home.up(wire.home_device)
    assert sending.result(60) == digest_of(n, 5)
    assert first.result(60) == (n, digest_of(n, 5))
    assert wire.link.state == "up"


@pytest.mark.root
def test_a_namespace_that_ends_while_we_are_attached():
    """Closing the last handle of a namespace deletes the veth in it: the ring at our end goes too."""
    home = testbed.Namespace("ours")
    peer = testbed.Namespace("peer")
    with home, ustack.Stack() as net:
        with peer:
            testbed.veth(peer, "k0", home, "us0")
            peer.add_address("k0", "10.9.0.1/24")
            with home.entered():
                net.add_interface(ustack.PacketRing("us0"), addresses=["10.9.0.2/24"])
            assert net.ping("10.9.0.1", timeout=10) > 0
        until(lambda: net.stats().get("link.gone", 0) == 1, net)
        with pytest.raises(OSError, match=r"timed out|unreachable|host|down"):
            net.ping("10.9.0.1", timeout=0.2)


@pytest.mark.root
@pytest.mark.tun
@pytest.mark.parametrize("kind", ["tap", "ring"])
def test_loss_between_us_and_linux(kind):
    """Both directions at once over a wire that loses, doubles, reorders and delays: the bytes are exact."""
    from endpoint import Local, Remote

    over = testbed.over_tap if kind == "tap" else testbed.over_veth
    with over() as bed, ustack.Stack() as net:
        link = ustack.Impair(bed.link, seed=7, loss=0.02, duplicate=0.01, reorder=0.01, delay=0.001)
        net.add_interface(link, addresses=[bed.address])
        theirs = Remote(bed.peer)
        ours = Local(net)
        try:
            c, s = connected(ours, theirs, bed.peer_ip)
            a = ours.start("exchange", c, 2_000_000, 1)
            b = theirs.start("exchange", s, 1_500_000, 2)
            assert a.result(60) == (1_500_000, digest_of(1_500_000, 2))
            assert b.result(60) == (2_000_000, digest_of(2_000_000, 1))
            assert net.stats()["tcp.retransmitted"] > 0
        finally:
            ours.close()
            theirs.close()
