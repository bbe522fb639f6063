"""Bursts of packets: see burst.pxd."""

from libc.errno cimport EAGAIN, EFAULT, EINVAL, ENETDOWN, ENOBUFS, ENODEV, ENOSYS
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack._core.base.codes cimport LINK_DOWN, LINK_GONE, LINK_UP
from ustack._core.base.ledger cimport LR_DEVICE_TX, ledger_book
from ustack._core.base.types cimport unlikely
from ustack._core.link.link cimport link, link_fits
from ustack._core.link.vnet cimport vnet_encode, vnet_hdr
from ustack._core.mem.mblk cimport freemsg, mark_broken, mblk, mblk_len
from ustack._core.sys.io cimport MSG_DONTWAIT
from ustack._core.sys.uring cimport uring_close, uring_open, uring_run, uring_sendmsg, uring_writev

cdef extern from "<errno.h>" nogil:
    enum:
        EBADFD, EIO, ENXIO, EOPNOTSUPP


cdef tx_burst *burst_create(uint32_t vnet_len) noexcept nogil:
    cdef tx_burst *b = <tx_burst *>calloc(1, sizeof(tx_burst))
    if b != NULL:
        b.vnet_len = vnet_len
        b.ring.fd = -1
    return b


cdef void burst_free(tx_burst *b) noexcept nogil:
    if b != NULL and b.ring.fd >= 0:
        uring_close(&b.ring)
    free(b)


# --- describing -------------------------------------------------------------------------------------------------------

cdef int describe(tx_burst *b, const mblk *m, uint32_t max_sg, int k, int used) noexcept nogil:
    """Packet k of the burst in iovecs from ``used`` on; how many it took, 0 if they do not suffice."""
    cdef int n = used
    cdef int most = used + 1 + <int>max_sg
    if most > TX_IOVECS:
        most = TX_IOVECS
    if n >= most:
        return 0
    if b.vnet_len:
        memset(b.facts[k], 0, VNET_MAX)
        vnet_encode(<vnet_hdr *>b.facts[k], m)
        b.iov[n].iov_base = b.facts[k]
        b.iov[n].iov_len = b.vnet_len
        n += 1
    while m != NULL:
        if mblk_len(m):
            if n >= most:
                return 0
            b.iov[n].iov_base = m.rptr
            b.iov[n].iov_len = mblk_len(m)
            n += 1
        m = m.cont
    b.msg[k].msg_hdr.msg_iov = &b.iov[used]
    b.msg[k].msg_hdr.msg_iovlen = n - used
    return n - used


cdef int burst_describe(tx_burst *b, link *l, mblk **pkts, int n) noexcept nogil:
    cdef int k = 0, used = 0, took
    if n > TX_BURST:
        n = TX_BURST
    while k < n:
        took = describe(b, pkts[k], l.max_sg, k, used) if link_fits(l, pkts[k]) else 0
        if took == 0:
            break
        used += took
        k += 1
    return k


# --- what became of them ----------------------------------------------------------------------------------------------

cdef int device_failed(link *l, int e) noexcept nogil:
    if e == -EIO or e == -ENETDOWN:
        l.state = LINK_DOWN         # TUN refuses writes with EIO while the interface is not up
        return -ENETDOWN
    if e == -EBADFD or e == -ENODEV or e == -ENXIO:
        l.state = LINK_GONE
        return -ENODEV
    return 0


cdef void burst_sent(link *l, mblk *m, uint32_t extra) noexcept nogil:
    l.stats.tx += 1
    l.stats.tx_bytes += m.pkt_len
    ledger_book(l.book, LR_DEVICE_TX, m.pkt_len + extra)
    freemsg(m)


cdef void burst_dropped(link *l, mblk *m, int e) noexcept nogil:
    l.stats.tx_drop += 1
    if e == -EFAULT:
        mark_broken(m)
    freemsg(m)


cdef int settle(tx_burst *b, link *l, mblk **pkts, int k) noexcept nogil:
    """How many of k packets are done with, or -errno. One that was refused for now can be kept only if none behind it
    has gone: else it is dropped."""
    cdef int i, r, e, last = k - 1
    while last >= 0 and b.result[last] < 0:
        last -= 1
    if last >= 0:
        l.state = LINK_UP
        b.state = RING_PROVEN
    for i in range(k):
        r = b.result[i]
        if r >= 0:
            burst_sent(l, pkts[i], b.vnet_len)
            continue
        if i > last:
            if r == -EAGAIN or r == -ENOBUFS:
                l.stats.tx_busy += 1
                return i
            e = device_failed(l, r)
            if e:
                return i if i else e
        burst_dropped(l, pkts[i], r)
    return k


# --- handing over -----------------------------------------------------------------------------------------------------

cdef bint has_ring(tx_burst *b) noexcept nogil:
    if b.state == RING_UNTRIED:
        b.state = RING_OPEN if uring_open(&b.ring, TX_BURST) == 0 else RING_REFUSED
    return b.state != RING_REFUSED


cdef int refuse(tx_burst *b) noexcept nogil:
    uring_close(&b.ring)
    b.state = RING_REFUSED
    return -ENOSYS


cdef int burst_send(tx_burst *b, link *l, mblk **pkts, int k, int fd, bint socket) noexcept nogil:
    cdef int i, done, first
    if unlikely(not has_ring(b)):
        return -ENOSYS
    for i in range(k):
        if socket:
            uring_sendmsg(&b.ring, fd, &b.msg[i].msg_hdr, MSG_DONTWAIT)
        else:
            uring_writev(&b.ring, fd, b.msg[i].msg_hdr.msg_iov, b.msg[i].msg_hdr.msg_iovlen)
    done = uring_run(&b.ring, b.result)
    if unlikely(done <= 0):
        return refuse(b)
    l.stats.tx_calls += 1
    first = b.result[0]
    if unlikely(b.state == RING_OPEN and (first == -EAGAIN or first == -EINVAL or first == -EOPNOTSUPP)
                and done == k and all_alike(b, k)):
        return refuse(b)        # an old kernel: it would have to leave the request to a thread of its own
    return settle(b, l, pkts, done)


cdef bint all_alike(const tx_burst *b, int k) noexcept nogil:
    cdef int i
    for i in range(1, k):
        if b.result[i] != b.result[0]:
            return False
    return True
