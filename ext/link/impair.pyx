"""A link that spoils its wire: see impair.pxd."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from ustack._core.base.codes cimport CAP_TX_CSUM, CSUM_PARTIAL
from ustack._core.base.types cimport NS_NEVER, ns_t
from ustack._core.link.around cimport around, around_init, around_ops, around_sync, knowledge
from ustack._core.link.lane cimport (
    lane, lane_deadline, lane_free, lane_init, lane_options, lane_put, lane_stats, lane_take,
)
from ustack._core.link.link cimport link, link_ops
from ustack._core.mem.mblk cimport freemsg, mblk

cdef enum:
    BURST = 32
    RETRY = 1000000             # ns

cdef struct impair:
    around a
    lane tx
    lane rx
    mblk *out[BURST]            # due, but the device was busy
    int nout
    ns_t retry                  # when to try those again

cdef link_ops OWN, WITH_FDS, WITHOUT_FDS


cdef int flush(impair *p, ns_t now) noexcept nogil:
    """Hand to the device what is due. 0, or its error: then what was due is lost, as on a cable that was pulled."""
    cdef link *inner = p.a.inner
    cdef mblk *m
    cdef int i, r
    while True:
        while p.nout < BURST:
            m = lane_take(&p.tx, now)
            if m == NULL:
                break
            if m.csum == CSUM_PARTIAL and not inner.caps & CAP_TX_CSUM:
                p.a.know.complete(p.a.know.arg, &p.a.base, m)
            p.out[p.nout] = m
            p.nout += 1
        if p.nout == 0:
            return 0
        r = inner.ops.tx(inner, p.out, p.nout, now)
        if r < 0:
            for i in range(p.nout):
                freemsg(p.out[i])
            p.a.base.stats.tx_drop += p.nout
            p.nout = 0
            return r
        p.nout -= r
        for i in range(p.nout):
            p.out[i] = p.out[i + r]
        if p.nout:
            p.retry = now + RETRY
            return 0


cdef int impair_tx(link *l, mblk **pkts, int n, ns_t now) noexcept nogil:
    cdef impair *p = <impair *>l
    cdef int i, e = flush(p, now)
    around_sync(&p.a)
    if e < 0:
        return e
    if p.nout:
        l.stats.tx_busy += 1
        return 0
    for i in range(n):
        l.stats.tx += 1
        l.stats.tx_bytes += pkts[i].pkt_len
        lane_put(&p.tx, &p.a, pkts[i], now)
    flush(p, now)               # an error is seen by the next call
    around_sync(&p.a)
    return n


cdef int impair_rx(link *l, mblk **out, int max, ns_t now) noexcept nogil:
    cdef impair *p = <impair *>l
    cdef link *inner = p.a.inner
    cdef mblk *burst[BURST]
    cdef mblk *m
    cdef int i, e, n = 0
    flush(p, now)
    e = inner.ops.rx(inner, burst, BURST if BURST < max else max, now)
    for i in range(e):
        lane_put(&p.rx, &p.a, burst[i], now)
    while n < max:
        m = lane_take(&p.rx, now)
        if m == NULL:
            break
        l.stats.rx_bytes += m.pkt_len
        out[n] = m
        n += 1
    l.stats.rx += n
    around_sync(&p.a)
    return n if n or e > 0 else e


cdef ns_t impair_deadline(link *l) noexcept nogil:
    cdef impair *p = <impair *>l
    cdef link *inner = p.a.inner
    cdef ns_t t = inner.ops.deadline(inner) if inner.ops.deadline != NULL else NS_NEVER
    cdef ns_t rx = lane_deadline(&p.rx)
    cdef ns_t tx = lane_deadline(&p.tx) if p.nout == 0 else p.retry
    t = rx if rx < t else t
    return tx if tx < t else t


cdef void impair_close(link *l) noexcept nogil:
    cdef impair *p = <impair *>l
    cdef int i
    p.a.inner.notify = NULL
    for i in range(p.nout):
        freemsg(p.out[i])
    lane_free(&p.tx)
    lane_free(&p.rx)
    free(p)


cdef link *impair_create(link *inner, const lane_options *tx, const lane_options *rx, uint64_t seed,
                         const knowledge *know) noexcept nogil:
    cdef impair *p = <impair *>calloc(1, sizeof(impair))
    if p == NULL:
        return NULL
    if lane_init(&p.tx, tx, seed, 0) < 0 or lane_init(&p.rx, rx, seed, 1) < 0:
        lane_free(&p.tx)
        free(p)
        return NULL
    around_init(&p.a, inner, &WITH_FDS if inner.ops.fds != NULL else &WITHOUT_FDS, know)
    return &p.a.base


cdef lane_stats *impair_stats(link *l, bint tx) noexcept nogil:
    return &(<impair *>l).tx.n if tx else &(<impair *>l).rx.n


cdef int impair_waiting(link *l, bint tx) noexcept nogil:
    cdef impair *p = <impair *>l
    return p.tx.count + p.nout if tx else p.rx.count


OWN.kind = b"impair"
OWN.rx = impair_rx
OWN.tx = impair_tx
OWN.deadline = impair_deadline
OWN.close = impair_close
around_ops(&WITH_FDS, &WITHOUT_FDS, &OWN)
