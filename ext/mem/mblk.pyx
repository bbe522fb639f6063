"""Message blocks: see mblk.pxd. Here: allocation, references, and the STREAMS algebra on chains."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ustack._core.base.checksum cimport csum_block_add, csum_partial
from ustack._core.base.ledger cimport LR_COPYB, LR_CSUM_FUSED, LR_PULLUP, ledger, ledger_book
from ustack._core.base.types cimport (
    atomic_add64, atomic_cas32, atomic_dec32, atomic_inc32, atomic_load32, likely, spin_lock, spin_unlock,
    unlikely,
)
from ustack._core.mem.arena cimport (
    arena, arena_destroy, arena_push_reap, arena_take, arena_take_reserved, cell_give, cell_take, class_for,
)
from ustack._core.mem.pool cimport dblk_reset, pool, pool_give, pool_pop, pool_push
from ustack._core.mem.region cimport region, region_unref
from ustack._core.mem.sums cimport copy_summing, msgfill, sums_room


# --- allocation -------------------------------------------------------------------------------------------
cdef inline mblk *fresh(arena *a, void *cell, dblk *d) noexcept nogil:
    cdef mblk *m = <mblk *>cell
    memset(m, 0, sizeof(mblk))
    m.home = a
    m.dp = d
    m.rptr = m.wptr = d.base
    return m


cdef mblk *allocb_slow(arena *a, size_t size) noexcept nogil:
    cdef dblk *d = arena_take(a, size)
    return mblk_attach(a, d) if d != NULL else NULL


cdef mblk *allocb(arena *a, size_t size) noexcept nogil:
    """An empty block of at least ``size`` bytes; NULL at the budget or without memory."""
    cdef pool *p = class_for(a, size)
    cdef mblk *m
    cdef dblk *d
    if unlikely(p == NULL):
        return allocb_slow(a, size)
    # Storage and structure under one lock: this is the path that every packet takes.
    spin_lock(&a.lock)
    m = a.free_mblks
    if unlikely(m == NULL or p.head == NULL or (a.budget and a.held + <int64_t>p.footprint > a.common)):
        spin_unlock(&a.lock)
        return allocb_slow(a, size)
    a.free_mblks = m.next
    d = pool_pop(p)
    a.held += p.footprint
    a.live += 2
    spin_unlock(&a.lock)
    dblk_reset(d)
    return fresh(a, m, d)


cdef mblk *alloc_header(arena *a) noexcept nogil:
    """An empty block for headers: data begins at HEADROOM, and grows to the front by pkt_push."""
    cdef mblk *m = allocb(a, HEADER_SIZE)
    cdef dblk *d
    if unlikely(m == NULL and a.budget != a.common):
        d = arena_take_reserved(a, HEADER_SIZE)
        m = mblk_attach(a, d) if d != NULL else NULL
    if m != NULL:
        m.rptr += HEADROOM
        m.wptr = m.rptr
    return m


cdef mblk *mblk_attach(arena *a, dblk *taken) noexcept nogil:
    """An empty window at the base of a dblk, which it owns; NULL without memory (the dblk's reference is
    dropped)."""
    cdef void *cell = cell_take(a)
    if cell == NULL:
        dblk_unref(taken)
        return NULL
    return fresh(a, cell, taken)


cdef mblk *esballoc(arena *a, void *base, size_t size, free_fn fn, void *arg) noexcept nogil:
    """A block on somebody else's storage: fn(arg) runs once, from arena_reap. NULL: it never runs."""
    cdef dblk *d
    cdef void *cell
    if size > <size_t>0xFFFFFFFF:
        return NULL
    d = <dblk *>cell_take(a)
    if d == NULL:
        return NULL
    cell = cell_take(a)
    if cell == NULL:
        cell_give(a, d)
        return NULL
    memset(d, 0, sizeof(dblk))
    d.base = <uint8_t *>base
    d.lim = d.base + size
    d.refs = 1
    d.flags = DB_EXTERNAL
    d.truesize = size
    d.owner = a
    d.fn = fn
    d.arg = arg
    return fresh(a, cell, d)


cdef void release_storage(dblk *d) noexcept nogil:
    """The last reference is gone."""
    cdef arena *a = d.owner
    cdef bint gone
    if d.home != NULL:
        if a == NULL:
            pool_give(d.home, d)
            return
        spin_lock(&a.lock)
        pool_push(d.home, d)
        a.held -= d.truesize
        a.live -= 1
        gone = a.live == 0 and a.refs == 0
        spin_unlock(&a.lock)
        if gone:
            arena_destroy(a)
    elif d.fn != NULL:
        arena_push_reap(a, d)
    elif d.flags & DB_EXTERNAL:
        cell_give(a, d)             # external storage that nobody wants back
    else:
        spin_lock(&a.lock)
        a.held -= d.truesize
        spin_unlock(&a.lock)
        atomic_add64(&a.reserved, -<int64_t>d.truesize)
        region_unref(<region *>d.arg)
        cell_give(a, d)


cdef inline bint last_reference(dblk *d) noexcept nogil:
    # Whoever reads 1 is alone with it: nobody is left who could add a reference.
    return atomic_load32(&d.refs) == 1 or atomic_dec32(&d.refs) == 0


cdef void freeb(mblk *m) noexcept nogil:
    """Free one block; what follows it in the message stays. NULL is allowed."""
    cdef dblk *d
    cdef arena *a
    cdef bint gone
    if m == NULL:
        return
    d = m.dp
    a = m.home
    m.dp = NULL
    if not last_reference(d):
        cell_give(a, m)
        return
    if unlikely(d.home == NULL or d.owner != a):
        cell_give(a, m)
        release_storage(d)
        return
    spin_lock(&a.lock)
    pool_push(d.home, d)
    m.next = a.free_mblks
    a.free_mblks = m
    a.held -= d.truesize
    a.live -= 2
    gone = a.live == 0 and a.refs == 0
    spin_unlock(&a.lock)
    if unlikely(gone):
        arena_destroy(a)


cdef void freemsg(mblk *m) noexcept nogil:
    """Free all blocks of a message."""
    cdef mblk *cont
    while m != NULL:
        cont = m.cont
        freeb(m)
        m = cont


cdef void freelist(mblk *m) noexcept nogil:
    """Free all messages of a list linked by ``next``."""
    cdef mblk *following
    while m != NULL:
        following = m.next
        freemsg(m)
        m = following


cdef void dblk_ref(dblk *d) noexcept nogil:
    atomic_inc32(&d.refs)


cdef void dblk_unref(dblk *d) noexcept nogil:
    if d != NULL and last_reference(d):
        release_storage(d)


# --- sharing and copying ----------------------------------------------------------------------------------
cdef bint try_ref(dblk *d) noexcept nogil:
    """One more reference, unless the limit is reached."""
    cdef int32_t refs
    if likely(d.ref_limit == 0):
        atomic_inc32(&d.refs)
        return True
    while True:
        refs = atomic_load32(&d.refs)
        if refs >= d.ref_limit:
            return False
        if atomic_cas32(&d.refs, refs, refs + 1):
            return True


cdef mblk *dupb(arena *a, mblk *m) noexcept nogil:
    """Another window on the same storage, with the same facts; NULL at the reference limit or without
    memory."""
    cdef mblk *twin = <mblk *>cell_take(a)
    if unlikely(twin == NULL):
        return NULL
    if unlikely(not try_ref(m.dp)):
        cell_give(a, twin)
        return NULL
    twin[0] = m[0]
    twin.next = twin.prev = twin.cont = NULL
    twin.home = a
    return twin


cdef mblk *dupmsg(arena *a, mblk *m) noexcept nogil:
    cdef mblk *head = NULL
    cdef mblk **at = &head
    while m != NULL:
        at[0] = dupb(a, m)
        if at[0] == NULL:
            freemsg(head)
            return NULL
        at = &at[0].cont
        m = m.cont
    return head


cdef mblk *copyb(arena *a, mblk *m) noexcept nogil:
    """A block of its own with the same bytes at the same offset, the same type and facts."""
    cdef size_t offset = m.rptr - m.dp.base
    cdef size_t n = m.wptr - m.rptr
    cdef mblk *copy = allocb(a, m.dp.lim - m.dp.base)
    cdef dblk *d
    if copy == NULL:
        return NULL
    d = copy.dp
    copy[0] = m[0]
    copy.next = copy.prev = copy.cont = NULL
    copy.home = a
    copy.dp = d
    copy.rptr = d.base + offset
    copy.wptr = copy.rptr + n
    d.type = m.dp.type
    memcpy(copy.rptr, m.rptr, n)
    ledger_book(a.book, LR_COPYB, n)
    return copy


cdef mblk *copymsg(arena *a, mblk *m) noexcept nogil:
    cdef mblk *head = NULL
    cdef mblk **at = &head
    while m != NULL:
        at[0] = copyb(a, m)
        if at[0] == NULL:
            freemsg(head)
            return NULL
        at = &at[0].cont
        m = m.cont
    return head


cdef inline mblk *dupb_or_copyb(arena *a, mblk *m) noexcept nogil:
    cdef mblk *twin = dupb(a, m)
    return twin if twin != NULL else copyb(a, m)


cdef mblk *dup_range(arena *a, mblk *m, size_t offset, size_t n) noexcept nogil:
    """Windows on bytes [offset, offset + n); empty blocks are left out. For n == 0 one empty window."""
    cdef mblk *head = NULL
    cdef mblk **at = &head
    cdef size_t here, left = n
    while m != NULL and offset >= mblk_len(m) and (offset > mblk_len(m) or m.cont != NULL):
        offset -= mblk_len(m)
        m = m.cont
    if m == NULL:
        return NULL
    while head == NULL or left:
        if m == NULL:
            freemsg(head)
            return NULL
        here = mblk_len(m) - offset
        if here > left:
            here = left
        if here or n == 0:
            at[0] = dupb_or_copyb(a, m)
            if at[0] == NULL:
                freemsg(head)
                return NULL
            at[0].rptr += offset
            at[0].wptr = at[0].rptr + here
            at = &at[0].cont
        offset = 0
        left -= here
        m = m.cont
    head.pkt_len = n
    return head


# --- chains -----------------------------------------------------------------------------------------------
cdef inline mblk *last_block(mblk *m) noexcept nogil:
    while m.cont != NULL:
        m = m.cont
    return m


cdef void linkb(mblk *m, mblk *tail) noexcept nogil:
    """Append ``tail`` to the message."""
    last_block(m).cont = tail


cdef mblk *unlinkb(mblk *m) noexcept nogil:
    """Take the first block off its message; returns the rest, or NULL."""
    cdef mblk *rest = m.cont
    m.cont = NULL
    return rest


cdef mblk *rmvb(mblk *m, mblk *block) noexcept nogil:
    """Take ``block`` out of the message; returns the message's head, NULL if nothing is left or it was not
    in it."""
    cdef mblk *b = m
    if block == m:
        return unlinkb(m)
    while b != NULL and b.cont != block:
        b = b.cont
    if b == NULL:
        return NULL
    b.cont = block.cont
    block.cont = NULL
    return m


cdef size_t same_type_run(const mblk *m) noexcept nogil:
    """Bytes in the leading blocks of the first block's type."""
    cdef uint8_t kind = m.dp.type
    cdef size_t n = 0
    while m != NULL and m.dp.type == kind:
        n += mblk_len(m)
        m = m.cont
    return n


cdef size_t gather(uint8_t *dst, const mblk *m, size_t n) noexcept nogil:
    """Copy the first n bytes of a message that has as many."""
    cdef size_t here, left = n
    while left:
        here = mblk_len(m)
        if here > left:
            here = left
        memcpy(dst, m.rptr, here)
        dst += here
        left -= here
        m = m.cont
    return n


cdef void drop_after(mblk *m, size_t n) noexcept nogil:
    """Remove n bytes of the blocks behind m (they are there), freeing those that become or were empty on the
    way."""
    cdef mblk *b = m.cont
    cdef size_t here
    while b != NULL and (n or mblk_len(b) == 0) and b.dp.type == m.dp.type:
        here = mblk_len(b)
        if here > n:
            b.rptr += n
            break
        n -= here
        m.cont = b.cont
        freeb(b)
        b = m.cont


cdef bint pullupmsg(arena *a, mblk *m, ssize_t n) noexcept nogil:
    """Make the first n bytes (-1: all) contiguous in the first block. False: not that many of its type, or
    no memory.

    Bytes that are contiguous already stay where they are. Other holders of the storage see no change: if it
    is not exclusively owned, or too small, the bytes go to storage of their own.
    """
    cdef size_t first = mblk_len(m)
    cdef size_t want = <size_t>n
    cdef dblk *d
    if n < 0:
        want = same_type_run(m)
    if want <= first:
        return True
    if n >= 0 and same_type_run(m) < want:
        return False
    if writable(m) and tailroom(m) >= want - first:
        m.dp.stride = 0
        ledger_book(a.book, LR_PULLUP, gather(m.wptr, m.cont, want - first))
    else:
        d = arena_take(a, want)
        if d == NULL:
            return False
        d.type = m.dp.type
        ledger_book(a.book, LR_PULLUP, gather(d.base, m, want))
        dblk_unref(m.dp)
        m.dp = d
        m.rptr = d.base
    m.wptr = m.rptr + want
    drop_after(m, want - first)
    return True


cdef mblk *msgpullup(arena *a, mblk *m, ssize_t n) noexcept nogil:
    """A new message with the first n bytes (-1: all) contiguous, and windows on the rest. The original
    stays."""
    cdef size_t run = same_type_run(m)
    cdef size_t want = run if n < 0 else <size_t>n
    cdef size_t total = msgbytes(m)
    cdef mblk *head
    if want > run:
        return NULL
    head = allocb(a, want)
    if head == NULL:
        return NULL
    head.dp.type = m.dp.type
    head.wptr += gather(head.rptr, m, want)
    head.pkt_len = m.pkt_len
    if total > want:
        head.cont = dup_range(a, m, want, total - want)
        if head.cont == NULL:
            freeb(head)
            return NULL
        head.cont.pkt_len = 0
    ledger_book(a.book, LR_PULLUP, want)
    return head


cdef bint adjmsg(mblk *m, ssize_t n) noexcept nogil:
    """Trim n bytes from the head, or -n from the tail, of the leading run of one type. False: it has
    fewer."""
    cdef size_t run = same_type_run(m)
    cdef size_t keep, here
    cdef uint8_t kind = m.dp.type
    cdef mblk *b = m
    if n >= 0:
        if <size_t>n > run:
            return False
        here = mblk_len(m)
        if <size_t>n <= here:
            m.rptr += n
        else:
            m.rptr = m.wptr
            drop_after(m, <size_t>n - here)
        return True
    if <size_t>(-n) > run:
        return False
    keep = run - <size_t>(-n)
    while mblk_len(b) < keep:
        keep -= mblk_len(b)
        b = b.cont
    b.wptr = b.rptr + keep
    while b.cont != NULL and b.cont.dp.type == kind:
        m = b.cont
        b.cont = m.cont
        freeb(m)
    return True


cdef size_t msgdsize(const mblk *m) noexcept nogil:
    """Bytes in the blocks of type M_DATA."""
    cdef size_t n = 0
    while m != NULL:
        if m.dp.type == M_DATA:
            n += mblk_len(m)
        m = m.cont
    return n


cdef size_t msgbytes(const mblk *m) noexcept nogil:
    cdef size_t n = 0
    while m != NULL:
        n += mblk_len(m)
        m = m.cont
    return n


cdef int msgblocks(const mblk *m) noexcept nogil:
    cdef int n = 0
    while m != NULL:
        n += 1
        m = m.cont
    return n


cdef size_t msgtruesize(const mblk *m) noexcept nogil:
    """Storage that a queue holds with this message: every block's whole buffer."""
    cdef size_t n = 0
    while m != NULL:
        n += m.dp.truesize
        m = m.cont
    return n


cdef mblk *splitmsg(arena *a, mblk *m, size_t n) noexcept nogil:
    cdef mblk *rest
    while m != NULL and mblk_len(m) < n:
        n -= mblk_len(m)
        m = m.cont
    if m == NULL:
        return NULL
    if mblk_len(m) == n:
        return unlinkb(m)
    rest = dupb_or_copyb(a, m)
    if rest == NULL:
        return NULL
    rest.rptr += n
    rest.pkt_len = 0
    rest.cont = m.cont
    m.cont = NULL
    m.wptr = m.rptr + n
    return rest


cdef mblk *msgconsume(mblk *taken, size_t n) noexcept nogil:
    """The new head inherits ``next`` and ``prev``; other facts stay with their blocks."""
    cdef mblk *m = taken
    cdef mblk *cont
    while m != NULL and n >= mblk_len(m) and (n or m != taken):
        n -= mblk_len(m)
        cont = m.cont
        if cont != NULL:
            cont.next = m.next
            cont.prev = m.prev
        freeb(m)
        m = cont
        if n == 0:
            break
    if m != NULL:
        m.rptr += n
    return m


# --- bytes in and out -------------------------------------------------------------------------------------
cdef size_t msgappend(ledger *l, int reason, mblk *m, const void *src, size_t n) noexcept nogil:
    """Appends; partial sums that end where the data ends are carried on, others are dropped."""
    cdef dblk *d
    m = last_block(m)
    d = m.dp
    if not writable(m):
        return 0
    if n > tailroom(m):
        n = tailroom(m)
    if n == 0:
        return 0
    if d.stride and m.wptr == d.sum_base + d.summed and d.sum_phase + d.summed + n <= <size_t>d.stride * sums_room(d):
        copy_summing(d, m.wptr, <const uint8_t *>src, n)
        ledger_book(l, LR_CSUM_FUSED, n)
    else:
        if m.wptr < d.sum_base + d.summed:
            d.stride = 0
        memcpy(m.wptr, src, n)
    m.wptr += n
    ledger_book(l, reason, n)
    return n


cdef mblk *blocks_for(arena *a, size_t n) noexcept nogil:
    """Empty blocks with room for n bytes, filled from the front in pieces of up to 64 KB."""
    cdef mblk *head = NULL
    cdef mblk **at = &head
    cdef size_t here
    while head == NULL or n:
        here = n if n < 65536 else 65536
        at[0] = allocb(a, here)
        if at[0] == NULL:
            freemsg(head)
            return NULL
        at = &at[0].cont
        n -= here
    return head


cdef mblk *msgcopyin(arena *a, ledger *l, int reason, const void *src, size_t n) noexcept nogil:
    return msgcopyin_csum(a, l, reason, src, n, 0)


cdef mblk *msgcopyin_csum(arena *a, ledger *l, int reason, const void *src, size_t n,
                          uint32_t stride, uint32_t phase=0) noexcept nogil:
    """stride 0: no summing. Where a block lacks room for the sums, its stride is a multiple of the one asked
    for."""
    cdef mblk *head = blocks_for(a, n)
    if head == NULL:
        return NULL
    msgfill(head, <const uint8_t *>src, n, stride, phase)
    head.pkt_len = n
    ledger_book(l, reason, n)
    if stride:
        ledger_book(l, LR_CSUM_FUSED, n)
    return head


cdef size_t msgcopyout(ledger *l, int reason, const mblk *m, size_t offset, void *dst,
                       size_t n) noexcept nogil:
    cdef uint8_t *p = <uint8_t *>dst
    cdef size_t here, done = 0
    while m != NULL and done < n:
        here = mblk_len(m)
        if offset < here:
            here -= offset
            if here > n - done:
                here = n - done
            memcpy(p + done, m.rptr + offset, here)
            done += here
            offset = 0
        else:
            offset -= here
        m = m.cont
    if done:
        ledger_book(l, reason, done)
    return done


cdef inline size_t sum_start(const dblk *d, size_t i) noexcept nogil:
    """Offset from sum_base of what the i-th partial sum covers."""
    return i * d.stride - d.sum_phase if i else 0


cdef uint32_t block_sum(const dblk *d, const uint8_t *p, size_t n, size_t *passed) noexcept nogil:
    """Sum of n bytes at p, from the partial sums where they cover whole strides; adds what it had to read."""
    cdef size_t first, last, at, end, here
    cdef uint32_t sum, i
    if d.stride == 0 or p < d.sum_base or p >= d.sum_base + d.summed:
        passed[0] += n
        return csum_partial(p, n)
    at = p - d.sum_base
    end = at + n
    first = (at + d.sum_phase + d.stride - 1) // d.stride if at else 0
    last = d.nsums if end >= d.summed else (end + d.sum_phase) // d.stride
    if first >= last:
        passed[0] += n
        return csum_partial(p, n)
    here = sum_start(d, first) - at
    sum = csum_partial(p, here) if here else 0
    passed[0] += here
    for i in range(first, last):
        sum = csum_block_add(sum, d.sums[i], sum_start(d, i) - at)
    here = d.summed if last == d.nsums else sum_start(d, last)
    if end > here:
        passed[0] += end - here
        sum = csum_block_add(sum, csum_partial(d.sum_base + here, end - here), here - at)
    return sum


cdef uint32_t msgcsum(ledger *l, int reason, const mblk *m, size_t offset, size_t n) noexcept nogil:
    cdef uint32_t sum = 0
    cdef size_t here, done = 0, passed = 0
    while m != NULL and done < n:
        here = mblk_len(m)
        if offset < here:
            here -= offset
            if here > n - done:
                here = n - done
            sum = csum_block_add(sum, block_sum(m.dp, m.rptr + offset, here, &passed), done)
            done += here
            offset = 0
        else:
            offset -= here
        m = m.cont
    if passed:
        ledger_book(l, reason, passed)
    return sum
