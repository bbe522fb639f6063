"""Links to the kernel: ``Tap`` and ``PacketRing``. They need privileges, and say which when they lack them."""

import os
import re
import time

from libc.errno cimport EACCES, EBUSY, EINVAL, ENOBUFS, ENODEV, ENOENT, ENOMEM, ENXIO, EPERM
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, strncpy

from ustack._core.base.codes cimport CAP_RX_CSUM, CAP_TSO4, CAP_TSO6, CAP_USO
from ustack._core.link.link cimport link
from ustack._core.link.packet_ring cimport (
    packet_ring_create, packet_ring_extent, packet_ring_replaced, ring_options,
)
from ustack._core.link.tap cimport tap_create, tap_options
from ustack._core.link.vnet cimport GSO_LONG, GSO_USUAL
from ustack._core.py.links cimport Link, fail, offload_caps
from ustack._core.sys.io cimport sys_close, sys_dup, sys_nonblock
from ustack._core.sys.netdev cimport (
    sys_if_hardware, sys_if_index, sys_if_mtu, sys_if_open, sys_if_set_mtu, sys_if_up,
)
from ustack._core.link.xdp cimport (
    XDP_FRAMES, XDP_ROOM, XDP_STEP_ATTACH, XDP_STEP_BIND, XDP_STEP_PROGRAM, XDP_STEP_RINGS, XDP_STEP_SOCKET,
    XDP_STEP_UMEM, xdp_create, xdp_facts, xdp_get_facts, xdp_options,
)
from ustack._core.sys.packet cimport (
    PACKET_FANOUT_CPU, PACKET_FANOUT_HASH, PACKET_FANOUT_LB, PACKET_FANOUT_QM, PACKET_FANOUT_ROLLOVER,
)
from ustack._core.sys.rtnl cimport sys_if_gso_max
from ustack._core.sys.tun cimport (
    IF_NAME, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN, IFF_VNET_HDR, TUN_F_CSUM, TUN_F_TSO4,
    TUN_F_TSO6, TUN_F_USO, sys_tun_attach, sys_tun_offload, sys_tun_open, sys_tun_query, sys_tun_vnet_len,
)

from ustack._core.sys.xdp cimport XDP_MODE_DRV, XDP_MODE_SKB

from ustack._core.py.links import MTU_MAX as _MTU_MAX
from ustack._core.py.links import MTU_MIN as _MTU_MIN
from ustack._core.py.links import check_range, parse_mac

ARPHRD_ETHER = 1
PRIVILEGE = (
    "run as root, or in a user and network namespace of your own ('unshare --user --map-root-user --net')"
)


cdef bytes device_name(object name):
    """A device name as the kernel takes it: 1 to 15 bytes."""
    if not isinstance(name, str):
        raise TypeError(f"a device name is a str, not {type(name).__name__}")
    encoded = os.fsencode(name)
    if not 0 < len(encoded) < IF_NAME or b"/" in encoded or b"\0" in encoded or encoded.isspace():
        raise ValueError(f"a device name has 1 to {IF_NAME - 1} characters, not {name!r}")
    return encoded


cdef int refuse(int e, str what, dict remedies) except -1:
    """Raise the OSError for -errno ``e`` with its remedy, if there is one for it."""
    remedy = remedies.get(-e)
    text = f"{what}: {os.strerror(-e)}"
    raise OSError(-e, f"{text}: {remedy}" if remedy else text)


cdef int gso_argument(object wished, int usual) except -1:
    """How long a super-segment may be: as wished, or what is usual with the device."""
    return usual if wished is None else check_range("gso_max", wished, GSO_USUAL, GSO_LONG)


cdef int gso_of_tap():
    """Longer ones than IPv4 has a length for (total length 0: "BIG TCP") are understood by Linux since 6.3."""
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return GSO_LONG if version and (int(version[1]), int(version[2])) >= (6, 3) else GSO_USUAL


cdef int gso_of_device(int index):
    """What the device is set to take: ``ip link set DEVICE gso_ipv4_max_size BYTES``; 65536 by default."""
    cdef int size = sys_if_gso_max(index)
    return min(size, GSO_LONG) if size > GSO_USUAL + 1 else GSO_USUAL


cdef class Device(Link):
    """A link to a network device of the kernel."""

    cdef int ctl                # a socket in the device's namespace, for questions about it; -1: none
    cdef uint32_t gso_wish
    cdef char name_[IF_NAME]

    def __cinit__(self, *args, **kwargs):
        self.ctl = -1

    def __dealloc__(self):
        if self.ctl >= 0:
            sys_close(self.ctl)

    cdef link *claim(self, object owner) except NULL:
        cdef link *dev = Link.claim(self, owner)
        self.refresh()          # the MTU may have been set since the link was made
        return dev

    cdef void refresh(self):
        cdef int mtu = sys_if_mtu(self.ctl, self.name_)
        if self.dev != NULL and _MTU_MIN <= mtu <= _MTU_MAX:
            self.dev.mtu = mtu
            if not self.dev.caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO):
                self.dev.gso_max = mtu

    cdef int open_ctl(self) except -1:
        self.ctl = sys_if_open()
        return self.ctl if self.ctl >= 0 else fail(self.ctl, "socket")

    cdef tuple ethernet(self, object name, str usable):
        """Index and MTU of an Ethernet device that is there; the socket for questions about it is open then."""
        cdef unsigned char mac[6]
        cdef int index
        self.open_ctl()
        index = sys_if_index(self.ctl, self.name_)
        if index < 0:
            refuse(index, f"no device {name!r} in this network namespace", {ENODEV: "see 'ip link'"})
        if sys_if_hardware(self.ctl, self.name_, mac) != ARPHRD_ETHER:
            raise ValueError(f"{name!r} is no Ethernet device: use {usable}")
        return index, min(max(sys_if_mtu(self.ctl, self.name_), _MTU_MIN), _MTU_MAX)

    def close(self):
        """Close the link; idempotent. A stack's link is closed by its stack."""
        Link.close(self)
        if self.ctl >= 0:
            sys_close(self.ctl)
            self.ctl = -1

    @property
    def name(self) -> str:
        """The device's name in its network namespace."""
        return os.fsdecode(<bytes>self.name_)


cdef class Tap(Device):
    """A TAP (Ethernet) or, with ``tun``, a TUN (IP) device: what the kernel sends to it, the stack receives.

    ``name`` is that of a device that exists or is to be made; with ``%d`` in it the kernel numbers it. One
    that is made here ends with the link. ``mtu`` in bytes is set on the device, else its own is used. ``mac``
    is the address of our side (bytes or text; random by default): it must not be the device's own, which is
    the kernel's side. ``offloads`` is True, False or names among "csum", "tso", "uso"; with them checksums
    are left to whoever needs them, and super-segments pass whole: what comes of up to 64 KB, what is sent of up to
    ``gso_max`` bytes (TCP over IPv4; 64 KB for all else): 192 KB where the kernel understands them (Linux 6.3), and
    65535 else. ``multi_queue`` opens one queue of a device that may have several. ``header_split`` reads the headers of
    each frame (Ethernet, IPv4, TCP with timestamps) apart, and payload to a page boundary, at the cost of a large
    buffer for every small frame (docs/techniques/page-flip.md). ``up`` brings the device up if that is permitted.

    Raises FileNotFoundError without /dev/net/tun, PermissionError where it or the device may not be opened,
    and OSError(EBUSY) when somebody else has it. Source: Documentation/networking/tuntap.rst of Linux.
    """

    def __init__(self, name="tap%d", *, mtu=None, mac=None, bint tun=False, offloads=True, gso_max=None,
                 bint multi_queue=False, bint up=True, bint header_split=False):
        cdef int flags = IFF_NO_PI | (IFF_TUN if tun else IFF_TAP)
        cdef uint32_t caps = offload_caps(offloads)
        cdef int fd, e
        if self.dev != NULL:
            raise ValueError("already made")
        encoded = device_name(name)
        if mtu is not None:
            check_range("mtu", mtu, _MTU_MIN, _MTU_MAX)
        self.split = header_split
        self.gso_wish = gso_argument(gso_max, gso_of_tap())
        mac = parse_mac(mac)
        strncpy(self.name_, encoded, IF_NAME - 1)
        if caps:
            flags |= IFF_VNET_HDR
        if multi_queue:
            flags |= IFF_MULTI_QUEUE
        fd = sys_tun_open()
        if fd < 0:
            refuse(fd, "cannot open /dev/net/tun", OPEN_REMEDIES)
        try:
            e = sys_tun_attach(fd, self.name_, flags)
            if e < 0:
                refuse(e, f"cannot attach to {name!r}", ATTACH_REMEDIES)
            self.open_ctl()
            if mtu is not None:
                e = sys_if_set_mtu(self.ctl, self.name_, mtu)
                if e < 0:
                    refuse(e, f"cannot set the MTU of {name!r} to {mtu}", {EPERM: PRIVILEGE})
            if up:
                sys_if_up(self.ctl, self.name_)     # else it starts as "down", which is no error
            self.open_link(fd, flags, caps, mac, sys_if_mtu(self.ctl, self.name_))
        except BaseException:
            sys_close(fd)
            raise

    @classmethod
    def from_fd(cls, int fd, *, mtu=None, mac=None, offloads=True, gso_max=None, bint header_split=False):
        """A link on a TAP or TUN that somebody else has opened and attached; the descriptor is duplicated.

        The device must have been made with IFF_NO_PI. ``offloads`` needs IFF_VNET_HDR, and is otherwise
        False. Where the device is in another network namespace, ``mtu`` tells its MTU, which cannot be asked
        from here.
        """
        cdef Tap self = <Tap>cls.__new__(cls)
        cdef int flags, own
        cdef uint32_t caps = offload_caps(offloads)
        self.split = header_split
        self.gso_wish = gso_argument(gso_max, gso_of_tap())
        mac = parse_mac(mac)
        flags = sys_tun_query(fd, self.name_)
        if flags < 0:
            fail(flags, f"descriptor {fd} is not an attached TAP or TUN")
        if not flags & IFF_NO_PI:
            raise ValueError(f"the TAP behind descriptor {fd} was made without IFF_NO_PI")
        own = sys_dup(fd)
        if own < 0:
            fail(own, f"cannot duplicate descriptor {fd}")
        try:
            self.open_ctl()
            if mtu is None:
                mtu = sys_if_mtu(self.ctl, self.name_)
            else:
                check_range("mtu", mtu, _MTU_MIN, _MTU_MAX)
                sys_close(self.ctl)
                self.ctl = -1
            sys_nonblock(own)
            self.open_link(own, flags, caps if flags & IFF_VNET_HDR else 0, mac, mtu if mtu > 0 else 1500)
        except BaseException:
            sys_close(own)
            raise
        return self

    cdef int open_link(self, int fd, int flags, uint32_t caps, bytes mac, int mtu) except -1:
        """Agree with the device on offloads, and make the link of it; takes ``fd`` on success."""
        cdef tap_options o
        cdef link *made
        cdef unsigned int offload = 0
        cdef int e = 0
        o.layer = 3 if flags & IFF_TUN else 2
        o.mtu = mtu if mtu >= _MTU_MIN else 1500
        o.vnet_len = 0
        memcpy(o.mac, <const char *>mac, 6)
        if flags & IFF_VNET_HDR:
            e = sys_tun_vnet_len(fd)
            if e not in (10, 12):
                raise ValueError(f"the virtio header of the device has {e} bytes, not 10 or 12")
            o.vnet_len = e
            offload = ((TUN_F_CSUM if caps & CAP_RX_CSUM else 0) | (TUN_F_TSO4 if caps & CAP_TSO4 else 0)
                       | (TUN_F_TSO6 if caps & CAP_TSO6 else 0) | (TUN_F_USO if caps & CAP_USO else 0))
            e = sys_tun_offload(fd, offload)
            if e == -EINVAL and offload & TUN_F_USO:
                caps &= ~<uint32_t>CAP_USO      # Linux before 6.2
                e = sys_tun_offload(fd, offload & ~TUN_F_USO)
            if e < 0:
                fail(e, "cannot set the offloads of the device")
        o.caps = caps
        o.gso_max = self.gso_wish
        o.split = self.split
        made = tap_create(fd, &o)
        if made == NULL:
            raise MemoryError("no memory for a TAP")
        return self.adopt(made)


cdef class PacketRing(Device):
    """A network device through AF_PACKET: frames are received from an mmap'd ring, without a call per packet.

    ``name`` is any Ethernet device: an end of a veth, a TAP's, a card. It must not carry our IP address, or the kernel,
    which sees the same frames, answers them too (TCP with RST). ``mac`` is our own address on the wire, random by
    default and not the device's; ``promiscuous`` receives frames for everybody. ``offloads`` (as in ``Tap``) concern
    what is sent: what comes may always be a super-frame or lack its checksum, as between veths. Super-segments of up to
    ``gso_max`` bytes are sent (TCP over IPv4; 64 KB for all else): by default as many as the device is set to take
    (``ip link set DEVICE gso_ipv4_max_size 196608``, Linux 6.3), or the kernel would cut them up. What is received
    has to fit a slot: the device at the other end must not be set to more than 65536 itself.

    ``rx_slots`` of 68 KB make the receive ring: few stay in the cache, many bear longer bursts. ``lend``
    allows received storage to be lent without a copy. ``tx`` is "sendmmsg" (the default, and faster on a veth) or
    "ring", an mmap'd ring of ``tx_slots``; with a ring nothing is lent. ``fanout`` shares a device's flows among
    several rings: a group number below 65536, or (group, mode) with a mode among "hash", "lb", "cpu", "rollover", "qm".

    Raises PermissionError without CAP_NET_RAW, OSError(ENODEV) without such a device, ValueError if it is no Ethernet.
    Source: packet(7), Documentation/networking/packet_mmap.rst of Linux.
    """

    def __init__(self, name, *, mac=None, offloads=True, gso_max=None, int rx_slots=128, tx="sendmmsg", int tx_slots=16,
                 fanout=None, bint promiscuous=False, bint qdisc_bypass=False, bint lend=True):
        cdef ring_options o
        cdef link *made = NULL
        cdef int e
        if self.dev != NULL:
            raise ValueError("already made")
        encoded = device_name(name)
        strncpy(self.name_, encoded, IF_NAME - 1)
        memcpy(o.name, self.name_, IF_NAME)
        o.caps = offload_caps(offloads)
        o.rx_slots = check_range("rx_slots", rx_slots, 4, 4096)
        if tx not in ("sendmmsg", "ring"):
            raise ValueError(f"tx is 'sendmmsg' or 'ring', not {tx!r}")
        o.tx_slots = check_range("tx_slots", tx_slots, 2, 4096) if tx == "ring" else 0
        o.fanout = fanout_argument(fanout)
        o.promiscuous = promiscuous
        o.qdisc_bypass = qdisc_bypass
        o.lend = lend
        mac = parse_mac(mac)
        memcpy(o.mac, <const char *>mac, 6)
        o.ifindex, o.mtu = self.ethernet(name, "a TAP, a veth or a card")
        o.gso_max = gso_argument(gso_max, GSO_USUAL if o.tx_slots else gso_of_device(o.ifindex))
        if o.tx_slots and o.gso_max > GSO_USUAL:
            raise ValueError(f"a slot of an mmap'd ring takes packets of up to {GSO_USUAL} bytes, not {gso_max}")
        e = packet_ring_create(&o, &made)
        if e < 0:
            refuse(e, f"cannot open a packet ring on {name!r}", RING_REMEDIES)
        self.adopt(made)

    @property
    def replaced(self) -> int:
        """How often a new ring took the place of one whose lent slots were not let go in time."""
        return packet_ring_replaced(self.dev) if self.dev != NULL else 0

    @property
    def extent(self) -> tuple:
        """Where the rings are mapped: (address, bytes); (0, 0) when closed."""
        cdef void *base = NULL
        cdef size_t length = 0
        if self.dev != NULL:
            packet_ring_extent(self.dev, &base, &length)
        return <size_t>base, length


cdef class Xdp(Device):
    """A network device through AF_XDP: the frames of one of its queues, past the kernel's own stack.

    ``name`` is any Ethernet device: an end of a veth, a card. A small program, which ends with the link (and with the
    process, however that ends), redirects the queue's frames here; the kernel's stack sees none of them. ``queue`` is
    the one of the device's receive queues; frames of others go to the kernel as before. ``mode`` is "native" (in the
    driver), "generic" (behind it, any device) or "auto": native, else generic; ``Xdp.mode`` says what was obtained, and
    ``zero_copy`` and ``multi_buffer`` (packets longer than a chunk of 4 KB) what the device and the kernel gave.
    Without multi_buffer the MTU is 3826 at most. ``frames`` chunks are for receiving, and as many for sending: a power
    of two. ``mac`` is our address on the wire, random by default.

    There are no offloads: a kernel at the other end of a veth must send complete checksums and single segments
    (``ethtool -K DEVICE tx off``; native mode switches segmentation offload off by itself, not checksums).

    Raises PermissionError without CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF, OSError: ENODEV without such a device, EBUSY
    if the queue or the device's program is taken; ValueError if it is no Ethernet.
    Source: Documentation/networking/af_xdp.rst of Linux.
    """

    cdef dict final_

    def __init__(self, name, *, int queue=0, mode="auto", mac=None, int frames=1024):
        cdef xdp_options o
        cdef link *made = NULL
        cdef int e, step = 0
        if self.dev != NULL:
            raise ValueError("already made")
        encoded = device_name(name)
        strncpy(self.name_, encoded, IF_NAME - 1)
        memcpy(o.name, self.name_, IF_NAME)
        if mode not in XDP_MODES:
            raise ValueError(f"mode is 'auto', 'native' or 'generic', not {mode!r}")
        o.modes = XDP_MODES[mode]
        o.queue = check_range("queue", queue, 0, 65535)
        o.frames = check_range("frames", frames, 64, XDP_FRAMES)
        if frames & (frames - 1):
            raise ValueError(f"frames must be a power of two, not {frames}")
        mac = parse_mac(mac)
        memcpy(o.mac, <const char *>mac, 6)
        o.ifindex, o.mtu = self.ethernet(name, "a veth or a card")
        e = xdp_create(&o, &made, &step)
        patience = time.monotonic() + XDP_RELEASED
        while e == -EBUSY and time.monotonic() < patience:
            time.sleep(0.002)
            e = xdp_create(&o, &made, &step)
        if e < 0:
            refuse(e, f"cannot open {name!r} by AF_XDP ({XDP_STEPS[step]})", XDP_REMEDIES)
        self.adopt(made)

    cdef void refresh(self):
        Device.refresh(self)
        if self.dev != NULL and self.dev.mtu > XDP_ROOM - 14 and not self.facts["multi_buffer"]:
            self.dev.mtu = self.dev.gso_max = XDP_ROOM - 14

    def close(self):
        """Close the link, detach the program and give the queue back; idempotent. A stack's link is closed by its
        stack."""
        if self.dev != NULL and self.user is None:
            self.final_ = self.facts
        Device.close(self)

    @property
    def facts(self) -> dict:
        """What was obtained, and what both sides counted: mode, zero_copy, multi_buffer, kernel_has (chunks that are
        being sent), bad_desc, and the kernel's rx_dropped, rx_invalid, tx_invalid, rx_ring_full, fill_empty, tx_empty.
        """
        cdef xdp_facts f
        if self.dev == NULL:
            return self.final_ or {}
        xdp_get_facts(self.dev, &f)
        facts = {"mode": "native" if f.mode == XDP_MODE_DRV else "generic", "zero_copy": bool(f.zerocopy),
                 "multi_buffer": bool(f.frags), "kernel_has": f.kernel_has, "bad_desc": f.bad_desc}
        return facts | {name: f.kernel[i] for i, name in enumerate(XDP_COUNTS)}

    @property
    def mode(self) -> str:
        """Where the program runs and who copies: "native, copy", "generic, copy" or "native, zero copy"."""
        facts = self.facts
        return f"{facts['mode']}, {'zero copy' if facts['zero_copy'] else 'copy'}" if facts else "closed"


XDP_RELEASED = 0.5              # seconds: the kernel gives a queue back some time after its socket was closed
XDP_MODES = {"auto": XDP_MODE_DRV | XDP_MODE_SKB, "native": XDP_MODE_DRV, "generic": XDP_MODE_SKB}
XDP_COUNTS = ("rx_dropped", "rx_invalid", "tx_invalid", "rx_ring_full", "fill_empty", "tx_empty")
XDP_STEPS = {XDP_STEP_SOCKET: "socket", XDP_STEP_UMEM: "memory", XDP_STEP_RINGS: "rings", XDP_STEP_BIND: "bind",
             XDP_STEP_PROGRAM: "program", XDP_STEP_ATTACH: "attach"}
XDP_REMEDIES = {
    EPERM: PRIVILEGE + "; programs for XDP are the real root's, a user namespace is not enough",
    EBUSY: "somebody else has this queue, or a program on this device",
    EINVAL: "there is no such queue, or the device cannot",
    ENOBUFS: "the memory exceeds the limit of locked memory (ulimit -l)",
}


cdef int fanout_argument(object fanout) except? -1:
    """The int that PACKET_FANOUT takes; -1 for None."""
    if fanout is None:
        return -1
    group, mode = fanout if isinstance(fanout, tuple) else (fanout, "hash")
    if mode not in FANOUT:
        raise ValueError(f"no fanout mode {mode!r}: choose among {sorted(FANOUT)}")
    return check_range("fanout group", group, 0, 65535) | <int>FANOUT[mode] << 16


FANOUT = {
    "hash": PACKET_FANOUT_HASH, "lb": PACKET_FANOUT_LB, "cpu": PACKET_FANOUT_CPU,
    "rollover": PACKET_FANOUT_ROLLOVER, "qm": PACKET_FANOUT_QM,
}
RING_REMEDIES = {
    EPERM: PRIVILEGE + ", or give the program CAP_NET_RAW",
    EACCES: PRIVILEGE + ", or give the program CAP_NET_RAW",
    EINVAL: "all rings of a fanout group must be on one device and of one mode",
    ENOMEM: "the kernel has no memory for the rings: use fewer slots",
}
OPEN_REMEDIES = {
    ENOENT: "load the driver with 'modprobe tun', or make the node with 'mknod /dev/net/tun c 10 200'",
    ENODEV: "the kernel has no TUN driver: load it with 'modprobe tun'",
    ENXIO: "the kernel has no TUN driver: load it with 'modprobe tun'",
    EACCES: PRIVILEGE + " where /dev/net/tun may be opened (mode 0666)",
    EPERM: PRIVILEGE + " where /dev/net/tun may be opened (mode 0666)",
}
ATTACH_REMEDIES = {
    EPERM: PRIVILEGE + ", or have it made for you: 'ip tuntap add NAME mode tap user YOU'",
    EBUSY: "another program has it; several may share one with multi_queue",
    EINVAL: "it exists and is no TAP (or, with tun, no TUN) of the same kind: mind 'tun' and 'multi_queue'",
}
