"""Networks to try things in: namespaces, veth pairs and TAPs, for the ``testbed`` extra (pyroute2).

    with testbed.over_tap() as bed, ustack.Stack() as net:
        net.add_interface(bed.link, addresses=[bed.address], gateway=bed.peer_ip)
        server = bed.peer.socket()              # a socket of the kernel, at the other end of the wire

A namespace is held by a file descriptor of this process and has no name: it ends with its holder, together
with every device in it, however the holder ends. Programs started in one die with the thread that started
them. Needs CAP_SYS_ADMIN and CAP_NET_ADMIN: those of root, or those that :func:`enter_user_namespace` gives
to anybody where the kernel allows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from ustack import PacketRing, Tap

__all__ = [
    "Bed",
    "Namespace",
    "enter_user_namespace",
    "over_tap",
    "over_veth",
    "set_congestion",
    "veth",
    "why_no_namespaces",
    "why_no_tun",
]

T = TypeVar("T")

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
NETNS = "/proc/thread-self/ns/net"
SIOCETHTOOL = 0x8946
IFA_F_NODAD = 0x02
IFF_UP = 1
RTN_LOCAL = 2
RTM_NEWLINK, NLM_F_REQUEST, NLM_F_ACK = 16, 1, 4  # linux/rtnetlink.h
IFLA_GSO_IPV4_MAX_SIZE = 63  # linux/if_link.h; pyroute2 does not know it
ETHTOOL_SET = {"rx": 0x15, "tx": 0x17, "sg": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}  # linux/ethtool.h
NO_NAMESPACES = (
    "network namespaces cannot be made here ({}): run as root, or in a user namespace of your own:"
    "  unshare --user --map-root-user --net COMMAND"
)

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _setns(fd: int) -> None:
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


def _in_thread(function: Callable[[], T]) -> T:
    """Call in a thread that ends afterwards: what it does to its own namespaces ends with it."""
    outcome: list[T] = []
    error: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(function())
        except BaseException as e:
            error.append(e)

    thread = threading.Thread(target=body, name="ustack-testbed")
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return outcome[0]


def _new_namespace() -> int:
    """A file descriptor that holds a new network namespace."""

    def make() -> int:
        _unshare(CLONE_NEWNET)
        return os.open(NETNS, os.O_RDONLY | os.O_CLOEXEC)

    return _in_thread(make)


def why_no_namespaces() -> str | None:
    """None where this process can make namespaces with devices in them, else a sentence with the remedy."""
    try:
        import pyroute2  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return "pyroute2 is missing:  pip install 'ustack[testbed]'"

    def attempt() -> None:
        _unshare(CLONE_NEWNET)
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()

    try:
        _in_thread(attempt)
    except OSError as e:
        return NO_NAMESPACES.format(os.strerror(e.errno or errno.EPERM))
    return None


def why_no_tun() -> str | None:
    """None where /dev/net/tun may be opened, else a sentence with the remedy."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "there is no /dev/net/tun: as root run  modprobe tun  (in a container: --device /dev/net/tun)"
    except OSError as e:
        reason = os.strerror(e.errno or errno.EPERM)
        return f"/dev/net/tun may not be opened ({reason}): run as root, or:  sudo chmod 0666 /dev/net/tun"
    return None


def enter_user_namespace() -> str | None:
    """Become root of a new user and network namespace, for good: what an ordinary user needs for this module.

    Returns None when the process can make namespaces afterwards (if it could before, nothing changes), else
    a sentence with the remedy. Works only while the process has a single thread.
    """
    if why_no_namespaces() is None:
        return None
    uid, gid = os.getuid(), os.getgid()
    try:
        _unshare(CLONE_NEWUSER | CLONE_NEWNET)
        for name, text in [("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")]:
            with open(f"/proc/self/{name}", "w") as f:
                f.write(text)
    except OSError as e:
        return NO_NAMESPACES.format(e.strerror)
    return why_no_namespaces()


def set_congestion(sock: socket.socket, name: str) -> None:
    """Choose the congestion control of one socket of the kernel (a new namespace refuses the sysctl)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def _tied(command: Sequence[str]) -> list[str]:
    """The command, so that the kernel kills it when the thread that starts it ends."""
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(errno.ENOENT, "no such program: install it, or give its path", command[0])
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else list(command)


class Namespace:
    """A network namespace with nothing but a loopback device, which is up. IPv6 is switched off in it unless ``ip6``.

    A context manager; :meth:`close` ends the programs that :meth:`popen` started and lets the namespace go.
    """

    def __init__(self, label: str = "testbed", *, ip6: bool = False) -> None:
        self.label = label
        self.fd = -1
        self._programs: list[subprocess.Popen[Any]] = []
        try:
            self.fd = _new_namespace()
        except OSError as e:
            reason = os.strerror(e.errno or errno.EPERM)
            raise PermissionError(e.errno, NO_NAMESPACES.format(reason)) from None
        for scope in () if ip6 else ("all", "default"):
            with contextlib.suppress(OSError):  # a read-only /proc/sys: some noise on the wires, no worse
                self.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1")
        self.up("lo")

    def __repr__(self) -> str:
        return f"<Namespace {self.label!r} fd={self.fd}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End our programs, let the namespace go. It lives on while sockets or links made in it are open."""
        while self._programs:
            _end(self._programs.pop())
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextlib.contextmanager
    def entered(self) -> Iterator[Self]:
        """The calling thread is in the namespace: sockets, devices and programs it makes belong there."""
        home = os.open(NETNS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self.fd)
            try:
                yield self
            finally:
                _setns(home)
        finally:
            os.close(home)

    # --- what lives in it

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0
    ) -> socket.socket:
        """A socket of the kernel in this namespace; usable from anywhere."""
        with self.entered():
            return socket.socket(family, kind, proto)

    def run(self, *command: str, timeout: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
        """``subprocess.run`` in the namespace, output captured as text unless ``options`` say otherwise."""
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | options
        with self.entered():
            return subprocess.run(_tied(command), timeout=timeout, **options)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """``subprocess.Popen`` in the namespace. It ends with :meth:`close` or the calling thread."""
        options = {"stdin": subprocess.DEVNULL} | options
        with self.entered():
            program = subprocess.Popen(_tied(command), **options)
        self._programs.append(program)
        return program

    def sysctl(self, name: str, value: str) -> None:
        """Write ``/proc/sys/<name>`` as the namespace sees it, for instance ``net/ipv4/tcp_sack``."""
        with self.entered(), open(f"/proc/sys/{name}", "w") as f:
            f.write(value)

    # --- devices and addresses

    def _netlink(self, act: Callable[[Any], T]) -> T:
        from pyroute2 import IPRoute

        with self.entered(), IPRoute() as ip:
            return act(ip)

    def _index(self, ip: Any, device: str) -> int:
        found = ip.link_lookup(ifname=device)
        if not found:
            raise OSError(errno.ENODEV, f"no device {device!r} in namespace {self.label!r}")
        return int(found[0])

    def links(self) -> list[str]:
        """Names of the devices."""
        return self._netlink(lambda ip: [link.get_attr("IFLA_IFNAME") for link in ip.get_links()])

    def up(self, device: str) -> None:
        """Switch a device on."""
        self.set(device, state="up")

    def down(self, device: str) -> None:
        """Switch a device off."""
        self.set(device, state="down")

    def set(self, device: str, **attributes: Any) -> None:
        """Set link attributes as pyroute2 names them: ``state``, ``mtu``, ``address`` (MAC), ``txqlen`` …"""
        self._netlink(lambda ip: ip.link("set", index=self._index(ip, device), **attributes))

    def offload(self, device: str, **on: bool) -> None:
        """Switch features of a device, as ``ethtool -K`` names them: ``rx``, ``tx``, ``sg``, ``tso``, ``gso``, ``gro``.

        Raises KeyError for another name, OSError (EOPNOTSUPP, ENODEV ...) where the device refuses.
        """
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for feature, wanted in on.items():
                value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_SET[feature], wanted), 8)
                request = struct.pack("16sP16x", os.fsencode(device), ctypes.addressof(value))
                fcntl.ioctl(s, SIOCETHTOOL, request)

    def gso_max(self, device: str, size: int) -> None:
        """Let TCP over IPv4 have super-segments of up to ``size`` bytes there: ``ip link set … gso_ipv4_max_size``.

        Raises OSError: EINVAL where the driver takes no longer ones, ENODEV. Linux before 6.3 ignores it.
        """
        with self.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
            index = self._netlink(lambda ip: self._index(ip, device))
            body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + struct.pack("=HHI", 8, IFLA_GSO_IPV4_MAX_SIZE, size)
            s.send(struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
            (error,) = struct.unpack_from("=i", s.recv(8192), 16)
            if error:
                raise OSError(-error, f"{device!r} refuses super-segments of {size} bytes: {os.strerror(-error)}")

    def remove(self, device: str) -> None:
        """Delete a device; a veth goes with its peer."""
        self._netlink(lambda ip: ip.link("del", index=self._index(ip, device)))

    def add_address(self, device: str, address: str) -> None:
        """Give a device an address like ``"10.9.0.1/24"`` or ``"fd00::1/64"``, usable at once if the device is up."""
        host, _, prefix = address.partition("/")
        v6 = ":" in host
        length = int(prefix or (128 if v6 else 32))
        more = {"flags": IFA_F_NODAD} if v6 else {}

        def add(ip: Any) -> bool:
            index = self._index(ip, device)
            ip.addr("add", index=index, address=host, prefixlen=length, **more)
            return bool(ip.get_links(index)[0]["flags"] & IFF_UP)

        if self._netlink(add) and v6:
            self._await_local(host)

    def _await_local(self, address: str) -> None:
        """Until the kernel takes packets to an address of IPv6: it makes the route to itself a moment later."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if self._netlink(lambda ip: [route["type"] for route in ip.route("get", dst=address)]) == [RTN_LOCAL]:
                return
            time.sleep(0.002)
        raise TimeoutError(f"{address} has not become an address of this namespace")

    def add_route(self, destination: str, gateway: str) -> None:
        """Route ``destination`` (``"default"`` or ``"10.8.0.0/16"``) over ``gateway``."""
        self._netlink(lambda ip: ip.route("add", dst=destination, gateway=gateway))

    def tap(self, device: str, address: str | None = None, mtu: int = 1500, **options: Any) -> Tap:
        """A TAP made here by :class:`ustack.Tap` (``options`` go there), up; the kernel has ``address``."""
        from ustack import Tap

        with self.entered():
            link = Tap(device, **options)
        try:
            if address:
                self.add_address(device, address)
            self.set(device, mtu=mtu, state="up")
            if address and ":" in address:
                self._await_local(address.partition("/")[0])
        except BaseException:
            link.close()
            raise
        return link


def _end(program: subprocess.Popen[Any]) -> None:
    if program.poll() is None:
        program.terminate()
        try:
            program.wait(2)
        except subprocess.TimeoutExpired:
            program.kill()
    program.wait()
    for stream in (program.stdin, program.stdout, program.stderr):
        if stream is not None:
            stream.close()


def veth(a: Namespace, a_device: str, b: Namespace, b_device: str, mtu: int = 1500) -> None:
    """A virtual cable between two namespaces; both ends are up, without addresses."""
    peer = {"ifname": b_device, "net_ns_fd": b.fd}
    a._netlink(lambda ip: ip.link("add", ifname=a_device, kind="veth", peer=peer))
    a.set(a_device, mtu=mtu, state="up")
    b.set(b_device, mtu=mtu, state="up")


@dataclass
class Bed:
    """A wire with the kernel at one end and a link for a stack at the other."""

    peer: Namespace  # where the kernel's end is
    peer_device: str
    peer_address: str  # "10.9.0.1/24"
    link: Tap | PacketRing  # for Stack.add_interface; whoever takes it closes it
    address: str  # for the stack: "10.9.0.2/24"

    @property
    def peer_ip(self) -> str:
        """The kernel's address, without the prefix."""
        return self.peer_address.partition("/")[0]

    @property
    def ip(self) -> str:
        """The stack's address, without the prefix."""
        return self.address.partition("/")[0]


@contextlib.contextmanager
def over_tap(
    peer_address: str = "10.9.0.1/24", address: str = "10.9.0.2/24", mtu: int = 1500, **options: Any
) -> Iterator[Bed]:
    """A namespace with a TAP: the kernel at ``peer_address``, ``bed.link`` for a stack at ``address``."""
    with Namespace("tap", ip6=":" in peer_address) as peer:
        link = peer.tap("us0", peer_address, mtu, **options)
        try:
            yield Bed(peer, "us0", peer_address, link, address)
        finally:
            link.close()


@contextlib.contextmanager
def over_veth(
    peer_address: str = "10.9.0.1/24", address: str = "10.9.0.2/24", mtu: int = 1500, **options: Any
) -> Iterator[Bed]:
    """A veth: the kernel at one end, at ``peer_address``; a packet ring at the other, without an address."""
    from ustack import PacketRing

    with Namespace("peer") as peer, Namespace("ours") as ours:
        veth(peer, "k0", ours, "us0", mtu)
        peer.add_address("k0", peer_address)
        with ours.entered():
            link = PacketRing("us0", **options)
        try:
            yield Bed(peer, "k0", peer_address, link, address)
        finally:
            link.close()
