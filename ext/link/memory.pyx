"""An in-process cable: see memory.pxd."""

from libc.errno cimport ENETDOWN, ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport calloc, free

from ustack._core.base.codes cimport CAP_RX_CSUM, CSUM_NONE, LINK_DOWN
from ustack._core.base.ledger cimport LR_DEVICE_RX, ledger_book
from ustack._core.base.types cimport atomic_dec32, ns_t, spin_lock, spin_unlock, unlikely
from ustack._core.link.link cimport link, link_fits, link_init, link_notify, link_ops
from ustack._core.link.queue cimport packet_queue, queue_clear, queue_count, queue_init, queue_put, queue_take
from ustack._core.mem.guarded cimport msgcopyout_outside, posting_lost
from ustack._core.mem.mblk cimport allocb, dblk, freeb, freemsg, mark_broken, mblk, mblk_attach, mblk_len
from ustack._core.mem.posting cimport POSTING_LEAST, posting
from ustack._core.sys.guard cimport guard_call

cdef struct memory_end:
    link base
    memory_end *peer
    memory_pair_ *pair
    packet_queue inbox          # what this end will receive
    # Held by the peer while it puts into the inbox and notifies, and by close: after `open` is gone nobody
    # comes in.
    int32_t gate
    bint open
    bint device

cdef struct memory_pair_:
    memory_end ends[2]
    int32_t refs

cdef struct filling:
    const mblk *m
    size_t offset
    uint8_t *to
    size_t got

cdef link_ops OPS


cdef int memory_rx(link *l, mblk **out, int max, ns_t now) noexcept nogil:
    cdef memory_end *end = <memory_end *>l
    cdef memory_end *peer = end.peer
    cdef bint starved
    cdef int i, n = queue_take(&end.inbox, out, max, &starved)
    if n == 0:
        if not peer.open:
            l.state = LINK_DOWN
            return -ENETDOWN
        return 0
    if end.device:
        n = move_in(l, out, n)
    for i in range(n):
        l.stats.rx_bytes += out[i].pkt_len
        forget_sender(l, out[i])
    l.stats.rx += n
    if starved:
        spin_lock(&peer.gate)
        if peer.open:
            link_notify(&peer.base)
        spin_unlock(&peer.gate)
    return n


# --- the device -----------------------------------------------------------------------------------------------------
cdef mblk *fetch(link *l, const mblk *m, size_t offset, size_t n) noexcept nogil:
    """n bytes of a packet in a block of ours; NULL without memory."""
    cdef mblk *own = allocb(l.mem, n if n else 1)
    if own != NULL:
        own.wptr += msgcopyout_outside(l.book, LR_DEVICE_RX, m, offset, own.rptr, n)
        if unlikely(mblk_len(own) < n):
            mark_broken(<mblk *>m)          # the sender's memory is gone
            freeb(own)
            return NULL
    return own


cdef void fill_room(void *arg, size_t n) noexcept nogil:
    cdef filling *x = <filling *>arg
    x.got = msgcopyout_outside(NULL, 0, x.m, x.offset, x.to, n)


cdef size_t fill_in(link *l, const mblk *m, size_t offset, uint8_t *to, size_t n) noexcept nogil:
    """Both the program's memory that it comes from and the one that it goes to may be gone."""
    cdef filling x = filling(m, offset, to, 0)
    if guard_call(fill_room, &x, to, n) < n:
        return 0
    ledger_book(l.book, LR_DEVICE_RX, x.got)
    return x.got


cdef mblk *place(link *l, const mblk *m) noexcept nogil:
    """The payload goes where a posted receive wants it. NULL: it is not the packet that is waited for, or no memory."""
    cdef posting *p = l.posted
    cdef uint8_t *where = p.base
    cdef size_t room = p.room
    cdef size_t left = m.pkt_len - p.header
    cdef mblk *own = fetch(l, m, 0, p.header)
    cdef mblk *at
    cdef dblk *d
    if own == NULL:
        return NULL
    d = p.claim(p, own.rptr, m.pkt_len, where)
    if d == NULL:
        freeb(own)
        return NULL
    if room > left:
        room = left
    own.cont = mblk_attach(l.mem, d)
    if own.cont != NULL:
        at = own.cont
        at.rptr = where
        at.wptr = where + fill_in(l, m, m.pkt_len - left, where, room)
        if unlikely(mblk_len(at) < room):
            freemsg(own)        # the memory that it was wanted in is gone: who posted it hears of that
            posting_lost(p)
            return NULL
        at.cont = fetch(l, m, m.pkt_len - left + room, left - room) if left > room else NULL
        if at.cont != NULL or left == room:
            return own
    freemsg(own)
    return NULL


cdef int move_in(link *l, mblk **pkts, int n) noexcept nogil:
    """Bytes of the sender's to memory of ours; facts as a device would tell them. How many packets there are then."""
    cdef mblk *m
    cdef mblk *own
    cdef int i, done = 0
    for i in range(n):
        m = pkts[i]
        own = NULL
        if l.posted != NULL and l.posted.room >= POSTING_LEAST and m.pkt_len > l.posted.header:
            own = place(l, m)
        if own == NULL:
            own = fetch(l, m, 0, m.pkt_len)
        if own == NULL:
            l.stats.rx_nomem += 1
        else:
            own.pkt_len = m.pkt_len
            own.gso_size = m.gso_size
            own.gso_type = m.gso_type
            own.csum = m.csum
            own.csum_start = m.csum_start
            own.csum_offset = m.csum_offset
            pkts[done] = own
            done += 1
        freemsg(m)
    return done


cdef inline void forget_sender(link *l, mblk *m) noexcept nogil:
    """Leave the facts that a device would tell; the others were the sender's own."""
    m.hdr_len = 0
    m.segs = 0
    m.seq = m.mark = 0
    m.stamp = 0
    if not l.caps & CAP_RX_CSUM:
        m.csum = CSUM_NONE


cdef int memory_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    cdef memory_end *peer = (<memory_end *>l).peer
    cdef int i, taken = 0
    cdef bint was_empty, wake = False, full = False
    cdef size_t nbytes
    spin_lock(&peer.gate)
    if not peer.open:
        spin_unlock(&peer.gate)
        l.state = LINK_DOWN
        return -ENETDOWN
    for i in range(n):
        if not link_fits(l, pkts[i]):
            l.stats.tx_drop += 1
            freemsg(pkts[i])
        else:
            nbytes = pkts[i].pkt_len    # the peer may have it, and free it, at once
            if queue_put(&peer.inbox, &pkts[i], 1, &was_empty) == 0:
                full = True
                break
            wake = wake or was_empty
            l.stats.tx += 1
            l.stats.tx_bytes += nbytes
        taken += 1
    if full:
        l.stats.tx_busy += 1
    if wake:
        link_notify(&peer.base)
    spin_unlock(&peer.gate)
    return taken


cdef int memory_pending(link *l) noexcept nogil:
    return queue_count(&(<memory_end *>l).inbox) > 0


cdef void memory_close(link *l) noexcept nogil:
    cdef memory_end *end = <memory_end *>l
    cdef memory_pair_ *pair = end.pair
    cdef memory_end *peer = end.peer
    spin_lock(&end.gate)
    end.open = False
    spin_unlock(&end.gate)
    queue_clear(&end.inbox)
    spin_lock(&peer.gate)
    if peer.open:
        link_notify(&peer.base)     # so that it learns that it is down
    spin_unlock(&peer.gate)
    if atomic_dec32(&pair.refs) == 0:
        free(pair)


cdef int memory_pair(memory_options *o, link **a, link **b) noexcept nogil:
    cdef memory_pair_ *pair = <memory_pair_ *>calloc(1, sizeof(memory_pair_))
    cdef memory_end *end
    cdef int i
    if pair == NULL:
        return -ENOMEM
    pair.refs = 2
    for i in range(2):
        end = &pair.ends[i]
        link_init(&end.base, &OPS, o.layer, o.mtu, o.mac[i] if o.layer == 2 else NULL)
        end.base.gso_max = o.gso_max
        end.base.caps = o.caps
        end.base.max_sg = o.max_sg
        end.pair = pair
        end.peer = &pair.ends[1 - i]
        end.open = True
        end.device = o.device
        queue_init(&end.inbox, o.queue)
    a[0] = &pair.ends[0].base
    b[0] = &pair.ends[1].base
    return 0


OPS.kind = b"memory"
OPS.rx = memory_rx
OPS.tx = memory_tx
OPS.pending = memory_pending
OPS.close = memory_close
