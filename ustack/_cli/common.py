"""What the subcommands share: the options that choose a link, and the stack made from them."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ustack import Link, Stack


class Failure(Exception):
    """Ends the command with one line on stderr and an exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class LinkSpec:
    """The value of ``--link``."""

    kind: str  # "tap", "tun", "ring", "xdp" or "pair"
    name: str = ""


def link_spec(text: str) -> LinkSpec:
    """Parse ``tap:NAME``, ``tun:NAME``, ``ring:IFACE``, ``xdp:IFACE`` or ``pair``."""
    kind, _, name = text.partition(":")
    if kind == "pair" and not name:
        return LinkSpec("pair")
    if kind in ("tap", "tun", "ring", "xdp") and name:
        if len(name.encode()) > 15:
            raise argparse.ArgumentTypeError(f"{name!r} is longer than the 15 bytes of a device name")
        return LinkSpec(kind, name)
    raise argparse.ArgumentTypeError(f"{text!r} is none of tap:NAME, tun:NAME, ring:IFACE, xdp:IFACE, pair")


def interface_address(text: str) -> str:
    """Check ``A/N``: an address with its prefix length."""
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address like 10.9.0.2/24 or fd00::2/64"
        ) from None
    if "/" not in text:
        length = 24 if address.version == 4 else 64
        raise argparse.ArgumentTypeError(f"{text!r} lacks its prefix length, as in {text}/{length}")
    return str(address)


def host_address(text: str) -> str:
    """Check ``A``: an address without prefix."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address: names are not looked up"
        ) from None


def endpoint_text(host: object, port: object) -> str:
    """``10.9.0.2:80``, ``[fd00::2]:80``."""
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def port_number(text: str) -> int:
    """Check a port: 1 to 65535."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)")
    return int(text)


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """``--link``, ``--address``, ``--gateway``, ``--capture``."""
    group = parser.add_argument_group("the stack")
    group.add_argument(
        "--link",
        type=link_spec,
        default="tap:us0",
        metavar="LINK",
        help="tap:NAME, tun:NAME, ring:IFACE, xdp:IFACE or pair (default tap:us0)",
    )
    group.add_argument(
        "--address",
        type=interface_address,
        default="10.9.0.2/24",
        metavar="A/N",
        help="address of the stack with its prefix length (default 10.9.0.2/24); IPv6 over tun: and pair",
    )
    group.add_argument(
        "--gateway",
        type=host_address,
        metavar="A",
        help="next hop to everywhere else; with --link pair, the address of the peer (default there: the "
        "first other address of the network)",
    )
    group.add_argument("--capture", metavar="FILE", help="record all packets of the link there (pcapng)")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2)
    print()


def open_link(spec: LinkSpec) -> Link:
    """The device that ``--link tap:…`` or ``--link ring:…`` names."""
    import ustack

    try:
        if spec.kind == "ring":
            return ustack.PacketRing(spec.name)
        if spec.kind == "xdp":
            link = ustack.Xdp(spec.name)
            print(f"{spec.name}: AF_XDP, {link.mode}", file=sys.stderr)
            return link
        return ustack.Tap(spec.name, tun=spec.kind == "tun")
    except PermissionError as e:
        what = (
            "/dev/net/tun may not be opened, or the device not configured"
            if spec.kind not in ("ring", "xdp")
            else "packet sockets need CAP_NET_RAW"
            if spec.kind == "ring"
            else "AF_XDP needs CAP_BPF and CAP_NET_ADMIN of the real root"
        )
        raise Failure(
            f"{what} ({e.strerror}): run as root, or try --link pair"
        ) from None
    except OSError as e:
        raise Failure(f"--link {spec.kind}:{spec.name}: {e.strerror or e}") from None


def pair_peer(address: str, gateway: str | None) -> str:
    """Address with prefix of the peer stack of ``--link pair``."""
    own = ipaddress.ip_interface(address)
    if gateway:
        if ipaddress.ip_address(gateway) not in own.network or gateway == str(own.ip):
            raise Failure(f"with --link pair, --gateway is the peer: another address of {own.network}", 2)
        return f"{gateway}/{own.network.prefixlen}"
    for host in own.network.hosts():
        if host != own.ip:
            return f"{host}/{own.network.prefixlen}"
    raise Failure(f"{own.network} has no second address for the peer of --link pair", 2)


@dataclass
class Net:
    """The stack of a command; with ``--link pair`` also its peer."""

    stack: Stack
    address: str
    peer: Stack | None = None
    peer_ip: str | None = None


@contextlib.contextmanager
def stack_from(args: argparse.Namespace, label: str) -> Iterator[Net]:
    """The stack that the options describe, visible to ``ustack ss`` and ``ustack stat`` while it runs."""
    import ustack
    from ustack._cli import control, services

    spec: LinkSpec = args.link if isinstance(args.link, LinkSpec) else link_spec(args.link)
    with contextlib.ExitStack() as stack:
        net = Net(stack.enter_context(ustack.Stack()), args.address)
        gateway = args.gateway
        link: Link
        if spec.kind == "pair":
            peer_address = pair_peer(args.address, args.gateway)
            link, far = ustack.pair()
            net.peer = stack.enter_context(ustack.Stack())
            net.peer.add_interface(far, addresses=[peer_address])
            net.peer_ip = peer_address.partition("/")[0]
            stack.enter_context(services.in_background(net.peer, net.peer_ip))
            gateway = None
        else:
            link = open_link(spec)
        if args.capture:
            link = ustack.Capture(link, args.capture)
        net.stack.add_interface(link, addresses=[args.address], gateway=gateway)
        stacks = {"stack": net.stack} | ({"peer": net.peer} if net.peer else {})
        stack.enter_context(control.Endpoint(stacks, label))
        yield net


def per_second(amount: float, seconds: float) -> float:
    """``amount`` by ``seconds``, 0 for no time at all."""
    return amount / seconds if seconds > 0 else 0.0


def size(n: float) -> str:
    """Bytes for people: ``"1.5 MB"`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def table(rows: list[list[Any]], header: list[str]) -> str:
    """Columns as wide as they need to be: the first to the left, the others to the right."""
    text = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in text
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
