"""Many datagrams a call, and the ancillary data of one: see datagrams.pxd.

User memory is copied from before the engine's lock is taken, and to after it is let go.
"""

from cpython.buffer cimport PyBUF_CONTIG, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EFAULT, EINTR, EMSGSIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint16_t

from ustack._core.base.addr cimport ip_equal, ipaddr
from ustack._core.base.ledger cimport LR_RX_COPY, LR_TX_COPY
from ustack._core.base.types cimport ns_t
from ustack._core.mem.guarded cimport msgcopyin_guarded, msgcopyout_guarded
from ustack._core.mem.mblk cimport freelist, freemsg, mblk, msgbytes, msgcopyout
from ustack._core.py.address cimport AF_INET, AF_INET6, format_endpoint, parse_endpoint
from ustack._core.py.ancillary cimport ancillary_in
from ustack._core.py.calls cimport NO_WAIT, call_recv_many, call_recvfrom, call_send_many
from ustack._core.py.driver cimport driver
from ustack._core.py.errors cimport check, fail
from ustack._core.stack.sockets cimport sock
from ustack._core.sys.guard cimport guard_install
from ustack._core.udp.udp cimport udp_meta

cdef enum:
    LONGEST = 65535             # of what can be a datagram at all: the protocol says what is too long
    MSG_TRUNC = 0x20


cdef int stopped(int r, ns_t deadline) except -1:
    """Raise what -errno means for a call that has nothing to show."""
    if r == -EAGAIN and deadline != NO_WAIT:
        raise TimeoutError("timed out")
    if r == -EAGAIN:
        raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")
    fail(r)
    return 0


cdef inline int family_of(const sock *s) noexcept:
    return AF_INET6 if s.v6 else AF_INET


# --- out ------------------------------------------------------------------------------------------------------

cdef int copy_each(driver *d, object buffers, mblk **head) except -1:
    """A message for each buffer, as a list by next that is the caller's even after an error. Returns 0 or -errno,
    that of the first which is none; what follows it is left out."""
    cdef mblk **end = head
    cdef Py_buffer b
    cdef size_t n, there
    cdef int err = 0
    for data in buffers:
        PyObject_GetBuffer(data, &b, PyBUF_SIMPLE)
        n = there = b.len
        if n <= LONGEST:
            end[0] = msgcopyin_guarded(d.eng.ctx.mem, &d.eng.ctx.book, LR_TX_COPY, b.buf, &there, 0, 0, &err)
        PyBuffer_Release(&b)
        if n > LONGEST:
            return -EMSGSIZE
        if end[0] == NULL:
            return err
        if there < n:
            freemsg(end[0])
            end[0] = NULL
            return -EFAULT
        end = &end[0].next
    return 0


cdef object send_datagrams(driver *d, sock *s, object buffers, object address, ns_t deadline, bint main_thread):
    cdef ipaddr host
    cdef ipaddr *to = NULL
    cdef uint16_t port = 0
    cdef mblk *left = NULL
    cdef int done = 0
    cdef int stop, r
    if address is not None:
        parse_endpoint(family_of(s), address, &host, &port, "sendmmsg")
        to = &host
    try:
        stop = copy_each(d, buffers, &left)
        if left == NULL:
            return stopped(stop, deadline) if stop else 0
        while True:
            with nogil:
                r = call_send_many(d, s, &left, to, port, deadline, main_thread, &done)
            if r != -EINTR:
                break
            PyErr_CheckSignals()
    finally:
        freelist(left)
    if done == 0 and r != 0:
        stopped(r, deadline)
    return done


# --- in -------------------------------------------------------------------------------------------------------

cdef mblk *take(driver *d, sock *s, int max, ns_t deadline, bint main_thread) except? NULL:
    cdef mblk *m = NULL
    cdef int r
    while True:
        with nogil:
            r = call_recv_many(d, s, max, deadline, main_thread, &m)
        if r != -EINTR:
            break
        PyErr_CheckSignals()
    if r != 0:
        stopped(r, deadline)
    return m


# The datagrams in a list of meta blocks, one after the other, with the address of each.
cdef struct cursor:
    mblk *m
    size_t at                   # bytes of its payload that are behind us
    size_t n                    # bytes of the datagram
    udp_meta *shown             # of the address that was made last


cdef object step(sock *s, cursor *c, object address):
    """The next datagram: its address, the same object as long as it stays the same. c.m is not NULL."""
    cdef udp_meta *meta = <udp_meta *>c.m.rptr
    c.n = c.m.pkt_len - c.at
    if meta.gso_size and meta.gso_size < c.n:
        c.n = meta.gso_size
    if c.shown == NULL or c.shown.sport != meta.sport or not ip_equal(&c.shown.src, &meta.src):
        address = format_endpoint(family_of(s), &meta.src, meta.sport)
        c.shown = meta
    return address


cdef inline void advance(cursor *c) noexcept:
    c.at += c.n
    if c.at >= c.m.pkt_len:
        c.m = c.m.next
        c.at = 0


cdef object gone():
    raise OSError(EFAULT, "Bad address: the memory to receive into is gone: it was unmapped, or its file was cut")


cdef int copy_to(driver *d, mblk *m, size_t at, void *to, size_t n, bint guarded) except -1:
    if guarded:
        check(guard_install())          # somebody may have taken the signal since
    if msgcopyout_guarded(&d.eng.ctx.book, LR_RX_COPY, m, at, to, n) < n:
        gone()
    return 0


cdef list recv_datagrams(driver *d, sock *s, int max, size_t size, ns_t deadline, bint main_thread):
    cdef mblk *taken = take(d, s, max, deadline, main_thread)
    cdef cursor c = cursor(taken, 0, 0, NULL)
    cdef list result = []
    cdef size_t n
    address = None
    try:
        while c.m != NULL:
            address = step(s, &c, address)
            n = c.n if c.n < size else size
            data = PyBytes_FromStringAndSize(NULL, n)
            msgcopyout(&d.eng.ctx.book, LR_RX_COPY, c.m.cont, c.at, PyBytes_AS_STRING(data), n)
            result.append((data, address))
            advance(&c)
    finally:
        freelist(taken)
    return result


cdef list recv_datagrams_into(driver *d, sock *s, char *to, size_t stride, int max, bint whole, bint guarded,
                              ns_t deadline, bint main_thread):
    cdef mblk *taken = take(d, s, max, deadline, main_thread)
    cdef cursor c = cursor(taken, 0, 0, NULL)
    cdef list result = []
    cdef size_t n
    address = None
    try:
        while c.m != NULL:
            address = step(s, &c, address)
            n = c.n if c.n < stride else stride
            copy_to(d, c.m.cont, c.at, to, n, guarded)
            to += stride
            result.append((c.n if whole else n, address))
            advance(&c)
    finally:
        freelist(taken)
    return result


cdef tuple recv_scattered(driver *d, sock *s, list views, size_t ancillary, dict kept, bint peek, ns_t deadline,
                          bint main_thread):
    cdef udp_meta meta
    cdef mblk *m = NULL
    cdef Py_buffer b
    cdef size_t n, whole, at = 0
    cdef int flags = 0
    cdef int r
    while True:
        with nogil:
            r = call_recvfrom(d, s, peek, deadline, main_thread, &m, &meta)
        if r != -EINTR:
            break
        PyErr_CheckSignals()
    if r != 0:
        stopped(r, deadline)
    if m == NULL:
        return 0, [], 0, None           # receiving was shut down
    whole = msgbytes(m)
    try:
        for view in views:
            PyObject_GetBuffer(view, &b, PyBUF_CONTIG)
            n = min(<size_t>b.len, whole - at)
            try:
                copy_to(d, m, at, b.buf, n, may_end(view))
            finally:
                PyBuffer_Release(&b)
            at += n
        if whole > at:
            flags |= MSG_TRUNC
    finally:
        freemsg(m)
    anc, cut = ancillary_in(d, s, kept, &meta, ancillary)
    return at, anc, flags | cut, format_endpoint(family_of(s), &meta.src, meta.sport)
