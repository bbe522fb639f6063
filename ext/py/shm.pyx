"""``SharedMemory``: a link between two stacks on one host, whose bytes are moved by a device process at each end."""

import contextlib
import errno
import os
import signal
import socket
import struct
import sys

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from ustack._core.base.codes cimport CAP_TSO4, CAP_TSO6, CAP_USO
from ustack._core.link.link cimport link
from ustack._core.link.shm cimport (
    SHM_DEVICE_ENDED, SHM_DEVICE_LIED, SHM_FINE, SHM_PEER_KEEPS, SHM_PEER_LEFT, SHM_PEER_LIED, shm_agree, shm_create,
    shm_ends, shm_get_stats, shm_options, shm_quiesce, shm_set_sinks, shm_start, shm_stats,
)
from ustack._core.link.shm_device cimport shm_count_name, shm_device_run
from ustack._core.link.shm_wire cimport (
    D_BAD_RING, D_COUNT, SHM_CONFIG, SHM_CONFIG_FDS, SHM_NOT_COUNT, SHM_PACKET, SHM_PIECES, SHM_SLOT, SHM_SLOTS,
    shm_order,
)
from ustack._core.py.links cimport Link, fail, offload_caps
from ustack._core.sys.passing cimport sys_pass
from ustack._core.sys.process cimport sys_collect
from ustack._core.sys.thread cimport sys_thread_join, sys_thread_start

from ustack._core.py.links import MTU_MAX as _MTU_MAX
from ustack._core.py.links import MTU_MIN as _MTU_MIN
from ustack._core.py.links import check_range, parse_mac

HELLO = struct.Struct("=8sIIII6s2x")
MAGIC = b"ustackS2"
READY_SECONDS = 60              # a device process that is not ready by then never will be


cdef class _Options:
    """The options of an end, checked."""

    cdef shm_options o
    cdef str device

    def __init__(self, *, int layer=3, mtu=_MTU_MAX, mac=None, offloads=True, int slots=64, int max_sg=16, max_seg=None,
                 int align=1, address_limit=None, bint outboard=False, device="process"):
        cdef shm_options *o = &self.o
        if layer not in (2, 3):
            raise ValueError("layer is 2 (Ethernet frames) or 3 (IP packets)")
        if device not in ("process", "thread"):
            raise ValueError(f"device is 'process' or 'thread', not {device!r}")
        o.layer = layer
        mac = parse_mac(mac)
        memcpy(o.mac, <const char *>mac, 6)
        o.mtu = check_range("mtu", mtu, _MTU_MIN, _MTU_MAX)
        o.caps = offload_caps(offloads)
        o.gso_max = _MTU_MAX if o.caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO) else o.mtu
        o.slots = check_range("slots", slots, 4, SHM_SLOTS)
        o.limits.max_sg = check_range("max_sg", max_sg, 1, SHM_PIECES)
        o.limits.align = check_range("align", align, 1, 4096)
        if align & (align - 1):
            raise ValueError(f"align must be a power of two, not {align}")
        o.limits.max_seg = check_range("max_seg", 1 << 30 if max_seg is None else max_seg, 1, 1 << 30)
        o.limits.address_limit = check_range("address_limit", 1 << 62 if address_limit is None else address_limit,
                                             SHM_SLOT, 1 << 62)
        if o.limits.max_seg % align or o.limits.address_limit % align:
            raise ValueError("max_seg and address_limit must be multiples of align")
        if <uint64_t>o.limits.max_seg * o.limits.max_sg < SHM_PACKET:
            raise ValueError(f"a device must reach a packet of {SHM_PACKET} bytes: max_sg times max_seg is less")
        o.limits.outboard = outboard
        self.device = device


cdef class SharedMemory(Link):
    """A link through shared memory: made by ``pair``, ``connect`` and a listener's ``accept``.

    Each end has a device: a process (or, with ``device="thread"``, a native thread) that plays the DMA engine. It
    fetches descriptors (region, offset, length) from a ring that it shares with its stack, gathers the pieces out of
    the regions, and moves them into the buffers that the other stack has posted. No CPU of the stack's process
    touches payload: it may be mapped there without any access.

    Options, each end its own:

    ``layer``      3 (IP packets) or 2 (Ethernet frames, with ``mac``); the same at both ends
    ``mtu``        in bytes; the smaller one counts
    ``offloads``   as for ``pair()``; what both ends have counts
    ``slots``      receive buffers of 68 KB, 4 to 1024
    ``max_sg``     pieces that the device gathers into one packet, 1 to 64
    ``max_seg``    bytes of a piece, at most
    ``align``      every piece begins at a multiple of it in its region: a power of two up to 4096
    ``address_limit``  the device reaches so many bytes of each region only
    ``outboard``   the device completes the checksums of packets that are no super-segments
    ``device``     "process" or "thread"

    ``device_pid`` and ``peer_pid`` are the processes of its device (0: a thread) and of the other stack.

    What violates the device's limits is copied to where it can reach it: exactly those bytes, booked as ``tx.bounce``
    in the stack's ledger; a packet with too many pieces is copied as a whole, as ``tx.flatten``.
    """

    cdef shm_ends ends
    cdef object sinks           # what the other side's device listens to; until it was passed on
    cdef _Options options
    cdef readonly int device_pid
    cdef readonly int peer_pid
    cdef dict final_

    def __init__(self, *args, **kwargs):
        raise TypeError("made by SharedMemory.pair(), connect() or listen(): it has two ends")

    @classmethod
    def pair(cls, **options):
        """Both ends in this process, for two stacks: (a, b)."""
        a = <SharedMemory>cls.__new__(cls)
        b = <SharedMemory>cls.__new__(cls)
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with left, right:
            try:
                a.create(_Options(**options))
                b.create(_Options(**options))
                a.offer(left)
                b.offer(right)
                _begin([(a, left), (b, right)])
            except BaseException:
                a.close()
                b.close()
                raise
        return a, b

    @classmethod
    def connect(cls, path, *, timeout=None, **options):
        """The other end of what listens at ``path``. TimeoutError after ``timeout`` seconds."""
        end = <SharedMemory>cls.__new__(cls)
        end.create(_Options(**options))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(timeout)
            try:
                sock.connect(os.fspath(path))
                end.offer(sock)
                _begin([(end, sock)])
            except BaseException:
                end.close()
                raise
        return end

    @classmethod
    def listen(cls, path, **options):
        """Listen at ``path``, a UNIX socket that others may connect() to: a SharedMemoryListener."""
        return SharedMemoryListener(path, **options)

    cdef int create(self, _Options options) except -1:
        cdef link *made = NULL
        e = shm_create(&options.o, &made, &self.ends)
        if e < 0:
            fail(e, "no shared memory for a link")
        self.options = options
        self.adopt(made)
        ours, self.sinks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        shm_set_sinks(made, ours.detach())
        return 0

    cdef object offer(self, object sock):
        """Tell the other side who we are, with what its device needs of us."""
        hello = HELLO.pack(MAGIC, self.dev.layer, self.dev.mtu, self.dev.caps, 0, bytes(self.dev.mac[:6]))
        with self.sinks as its:
            fds = [self.ends.face, self.ends.room, self.ends.bell, self.ends.irq, its.fileno()]
            socket.send_fds(sock, [hello], fds)

    cdef object answer(self, object sock):
        """Take the other side's word, and agree: its descriptors (face, receive region, bell, irq)."""
        message, fds, _, _ = socket.recv_fds(sock, HELLO.size + 1, 8)
        try:
            if not message:
                raise ConnectionResetError(errno.ECONNRESET, "the other side hung up")
            if len(message) != HELLO.size or len(fds) != 5:
                raise OSError(errno.EPROTO, "the other side is no shared-memory link of this version")
            magic, layer, mtu, caps, _, _ = HELLO.unpack(message)
            if magic != MAGIC or not _MTU_MIN <= mtu <= _MTU_MAX:
                raise OSError(errno.EPROTO, "the other side is no shared-memory link of this version")
            if layer != self.dev.layer:
                raise OSError(errno.EPROTO, f"the other side has layer {layer}, this one {self.dev.layer}")
        except BaseException:
            close_all(fds)
            raise
        mtu = min(mtu, self.dev.mtu)
        caps &= self.dev.caps & <uint32_t>offload_caps(True)
        shm_agree(self.dev, caps, mtu, _MTU_MAX if caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO) else mtu)
        return fds

    def close(self):
        """Close the link and end its device; idempotent. A stack's link is closed by its stack."""
        if self.dev != NULL and self.user is None:
            with nogil:
                shm_quiesce(self.dev)
            self.final_ = self.shared
        if self.sinks is not None:
            self.sinks.close()
        Link.close(self)

    @property
    def error(self):
        """Why the link has ended, in words; None while it has not."""
        cdef shm_stats s
        if self.dev == NULL:
            return "closed"
        shm_get_stats(self.dev, &s)
        if s.ended == SHM_FINE:
            return None
        if s.ended == SHM_DEVICE_ENDED and s.device[<int>D_BAD_RING]:
            return "the device has ended: the rings that it shares with the other side are broken"
        return _ENDS[s.ended].format(device=self.device_pid, peer=self.peer_pid)

    @property
    def shared(self) -> dict:
        """What the two sides of this end have counted: {"device": …, "tx": …, "rx": …, "posted": …}, as docs/links.md
        explains."""
        cdef shm_stats s
        cdef int i
        if self.dev == NULL:
            return self.final_ or {}
        shm_get_stats(self.dev, &s)
        return {
            "device": {shm_count_name(i).decode(): s.device[i] for i in range(D_COUNT)},
            "tx": dict(s.tx, in_flight=s.in_flight),
            "rx": {"bad_slot": s.bad_slot, "bad_extent": s.bad_extent, "bad_facts": s.bad_facts, "lent": s.lent},
            "posted": {
                "placed": s.posted.placed, "placed_bytes": s.posted.placed_bytes, "bad_placed": s.posted.bad_placed,
                "stray": s.posted.stray, "regions": s.posted.regions,
            } | {f"passed_{_PASSED[i]}": s.posted.passed[i] for i in range(1, SHM_NOT_COUNT)},
        }

    @property
    def descriptors(self) -> dict:
        """The memory files and event descriptors of this end, for those who look at them; the link owns them."""
        return {} if self.dev == NULL else self.ends

    @property
    def device_alive(self) -> bool:
        """Whether the device still serves."""
        cdef shm_stats s
        if self.dev == NULL:
            return False
        shm_get_stats(self.dev, &s)
        return s.ended == SHM_FINE


_PASSED = ("", "flow", "form", "order", "left", "region")       # SHM_NOT_*

_ENDS = {
    SHM_DEVICE_ENDED: "the device (process {device}) has ended",
    SHM_PEER_LEFT: "the other side (process {peer}) has closed the link, or was killed",
    SHM_PEER_LIED: "the other side (process {peer}) broke the rules of the rings",
    SHM_DEVICE_LIED: "the device (process {device}) broke the rules of the rings",
    SHM_PEER_KEEPS: "the other side (process {peer}) did not give back memory that a receive was posted in",
}


def close_all(fds):
    for fd in fds:
        os.close(fd)


# --- devices ----------------------------------------------------------------------------------------------------------

def _begin(ends):
    """Answer, give every end its device, wait until they are ready, and start. Device processes start together."""
    begun = []
    try:
        for end, sock in ends:
            theirs = (<SharedMemory>end).answer(sock)
            begun.append(_Start(end, sock, theirs))
            begun[-1].spawn()
        for start in begun:
            start.wait()
            start.finish()
    finally:
        for start in begun:
            start.abandon()


cdef void run_thread(void *arg) noexcept nogil:
    shm_device_run(<int><Py_ssize_t>arg)


cdef class _Start:
    """A device on its way: what must be taken back if that fails."""

    cdef SharedMemory end
    cdef object sock
    cdef object control
    cdef list theirs
    cdef int pid
    cdef uint64_t thread

    def __init__(self, end, sock, theirs):
        self.end = end
        self.sock = sock
        self.theirs = theirs

    def spawn(self):
        cdef uint64_t thread = 0
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        with its:
            if self.end.options.device == "thread":
                fd = os.dup(its.fileno())
                e = sys_thread_start(&thread, run_thread, <void *><Py_ssize_t><int>fd, b"ustack-dma")
                if e < 0:
                    os.close(fd)
                    fail(e, "no thread for the device")
                self.thread = thread
            else:
                self.pid = _spawn(its.fileno())
        self.order()

    cdef int order(self) except -1:
        """The first order to the device: the rings, its limits, and whom to wake."""
        cdef shm_order o
        cdef int fds[SHM_CONFIG_FDS]
        face, room, _, irq, sinks = self.theirs
        fds[0], fds[1], fds[2] = self.end.ends.own, face, room
        fds[3], fds[4], fds[5] = self.end.ends.bell, self.end.ends.irq, irq
        fds[6] = sinks
        o.kind = SHM_CONFIG
        o.region = 0
        o.limits = self.end.options.o.limits
        e = sys_pass(self.control.fileno(), &o, sizeof(o), fds, SHM_CONFIG_FDS)
        return 0 if e >= 0 else fail(e, "cannot reach the device")

    def wait(self):
        self.control.settimeout(READY_SECONDS)
        try:
            answer = self.control.recv(16)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "the device process does not come up") from None
        if len(answer) != 4:
            raise OSError(errno.EIO, "the device process ended before it was ready (its stderr may say why)")
        fail_unless_ready(struct.unpack("=i", answer)[0])

    def finish(self):
        """Hand everything over to the link."""
        self.control.setblocking(False)
        pid = peer_process(self.sock)
        peer = os.dup(self.sock.fileno())
        _, _, bell, _, _ = self.theirs
        e = shm_start(self.end.dev, self.control.fileno(), peer, bell, self.pid, self.thread)
        if e < 0:
            os.close(peer)
            fail(e, "the device does not answer")
        self.theirs.remove(bell)
        self.control.detach()
        self.end.device_pid = self.pid
        self.end.peer_pid = pid
        self.pid = 0
        self.thread = 0
        self.control = None

    def abandon(self):
        close_all(self.theirs)
        self.theirs = []
        if self.control is not None:
            self.control.close()
        if self.pid:
            sys_collect(self.pid, 0)
        if self.thread:
            with nogil:
                sys_thread_join(self.thread)
        self.pid = 0
        self.thread = 0


cdef int fail_unless_ready(int status) except -1:
    if status < 0:
        why = "; its receive buffers can shrink, or are too small" if status in (-errno.EPERM, -errno.EMSGSIZE) else ""
        raise OSError(-status, f"the device refused what the other side offered: {os.strerror(-status)}{why}")
    return 0


def peer_process(sock):
    """The process at the other end of a UNIX socket."""
    return struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def _spawn(fd):
    """Start a device process that serves the control socket ``fd``. Ctrl-C is none of its business."""
    return os.posix_spawn(
        sys.executable, [sys.executable, "-P", "-m", "ustack._device", "3"], os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, 3)], setsigmask=[signal.SIGINT, signal.SIGHUP])


def serve(int fd) -> int:
    """Be the device behind the control socket ``fd`` until its stack hangs up. 0 or -errno."""
    cdef int r
    with nogil:
        r = shm_device_run(fd)
    return r


# --- listening --------------------------------------------------------------------------------------------------------

class SharedMemoryListener:
    """Where other processes connect to: made by ``SharedMemory.listen``. A context manager."""

    def __init__(self, path, **options):
        self._options = _Options(**options)
        self._path = os.fspath(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            _bind(self._sock, self._path)
            self._sock.listen()
        except BaseException:
            self._sock.close()
            raise

    def accept(self, timeout=None):
        """Wait for a peer: the SharedMemory link to it. TimeoutError after ``timeout`` seconds; a peer that is none of
        ours is an OSError, and the next one may be accepted."""
        self._sock.settimeout(timeout)
        sock, _ = self._sock.accept()
        end = <SharedMemory>SharedMemory.__new__(SharedMemory)
        with sock:
            sock.settimeout(timeout)
            try:
                end.create(self._options)
                end.offer(sock)
                _begin([(end, sock)])
            except BaseException:
                end.close()
                raise
        return end

    def fileno(self):
        """The listening socket's descriptor: readable when a peer waits."""
        return self._sock.fileno()

    def close(self):
        """Listen no more; idempotent. Links that were accepted live on."""
        if self._sock.fileno() >= 0:
            self._sock.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __del__(self):
        if hasattr(self, "_sock"):
            self.close()


def _bind(sock, path):
    """Bind; a socket that nobody listens at any more is replaced."""
    try:
        sock.bind(path)
        return
    except OSError as e:
        if e.errno != errno.EADDRINUSE:
            raise
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            sock.bind(path)
            return
    raise OSError(errno.EADDRINUSE, f"somebody listens at {path!r} already")
