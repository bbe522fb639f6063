"""Two ends of a wire, whatever the wire is and whoever is at the other end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from endpoint import Local, Remote

import ustack
from ustack import testbed

TUN = [pytest.mark.root, pytest.mark.tun]

#: name of a wire: marks of the tests over it
WIRES = {
    "tap": TUN,  # super-frames, partial checksums
    "tap-plain": TUN,  # frames of the MTU, checksums in software
    "tap-csum": TUN,
    "tun": TUN,
    "ring": [pytest.mark.root],  # veth, packet rings, the kernel at the other end
    "ring-plain": [pytest.mark.root],
    "rings": [pytest.mark.root],  # veth, two stacks in two processes
}


def wires(*names: str) -> list[object]:
    """Parameters for the ``wire`` fixture: names of WIRES, all if none."""
    return [pytest.param(name, marks=WIRES[name], id=name) for name in names or WIRES]


@dataclass
class Wire:
    """A stack in this process (``ours``) and somebody else in another (``theirs``)."""

    ours: Local
    theirs: Remote
    our_ip: str
    their_ip: str
    link: ustack.Link
    peer: testbed.Namespace  # the namespace of the other end's device
    peer_device: str
    home: testbed.Namespace  # the namespace of our device; with a TAP there is one device, and one namespace
    home_device: str = "us0"

    @property
    def net(self) -> ustack.Stack:
        """The stack in this process."""
        return self.ours.net


OFFLOADS = {"": {}, "plain": {"offloads": False}, "csum": {"offloads": ["csum"]}}


@contextlib.contextmanager
def connect(name: str, mtu: int = 1500, **options: object) -> Iterator[Wire]:
    """A wire of WIRES with both ends; ``options`` go to the Stack in this process."""
    kind, _, how = name.partition("-")
    with contextlib.ExitStack() as cleanup:
        peer = home = cleanup.enter_context(testbed.Namespace("peer"))
        device = "us0"
        if kind in ("tap", "tun"):
            link = peer.tap("us0", "10.9.0.1/24", mtu, tun=kind == "tun", **OFFLOADS[how])
        else:
            home = cleanup.enter_context(testbed.Namespace("ours"))
            device = "k0"
            testbed.veth(peer, device, home, "us0", mtu)
            if kind == "ring":
                peer.add_address(device, "10.9.0.1/24")
            with home.entered():
                link = ustack.PacketRing("us0", **OFFLOADS[how])
        cleanup.callback(link.close)
        theirs = Remote(peer, device, "10.9.0.1/24") if kind == "rings" else Remote(peer)
        cleanup.callback(theirs.close)
        net = cleanup.enter_context(ustack.Stack(**options))
        net.add_interface(link, addresses=["10.9.0.2/24"], gateway="10.9.0.1")
        ours = Local(net)
        cleanup.callback(ours.close)
        yield Wire(ours, theirs, "10.9.0.2", "10.9.0.1", link, peer, device, home)
