"""Links that wrap a link: ``Impair`` spoils its wire, ``Capture`` records its packets.

A wrapper takes the link over: it is attached in its place, and closes it.
"""

import os
import time

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

from ustack._core.inet.offload cimport offload_checksum, offload_flatten, offload_segment
from ustack._core.link.capture cimport capture_create, capture_figures, capture_flush, capture_stats
from ustack._core.link.impair cimport impair_create, impair_stats, impair_waiting
from ustack._core.link.lane cimport lane_options, lane_stats
from ustack._core.link.link cimport link, link_header
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk, mblk_len
from ustack._core.py.links cimport Link
from ustack._core.sys.io cimport sys_dup
from ustack._core.wire.ether cimport ETHER_IP4, ETHER_IP6, ETHER_LEN, ether_header, ether_parse

from ustack._core.py.links import MTU_MAX as _MTU_MAX
from ustack._core.py.links import MTU_MIN as _MTU_MIN
from ustack._core.py.links import check_range

DIRECTION = {
    "loss": 0.0, "duplicate": 0.0, "reorder": 0.0, "corrupt": 0.0, "delay": 0.0, "jitter": 0.0, "rate": None,
    "mtu": None, "limit": 1000, "reorder_delay": 0.001,
}


# --- what wrappers know of headers
# --------------------------------------------------------------------------------
cdef int cut(void *arg, link *dev, mblk *pkt, mblk **out, int max) noexcept nogil:
    cdef context *ctx = <context *>arg
    ctx.mem = dev.mem
    return offload_segment(ctx, pkt, link_header(dev), out, max, True)


cdef int complete(void *arg, link *dev, mblk *pkt) noexcept nogil:
    cdef context *ctx = <context *>arg
    ctx.mem = dev.mem
    return offload_checksum(ctx, pkt)


cdef mblk *flatten(void *arg, link *dev, mblk *taken) noexcept nogil:
    cdef context *ctx = <context *>arg
    ctx.mem = dev.mem
    return offload_flatten(ctx, taken)


cdef bint guarded(void *arg, link *dev, const mblk *pkt) noexcept nogil:
    cdef ether_header h
    if pkt.pkt_len <= link_header(dev):
        return False
    if dev.layer != 2:
        return True
    if mblk_len(pkt) < ETHER_LEN:
        return False
    ether_parse(pkt.rptr, &h)
    return h.type == ETHER_IP4 or h.type == ETHER_IP6


@cython.no_gc_clear             # the link inside must live until the wrapper's structure is closed
cdef class Wrapper(Link):
    """A link around another. ``inner`` is the link inside, which belongs to the wrapper and is closed with it."""

    cdef link *enter(self, Link inner) except NULL:
        """Take the link over, and fill in what wrappers know."""
        if self.dev != NULL:
            raise ValueError("already made")
        self.ctx = <context *>calloc(1, sizeof(context))
        if self.ctx == NULL:
            raise MemoryError("no memory for a wrapper")
        self.know.arg = self.ctx
        self.know.segment = cut
        self.know.complete = complete
        self.know.flatten = flatten
        self.know.guarded = guarded
        self.inner = inner
        return inner.claim(self)

    cdef void release(self):
        Link.release(self)
        if self.inner is not None and self.inner.dev != NULL:
            self.inner.dev.mem = NULL
            self.inner.dev.src = NULL
            self.inner.dev.book = NULL

    def close(self):
        """Close the wrapper and the link inside; idempotent. A stack's link is closed by its stack."""
        Link.close(self)
        if self.inner is not None and self.inner.user is not None:
            self.inner.release()
            self.inner.close()

    def __dealloc__(self):
        if self.dev != NULL:
            self.dev.ops.close(self.dev)
            self.dev = NULL
        free(self.ctx)


# --- impairment
# ---------------------------------------------------------------------------------------------------
cdef double probability(str name, object value) except -1:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability between 0 and 1, not {value!r}")
    return value


cdef int64_t nanoseconds(str name, object value) except -1:
    if not 0 <= value <= 3600:
        raise ValueError(f"{name} is in seconds, between 0 and 3600, not {value!r}")
    return round(value * 1e9)


cdef int lane_arguments(lane_options *o, dict given) except -1:
    unknown = set(given) - set(DIRECTION)
    if unknown:
        raise TypeError(f"no impairment {sorted(unknown)}: there are {sorted(DIRECTION)}")
    w = DIRECTION | given
    o.loss = probability("loss", w["loss"])
    o.duplicate = probability("duplicate", w["duplicate"])
    o.reorder = probability("reorder", w["reorder"])
    o.corrupt = probability("corrupt", w["corrupt"])
    o.delay = nanoseconds("delay", w["delay"])
    o.jitter = nanoseconds("jitter", w["jitter"])
    o.reorder_delay = nanoseconds("reorder_delay", w["reorder_delay"])
    o.rate = 0 if w["rate"] is None else check_range("rate", round(w["rate"]), 1, 1 << 50)
    o.mtu = 0 if w["mtu"] is None else check_range("mtu", w["mtu"], _MTU_MIN, _MTU_MAX)
    o.limit = check_range("limit", w["limit"], 1, 1 << 20)
    return 0


cdef class Impair(Wrapper):
    """A link whose wire loses, duplicates, reorders, corrupts, delays: any link, Tap and PacketRing with offloads too.

    ``loss``, ``duplicate``, ``corrupt`` and ``reorder`` are probabilities per wire packet: super-segments are
    cut before the dice are rolled. A corrupt packet has one bit of its IP packet flipped; ARP is spared, as
    it has no checksum. A reordered one is held back for ``reorder_delay``. ``delay`` and ``jitter`` (uniform,
    on top; it does not reorder) are in seconds, ``rate`` in bits per second, ``mtu`` in bytes: longer IP
    packets vanish without a word. ``limit`` bounds the packets on the wire. All hold for both directions;
    ``tx`` and ``rx`` are dicts of the same names that change them for what the stack sends and receives. The
    same ``seed`` (an int) and packets give the same fates.
    """

    def __init__(self, Link link_inside not None, *, seed=0, tx=None, rx=None, **impairments):
        cdef lane_options out, back
        cdef link *inner
        cdef link *made
        cdef uint64_t seed_word = seed & 0xFFFFFFFFFFFFFFFF
        lane_arguments(&out, impairments | (tx or {}))
        lane_arguments(&back, impairments | (rx or {}))
        inner = self.enter(link_inside)
        made = impair_create(inner, &out, &back, seed_word, &self.know)
        if made == NULL:
            link_inside.release()
            raise MemoryError("no memory for an impaired wire")
        self.adopt(made)

    def _fates(self, bint tx):
        cdef lane_stats s
        if self.dev == NULL:
            return {}
        s = impair_stats(self.dev, tx)[0]
        return dict(s) | {"waiting": impair_waiting(self.dev, tx)}

    @property
    def fates(self) -> dict:
        """What has happened to wire packets: {"tx": {"passed": …, "lost": …}, "rx": …}; empty dicts when closed."""
        return {"tx": self._fates(True), "rx": self._fates(False)}


# --- capture
# ------------------------------------------------------------------------------------------------------
cdef class Capture(Wrapper):
    """A link whose packets, in both directions, are recorded as pcapng, which Wireshark and tcpdump read.

    ``file`` is a path, which is overwritten, or a file or descriptor open for writing, of which a duplicate
    is used. Packets are recorded as the stack and the device exchange them (a super-segment is one), at most
    ``snaplen`` bytes of each, with checksums completed and the time in nanoseconds. ``epoch`` is what to add
    to the stack's time to get nanoseconds since 1970; the default is right for stacks on the system's clock.
    """

    def __init__(self, Link link_inside not None, file, *, int snaplen=262144, epoch=None):
        cdef link *inner
        cdef link *made
        cdef int fd
        check_range("snaplen", snaplen, 64, 262144)
        cdef int64_t offset = time.time_ns() - time.monotonic_ns() if epoch is None else epoch
        if isinstance(file, (str, bytes, os.PathLike)):
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        else:
            fd = sys_dup(file if isinstance(file, int) else file.fileno())
            if fd < 0:
                raise OSError(-fd, f"cannot write to {file!r}: {os.strerror(-fd)}")
        try:
            inner = self.enter(link_inside)
            made = capture_create(inner, fd, snaplen, offset, &self.know)
            if made == NULL:
                link_inside.release()
                raise MemoryError("no memory for a capture")
        except BaseException:
            os.close(fd)
            raise
        self.adopt(made)

    def flush(self):
        """Write what is buffered. Raises OSError if writing has failed: then the recording has ended."""
        if self.dev == NULL:
            return
        with nogil:
            capture_flush(self.dev)
        if self.captured["error"]:
            e = -self.captured["error"]
            raise OSError(e, f"the recording ended: {os.strerror(e)}")

    @property
    def captured(self) -> dict:
        """packets and nbytes recorded, missed for want of memory, error (-errno of the write that ended it, or 0)."""
        cdef capture_stats s
        if self.dev == NULL:
            return {}
        s = capture_figures(self.dev)[0]
        return s
