"""For tests: an engine's side of a link, without an engine.

A packet is bytes, or a list of blocks: bytes; (bytes, shift), which lie so many bytes further behind a 64-byte boundary
than others; or (address, length) of memory that is only named, never touched.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy

from ustack._core.base.codes cimport CSUM_PARTIAL
from ustack._core.base.ledger cimport LR_COPYB, LR_COUNT, ledger, ledger_name
from ustack._core.base.types cimport NS_NEVER, atomic_inc32, atomic_load32, ns_t
from ustack._core.link.link cimport link
from ustack._core.mem.arena cimport arena, arena_create, arena_live, arena_reap, arena_release, arena_take
from ustack._core.mem.mblk cimport (
    DB_EXTERNAL, HEADROOM, allocb, dblk, dblk_unref, dupmsg, esballoc, freelist, freemsg, linkb, mblk, mblk_len,
    msgcopyout,
)
from ustack._core.mem.source cimport source
from ustack._core.py.links cimport Link
from ustack._core.sys.poll cimport POLLIN, pollfd, sys_ppoll

cdef enum:
    BURST = 64


cdef dblk *take(void *owner, size_t size) noexcept nogil:
    return arena_take(<arena *>owner, size)


cdef void give(void *owner, dblk *d) noexcept nogil:
    dblk_unref(d)


cdef void nothing(void *arg) noexcept nogil:
    pass


cdef void woken(void *arg) noexcept nogil:
    atomic_inc32(<int32_t *>arg)


cdef class Harness:
    """Attaches a link to an arena and a ledger of its own, and calls its operations."""

    cdef Link handle
    cdef link *dev
    cdef arena *mem
    cdef source src
    cdef ledger book
    cdef int32_t wakes
    cdef mblk *held

    def __init__(self, Link handle, int64_t budget=0):
        self.mem = arena_create(budget, &self.book)
        if self.mem == NULL:
            raise MemoryError
        self.dev = handle.claim(self)
        self.handle = handle
        self.src.owner = self.mem
        self.src.take = take
        self.src.give = give
        self.dev.mem = self.mem
        self.dev.src = &self.src
        self.dev.book = &self.book
        if self.dev.ops.attached != NULL:
            self.dev.ops.attached(self.dev)
        self.dev.notify = woken
        self.dev.notify_arg = &self.wakes

    def close(self):
        """Close the link, then let the arena go; returns what was still outstanding (0: nothing leaked)."""
        cdef int64_t live = 0
        if self.handle is not None:
            self.handle.release()
            self.handle.close()
            self.handle = None
            self.dev = NULL
        self.let_go()
        if self.mem != NULL:
            live = arena_live(self.mem)
            arena_release(self.mem)
            self.mem = NULL
        return live

    def __dealloc__(self):
        if self.handle is not None:
            self.handle.release()
        if self.mem != NULL:
            arena_release(self.mem)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def rx(self, int max=BURST, ns_t now=0):
        """Packets received: dicts of their bytes and facts. OSError when the link is down or gone."""
        cdef mblk *out[BURST]
        cdef int i, n
        max = min(max, BURST)
        with nogil:
            n = self.dev.ops.rx(self.dev, out, max, now)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        result = [describe(out[i]) for i in range(n)]
        for i in range(n):
            freemsg(out[i])
        arena_reap(self.mem)
        return result

    def hold(self, int max=BURST, ns_t now=0):
        """Receive as ``rx`` does, and keep the packets until ``let_go``."""
        cdef mblk *out[BURST]
        cdef int i, n
        n = self.dev.ops.rx(self.dev, out, min(max, BURST), now)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        for i in range(n):
            out[i].next = self.held
            self.held = out[i]
        return [describe(out[i]) for i in range(n)]

    def let_go(self):
        """Free what ``hold`` kept."""
        freelist(self.held)
        self.held = NULL
        if self.mem != NULL:
            arena_reap(self.mem)

    def count_rx(self, int bursts=1, ns_t now=0):
        """Receive and free up to ``bursts`` bursts without a Python object: (packets, bytes)."""
        cdef mblk *out[BURST]
        cdef int i, n, _b
        cdef int64_t packets = 0, nbytes = 0
        with nogil:
            for _b in range(bursts):
                n = self.dev.ops.rx(self.dev, out, BURST, now)
                if n <= 0:
                    break
                for i in range(n):
                    nbytes += out[i].pkt_len
                    freemsg(out[i])
                packets += n
                arena_reap(self.mem)
        return packets, nbytes

    cdef mblk *build(self, object packet, dict facts) except NULL:
        """A chain with a block for every piece, each with headroom."""
        cdef mblk *head = NULL
        cdef mblk *m
        cdef const uint8_t *p = NULL
        cdef size_t n
        pieces = [packet] if isinstance(packet, bytes) else packet
        for piece in pieces:
            shift = 0
            if isinstance(piece, tuple) and isinstance(piece[0], int):
                n = piece[1]
                m = esballoc(self.mem, <void *><size_t>piece[0], n, nothing, NULL)
            else:
                if isinstance(piece, tuple):
                    piece, shift = piece
                p = piece
                n = len(piece)
                m = allocb(self.mem, n + HEADROOM + <size_t>shift)
            if m == NULL:
                freemsg(head)
                raise MemoryError
            if not m.dp.flags & DB_EXTERNAL:
                m.rptr = m.wptr = m.rptr + HEADROOM + <size_t>shift
                memcpy(m.rptr, p, n)
            m.wptr += n
            if head == NULL:
                head = m
            else:
                linkb(head, m)
            head.pkt_len += n
        head.csum = facts.get("csum", 1)
        head.csum_start = facts.get("csum_start", 0)
        head.csum_offset = facts.get("csum_offset", 0)
        head.gso_type = facts.get("gso_type", 0)
        head.gso_size = facts.get("gso_size", 0)
        head.hdr_len = facts.get("hdr_len", 0)
        return head

    def tx(self, packets, ns_t now=0, **facts):
        """Send a burst, all with the same facts; returns how many the link took. The others are freed."""
        cdef mblk *pkts[BURST]
        cdef int i, n = 0, taken
        for packet in packets:
            if n == BURST:
                raise ValueError(f"at most {BURST} packets")
            pkts[n] = self.build(packet, facts)
            n += 1
        with nogil:
            taken = self.dev.ops.tx(self.dev, pkts, n, now)
        for i in range(taken if taken > 0 else 0, n):
            freemsg(pkts[i])
        arena_reap(self.mem)
        if taken < 0:
            raise OSError(-taken, os.strerror(-taken))
        return taken

    def repeat_tx(self, packet, int times, int burst, **facts):
        """Send ``times`` equal packets in bursts, windows on the same storage; returns how many went."""
        cdef mblk *pkts[BURST]
        cdef mblk *model = self.build(packet, facts)
        cdef int i, n, taken, done = 0, stuck = 0
        with nogil:
            while done < times and stuck < 1000:
                n = min(burst, times - done, BURST)
                for i in range(n):
                    pkts[i] = dupmsg(self.mem, model)
                taken = self.dev.ops.tx(self.dev, pkts, n, 0)
                for i in range(taken if taken > 0 else 0, n):
                    freemsg(pkts[i])
                if taken < 0:
                    break
                done += taken
                stuck = 0 if taken else stuck + 1
        freemsg(model)
        return done

    @property
    def pending(self):
        """1, 0, or -1 if only rx can tell."""
        return self.dev.ops.pending(self.dev) if self.dev.ops.pending != NULL else -1

    @property
    def deadline(self):
        """When the link wants to be called, in ns; None for never."""
        cdef ns_t t = self.dev.ops.deadline(self.dev) if self.dev.ops.deadline != NULL else NS_NEVER
        return None if t == NS_NEVER else t

    @property
    def fds(self):
        cdef int fds[8]
        cdef int i, n = 0
        if self.dev.ops.fds != NULL:
            n = self.dev.ops.fds(self.dev, fds, 8)
        return [fds[i] for i in range(n)]

    def wait(self, ns_t timeout=5_000_000_000):
        """Sleep until the link has something (or ``timeout`` ns passed): whether it has."""
        cdef pollfd p[8]
        cdef int n = 0, r = 0
        fds = self.fds
        for fd in fds:
            p[n].fd = fd
            p[n].events = POLLIN
            n += 1
        if self.pending == 1:
            return True
        with nogil:
            r = sys_ppoll(p, n, timeout)
        return r > 0

    @property
    def notified(self):
        """How often the link asked to be polled."""
        return atomic_load32(&self.wakes)

    @property
    def live(self):
        """Blocks outstanding in the arena."""
        arena_reap(self.mem)
        return arena_live(self.mem)

    @property
    def ledger(self):
        """Bytes booked, by reason, where there are any."""
        cdef int i
        return {ledger_name(i).decode(): self.book.nbytes[i]
                for i in range(LR_COUNT) if self.book.nbytes[i]}


cdef dict describe(mblk *m):
    cdef bytes data
    cdef mblk *b = m
    data = PyBytes_FromStringAndSize(NULL, m.pkt_len)    # not b"\0" * n: for n == 1 that is everybody's
    msgcopyout(NULL, LR_COPYB, m, 0, PyBytes_AS_STRING(data), m.pkt_len)
    sizes, addresses = [], []
    while b != NULL:
        sizes.append(mblk_len(b))
        addresses.append(<size_t>b.rptr)
        b = b.cont
    facts = {"data": data, "blocks": sizes, "addresses": addresses,
             "csum": m.csum, "gso_type": m.gso_type, "gso_size": m.gso_size, "flags": m.dp.flags}
    if m.csum == CSUM_PARTIAL:
        facts["csum_start"] = m.csum_start
        facts["csum_offset"] = m.csum_offset
    return facts
