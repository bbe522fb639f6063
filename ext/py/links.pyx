"""Links as Python objects: the base class and ``pair()``. See also ``pipe``, ``devices``, ``wrappers``.

A link is made by its user, handed to one stack, and closed with it. Sizes are in bytes, times in nanoseconds.
"""

import os
from collections.abc import Iterable

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from ustack._core.base.codes cimport (
    CAP_FAULTS, CAP_GATHER, CAP_NEED_WAKEUP, CAP_RX_CSUM, CAP_TSO4, CAP_TSO6, CAP_TX_CSUM, CAP_USO,
    CAP_ZEROCOPY_RX, CAP_ZEROCOPY_TX, LINK_DOWN, LINK_UP,
)
from ustack._core.link.link cimport link, link_stats
from ustack._core.link.memory cimport memory_options, memory_pair

MTU_MIN = 68                    # RFC 791: what every IPv4 link must carry
MTU_MAX = 65535                 # an IPv4 packet's total length has 16 bits

CAPABILITIES = {
    "tx_csum": CAP_TX_CSUM, "rx_csum": CAP_RX_CSUM, "tso4": CAP_TSO4, "tso6": CAP_TSO6, "uso": CAP_USO,
    "gather": CAP_GATHER, "zerocopy_rx": CAP_ZEROCOPY_RX, "zerocopy_tx": CAP_ZEROCOPY_TX,
    "need_wakeup": CAP_NEED_WAKEUP, "faults": CAP_FAULTS,
}
OFFLOADS = {
    "csum": CAP_TX_CSUM | CAP_RX_CSUM, "tx_csum": CAP_TX_CSUM, "rx_csum": CAP_RX_CSUM,
    "tso": CAP_TSO4 | CAP_TSO6, "tso4": CAP_TSO4, "tso6": CAP_TSO6, "uso": CAP_USO,
}


cdef int fail(int result, str text) except -1:
    raise OSError(-result, f"{text}: {os.strerror(-result)}" if text else os.strerror(-result))


cdef uint32_t offload_caps(object offloads) except? 0xFFFFFFFF:
    cdef uint32_t caps = 0
    if offloads is True:
        return CAP_TX_CSUM | CAP_RX_CSUM | CAP_TSO4 | CAP_TSO6 | CAP_USO
    if offloads is False or offloads is None:
        return 0
    if isinstance(offloads, str) or not isinstance(offloads, Iterable):
        raise TypeError(f"offloads is True, False or a collection of {sorted(OFFLOADS)}, not {offloads!r}")
    for name in offloads:
        if name not in OFFLOADS:
            raise ValueError(f"no offload {name!r}: choose among {sorted(OFFLOADS)}")
        caps |= <uint32_t>OFFLOADS[name]
    if caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO) and not (caps & CAP_TX_CSUM and caps & CAP_RX_CSUM):
        raise ValueError("super-segments have partial checksums: 'tso' and 'uso' need 'csum'")
    return caps


def check_range(str name, int64_t value, int64_t low, int64_t high):
    """Return ``value`` if it lies in [low, high], else raise ValueError."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, not {value}")
    return value


def random_mac() -> bytes:
    """A random unicast Ethernet address of 6 bytes, locally administered (IEEE 802: U/L bit set)."""
    mac = bytearray(os.urandom(6))
    mac[0] = (mac[0] & 0xFC) | 2
    return bytes(mac)


def parse_mac(mac) -> bytes:
    """Six bytes of a unicast Ethernet address, from bytes or ``"02:00:…:01"``; a random one for None."""
    if mac is None:
        return random_mac()
    if isinstance(mac, str):
        try:
            mac = bytes(int(part, 16) for part in mac.replace("-", ":").split(":"))
        except ValueError:
            mac = b""
    if not isinstance(mac, (bytes, bytearray)) or len(mac) != 6 or mac[0] & 1 or not any(mac):
        raise ValueError("a MAC address is 6 bytes of a unicast station, such as '02:00:00:00:00:01'")
    return bytes(mac)


cdef class Link:
    """What a stack is attached to: a burst device with capabilities.

    A link belongs to one stack (or to one link that wraps it) from the moment it is handed over, and is
    closed with it. A link that was never handed over is closed with ``close()``, a ``with`` block, or its
    last reference.
    """

    def __init__(self, *args, **kwargs):
        if type(self) is Link:
            raise TypeError("Link is a base class: make a Pipe, pair(), Tap or PacketRing")

    cdef int adopt(self, link *made) except -1:
        self.dev = made
        self.kind_name = made.ops.kind
        return 0

    cdef link *claim(self, object owner) except NULL:
        if self.dev == NULL:
            raise ValueError(f"{self!r} is closed")
        if self.user is not None:
            raise ValueError(f"{self!r} is in use by a {self.user}: a link belongs to one stack or wrapper")
        self.user = type(owner).__name__
        return self.dev

    cdef void release(self):
        self.user = None
        if self.dev != NULL:
            self.dev.mem = NULL
            self.dev.src = NULL
            self.dev.book = NULL
            self.dev.notify = NULL
            self.dev.notify_arg = NULL
        free(self.flips)
        self.flips = NULL

    def close(self):
        """Close the link and free what it holds; idempotent. A stack's link is closed by its stack."""
        cdef link *dev = self.dev
        if dev == NULL:
            return
        if self.user is not None:
            raise ValueError(f"{self!r} is in use by a {self.user}: close that instead")
        self.last = dev.stats
        self.dev = NULL
        with nogil:
            dev.ops.close(dev)

    def __dealloc__(self):
        if self.dev != NULL:
            self.dev.ops.close(self.dev)
            self.dev = NULL

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.user is None:
            self.close()

    def __repr__(self):
        return f"<{type(self).__name__} {self.state} mtu={self.mtu if self.dev != NULL else '-'}>"

    @property
    def kind(self) -> str:
        """What kind of link: "memory", "pipe", "tap", "packet_ring", "impair", "capture"."""
        return self.kind_name.decode() if self.kind_name != NULL else "none"

    @property
    def layer(self) -> int:
        """2: packets are Ethernet frames; 3: they are IP packets. 0 when closed."""
        return self.dev.layer if self.dev != NULL else 0

    @property
    def mtu(self) -> int:
        """Bytes of the largest IP packet on the wire; 0 when closed."""
        return self.dev.mtu if self.dev != NULL else 0

    @property
    def gso_max(self) -> int:
        """Bytes of the largest super-segment (an IP packet); the MTU without TSO, 0 when closed."""
        return self.dev.gso_max if self.dev != NULL else 0

    @property
    def max_sg(self) -> int:
        """Blocks that a transmitted packet may consist of; 1 is contiguous only, 0 when closed."""
        return self.dev.max_sg if self.dev != NULL else 0

    @property
    def mac(self):
        """Our Ethernet address on it, 6 bytes; None at layer 3 and when closed."""
        return (<bytes>self.dev.mac[:6]) if self.dev != NULL and self.dev.layer == 2 else None

    @property
    def capabilities(self) -> frozenset:
        """What the link does by itself: names such as "tx_csum", "tso4", "gather"."""
        cdef uint32_t caps = self.dev.caps if self.dev != NULL else 0
        return frozenset(name for name, bit in CAPABILITIES.items() if caps & <uint32_t>bit)

    @property
    def state(self) -> str:
        """ "up", "down" (no carrier, may come back), "gone" (the device vanished) or "closed"."""
        if self.dev == NULL:
            return "closed"
        return "up" if self.dev.state == LINK_UP else "down" if self.dev.state == LINK_DOWN else "gone"

    @property
    def attached(self) -> bool:
        """Whether a stack or a wrapping link uses it."""
        return self.user is not None

    @property
    def stats(self) -> dict:
        """Packets, bytes, losses by reason and system calls since it was made."""
        cdef link_stats s = self.dev.stats if self.dev != NULL else self.last
        return s


cdef class Memory(Link):
    """One end of a cable inside the process: see ``pair``."""


def pair(*, int layer=3, mtu=MTU_MAX, offloads=True, int max_sg=MTU_MAX, int queue=256, macs=(None, None),
         bint device=False):
    """Two links that are the ends of one cable in this process: packets pass by reference, nothing is copied.

    ``mtu`` is in bytes. ``offloads`` is True, False or names among "csum", "tso", "uso": with csum no
    checksum is ever computed, with tso super-segments of up to 64 KB pass whole. ``max_sg`` is the number of
    blocks that a packet may have; 1 makes the stack copy it together. ``queue`` is packets in flight in each
    direction: a full queue pushes back. ``macs`` are the two Ethernet addresses at layer 2; None is a random
    one. With ``device`` the receiving end moves the bytes to memory of its own stack, as a network card would (ledger:
    device.rx), instead of taking over the sender's storage.
    """
    cdef memory_options o
    cdef link *a = NULL
    cdef link *b = NULL
    cdef int i, r
    if layer not in (2, 3):
        raise ValueError("layer is 2 (Ethernet frames) or 3 (IP packets)")
    o.layer = layer
    o.mtu = check_range("mtu", mtu, MTU_MIN, MTU_MAX)
    o.max_sg = check_range("max_sg", max_sg, 1, 65535)
    o.queue = check_range("queue", queue, 1, 1 << 20)
    o.device = device
    o.caps = offload_caps(offloads)
    if not device:
        o.caps |= CAP_ZEROCOPY_RX | CAP_ZEROCOPY_TX
    if max_sg > 1:
        o.caps |= CAP_GATHER
    o.gso_max = MTU_MAX if o.caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO) else o.mtu
    if isinstance(macs, (str, bytes)) or len(macs) != 2:
        raise ValueError("macs are two addresses, one for each end")
    for i in range(2):
        one = parse_mac(macs[i])
        memcpy(o.mac[i], PyBytes_AS_STRING(one), 6)
    cdef Memory left = Memory.__new__(Memory)
    cdef Memory right = Memory.__new__(Memory)
    r = memory_pair(&o, &a, &b)
    if r < 0:
        fail(r, "pair")
    left.adopt(a)
    right.adopt(b)
    return left, right
