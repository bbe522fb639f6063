"""The packet pipe as a Python object: a link whose other side is the caller. Sizes in bytes, times in ns."""

import errno

from cpython.buffer cimport PyBUF_CONTIG, PyBUF_CONTIG_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINVAL, EMSGSIZE, ENOBUFS
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from ustack._core.base.codes cimport CAP_GATHER, CAP_TSO4, CAP_TSO6, CAP_USO
from ustack._core.link.link cimport link
from ustack._core.link.pipe cimport (
    PIPE_FRAME_MAX, pipe_copyout, pipe_create, pipe_front, pipe_inject, pipe_options, pipe_prefix, pipe_take,
    pipe_waiting, pipe_wake,
)
from ustack._core.mem.mblk cimport freemsg, mblk
from ustack._core.py.links cimport Link, fail, offload_caps

from ustack._core.py.links import MTU_MAX as _MTU_MAX
from ustack._core.py.links import MTU_MIN as _MTU_MIN
from ustack._core.py.links import check_range, parse_mac


cdef class Pipe(Link):
    """A link whose other side is the caller: packets are injected and drained by hand. No system call in it.

    For harnesses, and for carrying packets through a tunnel of one's own. Off by default are all offloads, so
    that what ``drain`` returns are packets as they are on a wire: at most the MTU, with complete checksums.
    With ``offloads`` (as in ``pair``) every packet, in both directions, has a ``struct virtio_net_hdr`` of 10
    bytes in front, in the host's byte order (flags, gso_type: 1 byte; hdr_len, gso_size, csum_start,
    csum_offset: 2 bytes; virtio 1.2, 5.1.6), and may be a super-segment of up to 64 KB: what a TAP with
    IFF_VNET_HDR reads and writes.

    ``header_split`` puts what lies behind IPv4 and TCP headers of the usual length at a page boundary.
    ``layer`` 2 means Ethernet frames, 3 IP packets; ``queue`` bounds the packets that wait in each direction.
    """

    cdef list leftover          # what was not drained when the pipe was closed; None before

    def __init__(self, int layer=3, *, mtu=1500, int queue=1024, offloads=False, int max_sg=65535, mac=None,
                 bint header_split=False):
        cdef pipe_options o
        cdef link *made
        if self.dev != NULL:
            raise ValueError("already made")
        if layer not in (2, 3):
            raise ValueError("layer is 2 (Ethernet frames) or 3 (IP packets)")
        o.layer = layer
        o.mtu = check_range("mtu", mtu, _MTU_MIN, _MTU_MAX)
        o.queue = check_range("queue", queue, 1, 1 << 20)
        o.max_sg = check_range("max_sg", max_sg, 1, 65535)
        self.split = o.split = header_split
        o.caps = offload_caps(offloads)
        o.gso_max = _MTU_MAX if o.caps & (CAP_TSO4 | CAP_TSO6 | CAP_USO) else o.mtu
        if max_sg > 1:
            o.caps |= CAP_GATHER
        one = parse_mac(mac)
        memcpy(o.mac, PyBytes_AS_STRING(one), 6)
        made = pipe_create(&o)
        if made == NULL:
            raise MemoryError("no memory for a pipe")
        self.adopt(made)

    def close(self):
        """Close the pipe. What the stack had sent can still be drained; what waited for it is dropped."""
        if self.dev != NULL and self.user is None:
            sent = self.drain()
            Link.close(self)
            self.leftover = sent
        else:
            Link.close(self)        # nothing to do, or refused

    cdef int ready(self) except -1:
        if self.dev == NULL:
            raise ValueError("the pipe is closed")
        if self.dev.mem == NULL:
            raise OSError(errno.ENETDOWN, "the pipe is not attached: add_interface() it to a stack first")
        return 0

    cdef bint put(self, const void *data, size_t n) except -1:
        """Queue one packet; False when there is no room."""
        cdef int r = pipe_inject(self.dev, data, n)
        if r == 0:
            return True
        if r == -EAGAIN or r == -ENOBUFS:
            return False
        if r == -EMSGSIZE:
            raise ValueError(f"a packet of {n} bytes: the most is {PIPE_FRAME_MAX}")
        if r == -EINVAL:
            raise ValueError("the virtio_net_hdr in front does not fit the packet")
        return fail(r, "inject")

    def inject(self, packet, /):
        """Hand one packet (any bytes-like object) to the stack: copied in before this returns.

        True if it was queued, False if the queue was full (the packet is lost, and counted in
        ``stats["full"]``). The packet is hostile input as any other: a malformed one is the stack's to count
        and drop.
        """
        cdef Py_buffer b
        cdef bint taken
        self.ready()
        PyObject_GetBuffer(packet, &b, PyBUF_CONTIG_RO)
        try:
            taken = self.put(b.buf, b.len)
        finally:
            PyBuffer_Release(&b)
        pipe_wake(self.dev)
        return taken

    def inject_many(self, packets, /):
        """Hand a burst of packets (an iterable of bytes-like objects) over; returns how many were queued.

        It stops at the first for which there is no room; the stack is woken once.
        """
        cdef Py_buffer b
        cdef int n = 0
        self.ready()
        try:
            for packet in packets:
                PyObject_GetBuffer(packet, &b, PyBUF_CONTIG_RO)
                try:
                    if not self.put(b.buf, b.len):
                        break
                finally:
                    PyBuffer_Release(&b)
                n += 1
        finally:
            pipe_wake(self.dev)
        return n

    def inject_from(self, buffer, sizes, n=None):
        """Hand over ``n`` packets that lie back to back in ``buffer``; returns how many were queued.

        ``sizes`` is an array of 4-byte unsigned integers (``array("I")``): their lengths. ``n`` is by default
        all of them. Nothing is allocated per packet. Stops at the first for which there is no room.
        """
        cdef Py_buffer b, s
        cdef uint32_t *lengths
        cdef size_t at = 0
        cdef Py_ssize_t i = 0, count
        self.ready()
        PyObject_GetBuffer(buffer, &b, PyBUF_CONTIG_RO)
        try:
            lengths = words(&s, sizes, 4, False)
            try:
                count = check_range("n", s.len // 4 if n is None else n, 0, s.len // 4)
                while i < count:
                    if lengths[i] > b.len - at:
                        raise ValueError(f"packet {i} ends beyond the buffer")
                    if not self.put(<const uint8_t *>b.buf + at, lengths[i]):
                        break
                    at += lengths[i]
                    i += 1
            finally:
                PyBuffer_Release(&s)
                pipe_wake(self.dev)
        finally:
            PyBuffer_Release(&b)
        return i

    def drain(self, max=None, /):
        """All packets (at most ``max``) that the stack has sent, oldest first: a list of (time in ns, bytes).

        Once the pipe is closed: what was left, then nothing.
        """
        cdef list result
        cdef Py_ssize_t left = -1 if max is None else max
        cdef mblk *m
        if self.leftover is not None:
            result, self.leftover = self.leftover[:max], [] if max is None else self.leftover[max:]
            return result
        result = []
        while left != 0:
            m = pipe_take(self.dev)
            if m == NULL:
                break
            try:
                packet = PyBytes_FromStringAndSize(NULL, m.pkt_len + pipe_prefix(self.dev))
                if not pipe_copyout(self.dev, m, <uint8_t *>PyBytes_AS_STRING(packet)):
                    continue
                result.append((m.stamp, packet))
            finally:
                freemsg(m)
            left -= 1
        return result

    def drain_into(self, buffer, sizes, times=None):
        """Copy packets that the stack has sent into ``buffer``, back to back; returns how many.

        Their lengths go into ``sizes``, an array of 4-byte integers, and their times in ns, if wanted, into
        ``times``, an array of 8-byte integers. It stops when any of the three is full; what does not fit
        stays queued. Nothing is allocated per packet. ValueError if even the first packet is larger than the
        buffer.
        """
        cdef Py_buffer b, s, t
        cdef uint32_t *lengths
        cdef int64_t *stamps = NULL
        cdef Py_ssize_t i = 0, count, at = 0, length
        cdef mblk *m
        if self.dev == NULL:
            raise ValueError("the pipe is closed")
        PyObject_GetBuffer(buffer, &b, PyBUF_CONTIG)
        try:
            lengths = words(&s, sizes, 4, True)
            try:
                count = s.len // 4
                if times is not None:
                    stamps = <int64_t *>words(&t, times, 8, True)
                    count = min(count, t.len // 8)
                try:
                    while i < count:
                        length = pipe_front(self.dev)
                        if length < 0:
                            break
                        if length > b.len - at:
                            if i == 0:
                                raise ValueError(f"the next packet has {length} bytes, the buffer {b.len}")
                            break
                        m = pipe_take(self.dev)
                        if not pipe_copyout(self.dev, m, <uint8_t *>b.buf + at):
                            freemsg(m)
                            continue
                        lengths[i] = length
                        if stamps != NULL:
                            stamps[i] = m.stamp
                        freemsg(m)
                        at += length
                        i += 1
                finally:
                    if stamps != NULL:
                        PyBuffer_Release(&t)
            finally:
                PyBuffer_Release(&s)
        finally:
            PyBuffer_Release(&b)
        return i

    @property
    def waiting(self) -> tuple:
        """Packets that wait: (for the stack, for the caller)."""
        if self.dev == NULL:
            return 0, 0
        return pipe_waiting(self.dev, True), pipe_waiting(self.dev, False)


cdef uint32_t *words(Py_buffer *b, object array, int size, bint writable) except? NULL:
    """The integers of an array; the caller releases ``b``."""
    PyObject_GetBuffer(array, b, PyBUF_CONTIG if writable else PyBUF_CONTIG_RO)
    if b.itemsize != size:
        PyBuffer_Release(b)
        raise TypeError(f"an array of {size}-byte integers is needed, not of {b.itemsize}-byte items")
    return <uint32_t *>b.buf
