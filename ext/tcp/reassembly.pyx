"""The out-of-order queue: see reassembly.pxd."""

from libc.errno cimport ENOBUFS
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from ustack._core.base.ledger cimport ledger
from ustack._core.base.seq cimport seq_gt, seq_leq, seq_lt, seq_min, seq_t
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport freelist, freemsg, mblk, msgconsume, splitmsg
from ustack._core.tcp.block cimport interval, ooo_queue, ooo_run
from ustack._core.tcp.queue cimport chain_collapse, storage_of


cdef int run_above(const ooo_queue *q, seq_t seq) noexcept nogil:
    """Index of the first run that ends above seq; n if there is none."""
    cdef int low = 0
    cdef int high = q.n
    cdef int mid
    while low < high:
        mid = (low + high) >> 1
        if seq_leq(q.v[mid].end, seq):
            low = mid + 1
        else:
            high = mid
    return low


cdef bint grow(ooo_queue *q) noexcept nogil:
    cdef int cap = q.cap * 2 if q.cap else 8
    cdef ooo_run *v
    if q.n < q.cap:
        return True
    if q.cap >= OOO_RUNS:
        return False
    v = <ooo_run *>realloc(q.v, cap * sizeof(ooo_run))
    if v == NULL:
        return False
    q.v = v
    q.cap = cap
    return True


cdef void drop_run(ooo_queue *q, int i) noexcept nogil:
    """Close the gap that run i leaves in the array; its packets are somebody else's now."""
    q.n -= 1
    memmove(&q.v[i], &q.v[i + 1], (q.n - i) * sizeof(ooo_run))


cdef int place(ooo_queue *q, int i, mblk *taken, seq_t seq, seq_t end) noexcept nogil:
    """Put a piece that overlaps nothing in front of run i, joining it to the runs that it touches."""
    cdef bint left = i > 0 and q.v[i - 1].end == seq
    cdef bint right = i < q.n and q.v[i].start == end
    taken.next = NULL
    taken.seq = seq
    taken.mark = end - seq
    if not left and not right:
        if not grow(q) and i < q.n:
            ooo_prune(q)                # what lies furthest is wanted last: or a gap at the front could never be filled
        if not grow(q):
            freemsg(taken)
            return -ENOBUFS
        memmove(&q.v[i + 1], &q.v[i], (q.n - i) * sizeof(ooo_run))
        q.n += 1
        q.v[i].start = seq
        q.v[i].end = end
        q.v[i].head = taken
        q.v[i].tail = taken
    elif left:
        q.v[i - 1].tail.next = taken
        q.v[i - 1].tail = taken
        q.v[i - 1].end = end
        if right:
            taken.next = q.v[i].head
            q.v[i - 1].tail = q.v[i].tail
            q.v[i - 1].end = q.v[i].end
            drop_run(q, i)
    else:
        taken.next = q.v[i].head
        q.v[i].head = taken
        q.v[i].start = seq
    q.total += end - seq
    taken.stamp = storage_of(taken)     # remembered, because others may let go of it meanwhile
    q.held += <uint32_t>taken.stamp
    return 0


cdef void note_recent(ooo_queue *q, seq_t seq) noexcept nogil:
    """The newest run is reported first: move a number in it to the front of the list."""
    cdef int i = 0
    cdef int at = run_above(q, seq)
    if at == q.n:
        return
    while i < q.nrecent and run_above(q, q.recent[i]) != at:
        i += 1
    if i == q.nrecent:
        i = q.nrecent if q.nrecent < 4 else 3
        q.nrecent = i + 1
    memmove(&q.recent[1], &q.recent[0], i * sizeof(seq_t))
    q.recent[0] = seq


cdef int ooo_add(ooo_queue *q, arena *a, mblk *taken, seq_t seq, uint32_t length, interval *dup) noexcept nogil:
    cdef seq_t first = seq
    cdef seq_t end = seq + length
    cdef seq_t cut
    cdef mblk *m = taken
    cdef mblk *rest
    cdef int i
    cdef int fresh = 0
    dup.start = dup.end = seq
    while m != NULL:
        i = run_above(q, seq)
        if i < q.n and seq_leq(q.v[i].start, seq):      # the front is there already
            cut = seq_min(q.v[i].end, end)
            if dup.start == dup.end:
                dup.start = seq
                dup.end = cut
            m = msgconsume(m, cut - seq)
            seq = cut
            continue
        cut = end
        rest = NULL
        if i < q.n and seq_lt(q.v[i].start, end):       # a gap is filled, the rest meets run i
            cut = q.v[i].start
            rest = splitmsg(a, m, cut - seq)
            if rest == NULL:
                freemsg(m)
                return -ENOBUFS
        if place(q, i, m, seq, cut) < 0:
            freemsg(rest)
            return -ENOBUFS
        fresh += cut - seq
        m = rest
        seq = cut
    note_recent(q, first)
    return fresh


cdef mblk *ooo_take(ooo_queue *q, seq_t rcv_nxt) noexcept nogil:
    cdef ooo_run *r = q.v
    cdef mblk *m
    if q.n == 0 or seq_gt(r.start, rcv_nxt):
        return NULL
    m = r.head
    r.head = m.next
    m.next = NULL
    r.start = m.seq + m.mark
    q.total -= m.mark
    q.held -= <uint32_t>m.stamp
    if r.head == NULL:
        drop_run(q, 0)
    return m


cdef uint32_t ooo_prune(ooo_queue *q) noexcept nogil:
    cdef ooo_run *r
    cdef uint32_t held = q.held
    cdef mblk *m
    if q.n == 0:
        return 0
    r = &q.v[q.n - 1]
    m = r.head
    while m != NULL:
        q.held -= <uint32_t>m.stamp
        m = m.next
    q.total -= r.end - r.start
    freelist(r.head)
    q.n -= 1
    return held - q.held


cdef void collapse_run(ooo_queue *q, ooo_run *r, arena *a, ledger *book) noexcept nogil:
    """One packet instead of many: the chains are joined, then copied dense."""
    cdef mblk *m = r.head
    cdef mblk *whole = NULL
    cdef mblk *last = NULL
    cdef mblk *following
    while m != NULL:
        q.held -= <uint32_t>m.stamp
        following = m.next
        m.next = NULL
        if whole == NULL:
            whole = m
        else:
            last.cont = m
        last = m
        while last.cont != NULL:
            last = last.cont
        m = following
    whole = chain_collapse(a, book, whole)
    whole.seq = r.start
    whole.mark = r.end - r.start
    whole.next = NULL
    whole.stamp = storage_of(whole)
    q.held += <uint32_t>whole.stamp
    r.head = whole
    r.tail = whole


cdef void ooo_collapse(ooo_queue *q, arena *a, ledger *book) noexcept nogil:
    cdef int i
    for i in range(q.n):
        collapse_run(q, &q.v[i], a, book)


cdef int ooo_sack(ooo_queue *q, interval *out, int max) noexcept nogil:
    cdef int n = 0
    cdef int i, at, j
    for i in range(q.nrecent):
        at = run_above(q, q.recent[i])
        if n == max:
            break
        if at == q.n or seq_gt(q.v[at].start, q.recent[i]):
            continue                                    # delivered or pruned since
        for j in range(n):
            if out[j].start == q.v[at].start:
                break
        else:
            out[n].start = q.v[at].start
            out[n].end = q.v[at].end
            n += 1
    return n


cdef void ooo_free(ooo_queue *q) noexcept nogil:
    cdef int i
    for i in range(q.n):
        freelist(q.v[i].head)
    free(q.v)
    q.v = NULL
    q.n = 0
    q.cap = 0
    q.total = 0
    q.held = 0
    q.nrecent = 0
