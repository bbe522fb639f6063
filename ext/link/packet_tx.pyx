"""Transmit over a packet socket: see packet_tx.pxd."""

from libc.errno cimport EAGAIN, EFAULT, ENETDOWN, ENODEV, ENOMEM
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.codes cimport LINK_DOWN, LINK_GONE, LINK_UP
from ustack._core.base.ledger cimport LR_DEVICE_TX, LR_RING_FILL, ledger_book
from ustack._core.base.types cimport atomic_load32, atomic_store32, unlikely
from ustack._core.link.link cimport link, link_fits
from ustack._core.link.vnet cimport VNET_LEN, vnet_encode, vnet_hdr
from ustack._core.mem.mblk cimport freemsg, mark_broken, mblk, mblk_len, msgcopyout
from ustack._core.sys.io cimport MSG_DONTWAIT, sys_send, sys_sendmmsg
from ustack._core.sys.packet cimport (
    TP_STATUS_AVAILABLE, TP_STATUS_SEND_REQUEST, TP_STATUS_WRONG_FORMAT, tpacket2_hdr,
)

cdef extern from "<errno.h>" nogil:
    enum:
        ENXIO

cdef enum:
    TX_DATA = 32                # of a slot: TPACKET_ALIGN(sizeof(struct tpacket2_hdr))


cdef int sender_init(packet_sender *s, int fd, uint8_t *ring, int slots) noexcept nogil:
    s.fd = fd
    s.slots = slots
    s.pos = 0
    s.ring = ring if slots else NULL
    s.batch = NULL
    if slots == 0:
        s.batch = <tx_batch *>calloc(1, sizeof(tx_batch))
        if s.batch == NULL:
            return -ENOMEM
    return 0


cdef void sender_close(packet_sender *s) noexcept nogil:
    free(s.batch)
    s.batch = NULL


cdef int failed(link *l, int e) noexcept nogil:
    """What an error means for the link: the result of tx, 0 if it concerns a packet only."""
    if e == -ENETDOWN:
        l.state = LINK_DOWN
        return -ENETDOWN
    if e == -ENXIO or e == -ENODEV:
        l.state = LINK_GONE
        return -ENODEV
    return 0


cdef inline void sent(link *l, mblk *m) noexcept nogil:
    l.stats.tx += 1
    l.stats.tx_bytes += m.pkt_len
    ledger_book(l.book, LR_DEVICE_TX, m.pkt_len)
    freemsg(m)


cdef inline void dropped(link *l, mblk *m) noexcept nogil:
    l.stats.tx_drop += 1
    freemsg(m)


# --- sendmmsg
# -------------------------------------------------------------------------------------------------
cdef int prepare(tx_batch *b, mblk *m, int k, int used) noexcept nogil:
    """Describe packet k of the batch in iovecs from ``used`` on; how many it took, 0 if they do not suffice."""
    cdef int n = used
    vnet_encode(&b.facts[k], m)
    if n + 1 > TX_IOVECS:
        return 0
    b.iov[n].iov_base = &b.facts[k]
    b.iov[n].iov_len = VNET_LEN
    n += 1
    while m != NULL:
        if mblk_len(m):
            if n >= TX_IOVECS or n - used > RING_MAX_SG:
                return 0
            b.iov[n].iov_base = m.rptr
            b.iov[n].iov_len = mblk_len(m)
            n += 1
        m = m.cont
    b.msg[k].msg_hdr.msg_iov = &b.iov[used]
    b.msg[k].msg_hdr.msg_iovlen = n - used
    return n - used


cdef int send_batch(packet_sender *s, link *l, mblk **pkts, int n) noexcept nogil:
    """As many of the packets as fit one call; how many were taken, or what ``failed`` says."""
    cdef tx_batch *b = s.batch
    cdef int k = 0, used = 0, took, r, i
    while k < n and k < TX_BURST:
        took = prepare(b, pkts[k], k, used) if link_fits(l, pkts[k]) else 0
        if took == 0:
            break
        used += took
        k += 1
    if k == 0:
        dropped(l, pkts[0])         # too large, or of too many pieces even for a batch of its own
        return 1
    l.stats.tx_calls += 1
    r = sys_sendmmsg(s.fd, b.msg, k, MSG_DONTWAIT)
    if unlikely(r < 0):
        if r == -EAGAIN:
            return 0
        i = failed(l, r)
        if i < 0:
            return i
        if r == -EFAULT:
            mark_broken(pkts[0])
        dropped(l, pkts[0])         # EINVAL, EMSGSIZE, ENOBUFS: this packet only
        return 1
    l.state = LINK_UP
    for i in range(r):
        sent(l, pkts[i])
    return r


# --- the ring
# -------------------------------------------------------------------------------------------------
cdef inline tpacket2_hdr *tx_slot(packet_sender *s) noexcept nogil:
    return <tpacket2_hdr *>(s.ring + <size_t>RING_SLOT * s.pos)


cdef int fill_ring(packet_sender *s, link *l, mblk **pkts, int n) noexcept nogil:
    """Copy packets into free slots; how many were taken."""
    cdef tpacket2_hdr *h
    cdef uint8_t *data
    cdef uint32_t status
    cdef int i
    for i in range(n):
        if unlikely(not link_fits(l, pkts[i]) or pkts[i].pkt_len + TX_DATA + VNET_LEN > RING_SLOT):
            dropped(l, pkts[i])
            continue
        h = tx_slot(s)
        status = <uint32_t>atomic_load32(<int32_t *>&h.tp_status)
        if status == TP_STATUS_WRONG_FORMAT:
            l.stats.tx_drop += 1
        elif status != TP_STATUS_AVAILABLE:
            return i
        data = <uint8_t *>h + TX_DATA
        vnet_encode(<vnet_hdr *>data, pkts[i])
        msgcopyout(l.book, LR_RING_FILL, pkts[i], 0, data + VNET_LEN, pkts[i].pkt_len)
        h.tp_len = VNET_LEN + pkts[i].pkt_len
        atomic_store32(<int32_t *>&h.tp_status, TP_STATUS_SEND_REQUEST)
        s.pos = s.pos + 1 if s.pos + 1 < s.slots else 0
        sent(l, pkts[i])
    return n


cdef int send_ring(packet_sender *s, link *l, mblk **pkts, int n) noexcept nogil:
    cdef int e, taken = fill_ring(s, l, pkts, n)
    l.stats.tx_calls += 1
    e = sys_send(s.fd, NULL, 0, MSG_DONTWAIT)
    if unlikely(e < 0 and e != -EAGAIN):
        e = failed(l, e)
        # What lies in the ring is sent when the device is up again.
        return e if e < 0 and taken == 0 else taken
    l.state = LINK_UP
    return taken


cdef int sender_tx(packet_sender *s, link *l, mblk **pkts, int n) noexcept nogil:
    cdef int r, done = 0
    while done < n:
        if s.ring != NULL:
            r = send_ring(s, l, pkts + done, n - done)
        else:
            r = send_batch(s, l, pkts + done, n - done)
        if r < 0:
            return done if done else r
        if r == 0:
            l.stats.tx_busy += 1
            break
        done += r
    return done
