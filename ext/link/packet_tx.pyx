"""Transmit over a packet socket: see packet_tx.pxd."""

from libc.errno cimport EAGAIN, EFAULT, ENOMEM, ENOSYS
from libc.stdint cimport int32_t, uint8_t, uint32_t

from ustack._core.base.codes cimport LINK_UP
from ustack._core.base.ledger cimport LR_RING_FILL
from ustack._core.base.types cimport atomic_load32, atomic_store32, unlikely
from ustack._core.link.burst cimport (
    burst_create, burst_describe, burst_dropped, burst_free, burst_send, burst_sent, device_failed, tx_burst,
)
from ustack._core.link.link cimport link, link_fits
from ustack._core.link.vnet cimport VNET_LEN, vnet_encode, vnet_hdr
from ustack._core.mem.mblk cimport mblk, msg_intact, msgcopyout
from ustack._core.sys.io cimport MSG_DONTWAIT, sys_send, sys_sendmmsg
from ustack._core.sys.packet cimport (
    TP_STATUS_AVAILABLE, TP_STATUS_SEND_REQUEST, TP_STATUS_WRONG_FORMAT, tpacket2_hdr,
)

cdef enum:
    TX_DATA = 32                # of a slot: TPACKET_ALIGN(sizeof(struct tpacket2_hdr))


cdef int sender_init(packet_sender *s, int fd, uint8_t *ring, int slots) noexcept nogil:
    s.fd = fd
    s.slots = slots
    s.pos = 0
    s.ring = ring if slots else NULL
    s.batch = NULL
    if slots == 0:
        s.batch = burst_create(VNET_LEN)
        if s.batch == NULL:
            return -ENOMEM
    return 0


cdef void sender_close(packet_sender *s) noexcept nogil:
    burst_free(s.batch)
    s.batch = NULL


# --- from where the data lies
# ------------------------------------------------------------------------------------------------------
cdef int send_batch(packet_sender *s, link *l, mblk **pkts, int n) noexcept nogil:
    """As many of the packets as fit one call; how many were taken, or what ``device_failed`` says."""
    cdef tx_burst *b = s.batch
    cdef int r, i
    cdef int k = burst_describe(b, l, pkts, n)
    if k == 0:
        burst_dropped(l, pkts[0], 0)    # too large, or of too many pieces
        return 1
    if k > 1:
        r = burst_send(b, l, pkts, k, s.fd, True)
        if r != -ENOSYS:
            return r
    l.stats.tx_calls += 1
    r = sys_sendmmsg(s.fd, b.msg, k, MSG_DONTWAIT)
    if unlikely(r < 0):
        if r == -EAGAIN:
            l.stats.tx_busy += 1
            return 0
        i = device_failed(l, r)
        if i < 0:
            return i
        burst_dropped(l, pkts[0], r)    # EINVAL, EMSGSIZE, ENOBUFS: this packet only
        return 1
    l.state = LINK_UP
    for i in range(r):
        burst_sent(l, pkts[i], b.vnet_len)
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
            burst_dropped(l, pkts[i], 0)
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
        if unlikely(not msg_intact(pkts[i])):
            burst_dropped(l, pkts[i], -EFAULT)
            continue
        h.tp_len = VNET_LEN + pkts[i].pkt_len
        atomic_store32(<int32_t *>&h.tp_status, TP_STATUS_SEND_REQUEST)
        s.pos = s.pos + 1 if s.pos + 1 < s.slots else 0
        burst_sent(l, pkts[i], VNET_LEN)
    return n


cdef int send_ring(packet_sender *s, link *l, mblk **pkts, int n) noexcept nogil:
    cdef int e, taken = fill_ring(s, l, pkts, n)
    l.stats.tx_calls += 1
    e = sys_send(s.fd, NULL, 0, MSG_DONTWAIT)
    if unlikely(e < 0 and e != -EAGAIN):
        e = device_failed(l, e)
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
            if s.ring != NULL:
                l.stats.tx_busy += 1
            break
        done += r
    return done
