"""The send queue and the receive queue: see queue.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from ustack._core.base.counters cimport C_TCP_COLLAPSED, count
from ustack._core.base.ledger cimport LR_APPEND, LR_COLLAPSE, ledger
from ustack._core.base.seq cimport seq_gt, seq_leq, seq_lt, seq_t
from ustack._core.base.types cimport unlikely
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport (
    DB_EXTERNAL, allocb, dup_range, freeb, freemsg, mblk, mblk_len, msg_intact, msgappend, splitmsg, tailroom, writable,
)
from ustack._core.tcp.block cimport TF2_BYTES_LOST, mark
from ustack._core.tcp.reassembly cimport ooo_collapse

cdef enum:
    DENSE_BLOCK = 16 * 1024     # what sparse storage is packed into
    SPARSE_FLOOR = 64 * 1024    # less storage than this is never worth packing


cdef inline bint has_external(const mblk *m) noexcept nogil:
    while m != NULL:
        if m.dp.flags & DB_EXTERNAL:
            return True
        m = m.cont
    return False


cdef bint append_small(tcb *c, mblk *m, uint32_t n) noexcept nogil:
    """Copy a small write into the tail block, so that each does not hold a block of its own. A block with bytes in
    a packet in flight has a second reference and is left alone; and so is a large one, behind which what comes is
    the rest of a bulk write, which would be copied for the second time for nothing. Storage of somebody else's is
    not read here: who lent it knows what became of it, and the copy would not."""
    cdef mblk *tail = c.sq_tail
    if n > SMALL_WRITE or tail == NULL or mblk_len(tail) > SMALL_TAIL or not writable(tail) or tailroom(tail) < n:
        return False
    if has_external(m):
        return False
    while m != NULL:
        msgappend(&c.home.ctx.book, LR_APPEND, tail, m.rptr, mblk_len(m))
        m = m.cont
    return True


cdef void sq_append(tcb *c, mblk *taken, uint32_t n) noexcept nogil:
    cdef mblk *m = taken
    cdef seq_t seq = c.snd_end
    c.snd_end += n
    if append_small(c, taken, n):
        freemsg(taken)
        return
    if c.sq_tail == NULL:
        c.sq_head = taken
    else:
        c.sq_tail.cont = taken
    while True:
        m.seq = seq
        c.home.ctx.mem.sending += m.dp.truesize
        seq += <uint32_t>mblk_len(m)
        if m.cont == NULL:
            break
        m = m.cont
    c.sq_tail = m


cdef mblk *block_of(tcb *c, seq_t seq) noexcept nogil:
    """The block that holds `seq`, found from the cursor or, if it lies behind that, from the head."""
    cdef mblk *m = c.sq_cursor
    if m == NULL or seq_lt(seq, m.seq):
        m = c.sq_head
    while m.cont != NULL and seq_leq(m.cont.seq, seq):
        m = m.cont
    return m


cdef mblk *sq_window(tcb *c, seq_t seq, uint32_t n) noexcept nogil:
    cdef mblk *m = block_of(c, seq)
    c.sq_cursor = m
    return dup_range(c.home.ctx.mem, m, seq - m.seq, n)


cdef void sq_release(tcb *c, seq_t una) noexcept nogil:
    cdef mblk *m = c.sq_head
    cdef mblk *following
    cdef uint32_t n
    while m != NULL and seq_lt(m.seq, una):
        n = <uint32_t>mblk_len(m)
        if seq_gt(m.seq + n, una):
            m.rptr += una - m.seq
            m.seq = una
            break
        following = m.cont
        m.cont = NULL
        if unlikely(not msg_intact(m)):         # a device may have read something else than was meant
            c.flags2 |= TF2_BYTES_LOST
            mark(c)
        if c.sq_cursor == m:
            c.sq_cursor = NULL
        c.home.ctx.mem.sending -= m.dp.truesize
        freeb(m)
        m = following
    c.sq_head = m
    if m == NULL:
        c.sq_tail = NULL


cdef void sq_free(tcb *c) noexcept nogil:
    cdef mblk *m = c.sq_head
    while m != NULL:
        c.home.ctx.mem.sending -= m.dp.truesize
        m = m.cont
    freemsg(c.sq_head)
    c.sq_head = NULL
    c.sq_tail = NULL
    c.sq_cursor = NULL


cdef uint32_t storage_of(const mblk *m) noexcept nogil:
    cdef uint32_t total = 0
    cdef uint32_t shown
    while m != NULL:
        # Storage that others hold as well is not ours alone to answer for: a fair share of it is charged.
        shown = 2 * <uint32_t>mblk_len(m) + 256
        total += m.dp.truesize if m.dp.refs == 1 or m.dp.truesize < shown else shown
        m = m.cont
    return total


cdef void rq_append(tcb *c, mblk *taken, uint32_t n) noexcept nogil:
    """Neighbouring windows on the same storage are charged once."""
    cdef mblk *m = c.rq_tail
    if m == NULL:
        c.rq_head = taken
        c.rq_held = taken.dp.truesize
        m = taken
    else:
        m.cont = taken
    c.rq_len += n
    while m.cont != NULL:
        if m.cont.dp != m.dp:
            c.rq_held += m.cont.dp.truesize
        m = m.cont
    c.rq_tail = m


cdef uint32_t charge_of(const mblk *m, size_t n) noexcept nogil:
    """Storage that is held by nothing behind the first n bytes."""
    cdef uint32_t charge = 0
    while m != NULL and mblk_len(m) <= n:
        n -= mblk_len(m)
        if m.cont == NULL or m.cont.dp != m.dp:
            charge += m.dp.truesize
        m = m.cont
    return charge


cdef mblk *rq_take(tcb *c, size_t n) noexcept nogil:
    cdef mblk *taken = c.rq_head
    cdef mblk *rest = NULL
    cdef uint32_t charge = charge_of(taken, n)
    if n < c.rq_len:
        rest = splitmsg(c.home.ctx.mem, taken, n)
        if rest == NULL:
            return NULL
    c.rq_head = rest
    c.rq_len -= <uint32_t>n
    c.rq_held = c.rq_held - charge if rest != NULL else 0
    if rest == NULL or rest.cont == NULL:
        c.rq_tail = rest
    return taken


cdef inline bint stays(const mblk *m) noexcept nogil:
    """Storage of somebody else's that is charged with no more than it shows: to copy it frees nothing of ours, and its
    bytes may be out of our reach."""
    return m.dp.flags & DB_EXTERNAL and m.dp.truesize <= <size_t>(m.dp.lim - m.dp.base)


cdef mblk *dense_block(arena *a, const mblk *m) noexcept nogil:
    """Room for what can be packed from m on, up to DENSE_BLOCK."""
    cdef size_t n = 0
    while m != NULL and n < DENSE_BLOCK and not stays(m):
        n += mblk_len(m)
        m = m.cont
    return allocb(a, n if n < DENSE_BLOCK else DENSE_BLOCK)


cdef mblk *chain_collapse(arena *a, ledger *book, mblk *taken) noexcept nogil:
    cdef mblk *whole = NULL
    cdef mblk **at = &whole
    cdef mblk *dense = NULL             # what is being filled
    cdef mblk *m = taken
    cdef mblk *following
    while m != NULL:
        following = m.cont
        if stays(m) or (dense == NULL and (following == NULL or stays(following))):
            at[0] = m                   # also one block alone: nothing would be packed
            at = &m.cont
            m = following
            dense = NULL
            continue
        if dense != NULL:
            m.rptr += msgappend(book, LR_COLLAPSE, dense, m.rptr, mblk_len(m))
        if m.rptr == m.wptr:
            freeb(m)
            m = following
            continue
        dense = dense_block(a, m)
        if dense == NULL:
            break
        at[0] = dense
        at = &dense.cont
    at[0] = m
    return whole


cdef bint is_sparse(uint32_t held, uint32_t data, bint pressed) noexcept nogil:
    if pressed:
        return held > data + (data >> 2) + 2 * DENSE_BLOCK
    return held > 4 * data + SPARSE_FLOOR


cdef void rq_collapse(tcb *c, bint pressed) noexcept nogil:
    cdef mblk *m
    cdef uint32_t n
    if is_sparse(c.rq_held, c.rq_len, pressed):
        count(&c.home.ctx.n, C_TCP_COLLAPSED)
        m = chain_collapse(c.home.ctx.mem, &c.home.ctx.book, c.rq_head)
        c.rq_head = NULL
        c.rq_tail = NULL
        n = c.rq_len
        c.rq_len = 0
        rq_append(c, m, n)
    if is_sparse(c.ooo.held, c.ooo.total, pressed) and c.ooo.held > 2 * DENSE_BLOCK * <uint32_t>c.ooo.n:
        count(&c.home.ctx.n, C_TCP_COLLAPSED)
        ooo_collapse(&c.ooo, c.home.ctx.mem, &c.home.ctx.book)
