"""The packet pipe: see pipe.pxd."""

from libc.errno cimport EAGAIN, EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ustack._core.base.codes cimport (
    CAP_RX_CSUM, CAP_TSO4, CAP_TSO6, CAP_TX_CSUM, CAP_USO, CSUM_NONE,
)
from ustack._core.base.ledger cimport LR_PIPE_IN, LR_PIPE_OUT
from ustack._core.base.types cimport ns_t, unlikely
from ustack._core.link.link cimport link, link_fits, link_init, link_notify, link_ops
from ustack._core.link.queue cimport packet_queue, queue_clear, queue_count, queue_init, queue_put, queue_take
from ustack._core.link.vnet cimport VNET_LEN, vnet_decode, vnet_encode, vnet_hdr
from ustack._core.mem.arena cimport LARGE_SIZE
from ustack._core.mem.mblk cimport (
    allocb, dblk, freemsg, mark_broken, mblk, mblk_attach, msg_intact, msgappend, msgcopyin, msgcopyout)

cdef enum:
    HEADERS = 20 + 32           # IPv4, TCP with timestamps

cdef struct pipe:
    link base
    packet_queue inbox          # caller to stack
    packet_queue outbox         # stack to caller
    bint wake                   # the inbox was empty before the last injections
    bint split

cdef link_ops OPS


cdef int pipe_rx(link *l, mblk **out, int max, ns_t now) noexcept nogil:
    cdef bint starved
    cdef int i, n = queue_take(&(<pipe *>l).inbox, out, max, &starved)
    for i in range(n):
        l.stats.rx_bytes += out[i].pkt_len
    l.stats.rx += n
    return n


cdef int pipe_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    cdef pipe *p = <pipe *>l
    cdef bint was_empty
    cdef size_t nbytes
    cdef int i
    for i in range(n):
        if not link_fits(l, pkts[i]):
            l.stats.tx_drop += 1
            freemsg(pkts[i])
            continue
        pkts[i].stamp = now
        nbytes = pkts[i].pkt_len        # the caller may take and free it at once
        if queue_put(&p.outbox, &pkts[i], 1, &was_empty) == 0:
            l.stats.tx_busy += 1
            return i
        l.stats.tx += 1
        l.stats.tx_bytes += nbytes
    return n


cdef int pipe_pending(link *l) noexcept nogil:
    return queue_count(&(<pipe *>l).inbox) > 0


cdef void pipe_close(link *l) noexcept nogil:
    queue_clear(&(<pipe *>l).inbox)
    queue_clear(&(<pipe *>l).outbox)
    free(l)


cdef link *pipe_create(pipe_options *o) noexcept nogil:
    cdef pipe *p = <pipe *>calloc(1, sizeof(pipe))
    if p == NULL:
        return NULL
    link_init(&p.base, &OPS, o.layer, o.mtu, o.mac if o.layer == 2 else NULL)
    p.base.gso_max = o.gso_max
    p.base.caps = o.caps
    p.base.max_sg = o.max_sg
    p.split = o.split
    queue_init(&p.inbox, o.queue)
    queue_init(&p.outbox, o.queue)
    return &p.base


cdef int pipe_prefix(const link *l) noexcept nogil:
    return VNET_LEN if l.caps & (CAP_TX_CSUM | CAP_RX_CSUM | CAP_TSO4 | CAP_TSO6 | CAP_USO) else 0


cdef mblk *bring_in(pipe *p, const uint8_t *at, size_t n) noexcept nogil:
    """A copy of a packet; split behind the usual headers, if so wished. NULL without memory."""
    cdef link *dev = &p.base
    cdef size_t head = HEADERS + (14 if dev.layer == 2 else 0)
    cdef mblk *m
    cdef mblk *rest
    cdef dblk *d
    if n == 0:
        return allocb(dev.mem, 1)
    if not p.split or n <= head or n - head > LARGE_SIZE:
        return msgcopyin(dev.mem, dev.book, LR_PIPE_IN, at, n)
    m = msgcopyin(dev.mem, dev.book, LR_PIPE_IN, at, head)
    d = dev.src.take(dev.src.owner, LARGE_SIZE) if m != NULL else NULL
    rest = mblk_attach(dev.mem, d) if d != NULL else NULL
    if rest == NULL:
        freemsg(m)
        return NULL
    msgappend(dev.book, LR_PIPE_IN, rest, at + head, n - head)
    m.cont = rest
    return m


cdef int pipe_inject(link *l, const void *data, size_t n) noexcept nogil:
    cdef pipe *p = <pipe *>l
    cdef const uint8_t *at = <const uint8_t *>data
    cdef size_t prefix = pipe_prefix(l)
    cdef vnet_hdr h
    cdef bint was_empty
    cdef mblk *m
    if l.mem == NULL:
        return -ENETDOWN
    if n > PIPE_FRAME_MAX + prefix:
        return -EMSGSIZE
    if n < prefix:
        l.stats.rx_bad += 1
        return -EINVAL
    if queue_count(&p.inbox) >= p.inbox.limit:
        l.stats.full += 1
        return -EAGAIN
    m = bring_in(p, at + prefix, n - prefix)
    if m == NULL:
        l.stats.rx_nomem += 1
        return -ENOBUFS
    m.pkt_len = n - prefix
    m.csum = CSUM_NONE
    if prefix:
        memcpy(&h, at, VNET_LEN)
        if vnet_decode(&h, m, l.caps) < 0:
            l.stats.rx_bad += 1
            freemsg(m)
            return -EINVAL
    if queue_put(&p.inbox, &m, 1, &was_empty) == 0:
        l.stats.full += 1
        freemsg(m)
        return -EAGAIN
    p.wake = p.wake or was_empty
    return 0


cdef void pipe_wake(link *l) noexcept nogil:
    cdef pipe *p = <pipe *>l
    if p.wake:
        p.wake = False
        link_notify(l)


cdef ssize_t pipe_front(link *l) noexcept nogil:
    cdef pipe *p = <pipe *>l
    if queue_count(&p.outbox) == 0:
        return -EAGAIN
    return p.outbox.head.pkt_len + pipe_prefix(l)


cdef mblk *pipe_take(link *l) noexcept nogil:
    cdef pipe *p = <pipe *>l
    cdef bint starved
    cdef mblk *m = NULL
    if queue_take(&p.outbox, &m, 1, &starved) and starved:
        link_notify(l)
    return m


cdef bint pipe_copyout(link *l, mblk *m, uint8_t *dst) noexcept nogil:
    cdef int prefix = pipe_prefix(l)
    if prefix:
        vnet_encode(<vnet_hdr *>dst, m)
    msgcopyout(l.book, LR_PIPE_OUT, m, 0, dst + prefix, m.pkt_len)
    if unlikely(not msg_intact(m)):
        mark_broken(m)
        l.stats.tx_drop += 1
        return False
    return True


cdef int pipe_waiting(const link *l, bint to_stack) noexcept nogil:
    return queue_count(&(<const pipe *>l).inbox if to_stack else &(<const pipe *>l).outbox)


OPS.kind = b"pipe"
OPS.rx = pipe_rx
OPS.tx = pipe_tx
OPS.pending = pipe_pending
OPS.close = pipe_close
