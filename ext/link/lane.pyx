"""One direction of an impaired wire: see lane.pxd."""

from libc.errno cimport ENOBUFS, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack._core.base.codes cimport CSUM_NONE, CSUM_PARTIAL
from ustack._core.base.rng cimport rng_below, rng_seed, rng_unit
from ustack._core.base.types cimport NS_NEVER, NS_SEC, ns_t
from ustack._core.link.around cimport around
from ustack._core.link.link cimport link_header
from ustack._core.mem.mblk cimport dupmsg, freemsg, mblk

cdef enum:
    PIECES = 1024               # wire packets of one super-segment


cdef int lane_init(lane *q, const lane_options *o, uint64_t seed, uint64_t direction) noexcept nogil:
    cdef uint64_t words[2]
    memset(q, 0, sizeof(lane))
    q.o = o[0]
    words[0] = seed
    words[1] = direction
    rng_seed(&q.dice, words, 2)
    q.heap = <waiting *>calloc(o.limit, sizeof(waiting))
    return 0 if q.heap != NULL else -ENOMEM


cdef void lane_free(lane *q) noexcept nogil:
    cdef uint32_t i
    for i in range(q.count):
        freemsg(q.heap[i].pkt)
    q.count = 0
    free(q.heap)
    q.heap = NULL


# --- the packets on the wire: a binary heap
# -------------------------------------------------------------------
cdef inline bint before(const waiting *a, const waiting *b) noexcept nogil:
    return a.due < b.due or (a.due == b.due and a.order < b.order)


cdef void push(lane *q, mblk *taken, ns_t due) noexcept nogil:
    cdef waiting w
    cdef uint32_t i = q.count, parent
    if i >= q.o.limit:
        q.n.overflow += 1
        freemsg(taken)
        return
    w.due = due
    w.order = q.order
    w.pkt = taken
    q.order += 1
    q.count += 1
    while i > 0:
        parent = (i - 1) // 2
        if before(&q.heap[parent], &w):
            break
        q.heap[i] = q.heap[parent]
        i = parent
    q.heap[i] = w


cdef mblk *lane_take(lane *q, ns_t now) noexcept nogil:
    cdef mblk *m
    cdef waiting w
    cdef uint32_t i = 0, child
    if q.count == 0 or q.heap[0].due > now:
        return NULL
    m = q.heap[0].pkt
    q.count -= 1
    w = q.heap[q.count]
    while 2 * i + 1 < q.count:
        child = 2 * i + 1
        if child + 1 < q.count and before(&q.heap[child + 1], &q.heap[child]):
            child += 1
        if before(&w, &q.heap[child]):
            break
        q.heap[i] = q.heap[child]
        i = child
    q.heap[i] = w
    q.n.passed += 1
    return m


cdef ns_t lane_deadline(const lane *q) noexcept nogil:
    return q.heap[0].due if q.count else NS_NEVER


# --- what happens to a packet
# ---------------------------------------------------------------------------------
cdef ns_t departure(lane *q, uint32_t nbytes, ns_t now) noexcept nogil:
    """When its last bit has left the transmitter."""
    if q.o.rate == 0:
        return now
    if q.busy_until < now:
        q.busy_until = now
    q.busy_until += <int64_t>nbytes * 8 * NS_SEC // q.o.rate
    return q.busy_until


cdef mblk *flip(around *a, mblk *taken, uint64_t where) noexcept nogil:
    """The packet with one bit flipped behind the link header, and no longer vouched for; NULL without memory."""
    cdef uint32_t header = link_header(&a.base)
    cdef uint64_t bit
    cdef mblk *m
    if taken.csum == CSUM_PARTIAL and a.know.complete(a.know.arg, &a.base, taken) < 0:
        freemsg(taken)
        return NULL
    m = a.know.flatten(a.know.arg, &a.base, taken)
    if m == NULL:
        return NULL
    m.csum = CSUM_NONE
    bit = where % ((m.pkt_len - header) * 8)
    m.rptr[header + bit // 8] ^= 1 << (bit % 8)
    return m


cdef void put_one(lane *q, around *a, mblk *taken, ns_t now) noexcept nogil:
    """Roll the dice for one wire packet. All of them are rolled for each, whatever becomes of it."""
    cdef bint lost = rng_unit(&q.dice) < q.o.loss
    cdef bint doubled = rng_unit(&q.dice) < q.o.duplicate
    cdef bint corrupt = rng_unit(&q.dice) < q.o.corrupt
    cdef bint held = rng_unit(&q.dice) < q.o.reorder
    cdef ns_t shift = <ns_t>(rng_unit(&q.dice) * <double>(q.o.jitter + 1))
    cdef uint32_t where = rng_below(&q.dice, 0x7FFFFFFF)
    cdef uint32_t header = link_header(&a.base)
    cdef mblk *twin
    cdef ns_t due
    if q.o.mtu and taken.pkt_len > q.o.mtu + header:
        q.n.too_big += 1
        freemsg(taken)
        return
    due = departure(q, taken.pkt_len, now) + q.o.delay
    if lost:
        q.n.lost += 1
        freemsg(taken)
        return
    due += shift
    if held:
        q.n.reordered += 1
        due += q.o.reorder_delay
    else:
        if due < q.last_due:
            due = q.last_due
        q.last_due = due
    if corrupt and a.know.guarded(a.know.arg, &a.base, taken):
        q.n.corrupted += 1
        taken = flip(a, taken, where)
        if taken == NULL:
            q.n.nomem += 1
            return
    if doubled:
        twin = dupmsg(a.base.mem, taken)
        if twin != NULL:
            q.n.duplicated += 1
            push(q, twin, due)
    push(q, taken, due)


cdef void lane_put(lane *q, around *a, mblk *taken, ns_t now) noexcept nogil:
    cdef mblk *piece[PIECES]
    cdef int i, n
    if taken.gso_size == 0:
        put_one(q, a, taken, now)
        return
    n = a.know.segment(a.know.arg, &a.base, taken, piece, PIECES)
    if n < 0:
        if n == -ENOBUFS:
            q.n.nomem += 1
        else:
            q.n.bad += 1
        freemsg(taken)
        return
    for i in range(n):
        put_one(q, a, piece[i], now)
