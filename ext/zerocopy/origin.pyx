"""Where bytes to be sent come from: see origin.pxd."""

from libc.errno cimport EBUSY, EFAULT, EINVAL, ENOMEM, ENOSYS
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport malloc

from ustack._core.base.checksum cimport csum_fold, csum_partial
from ustack._core.base.ledger cimport LR_CSUM_TX, LR_FILE_READ, LR_TX_COPY, ledger, ledger_book
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport allocb, dblk, freemsg, mblk, mblk_len, msgcopyin, msgcopyin_csum
from ustack._core.sys.file cimport (
    FILE_REGULAR, sys_file_cached, sys_file_facts, sys_populate, sys_pread, sys_read_some, sys_resident)
from ustack._core.sys.guard cimport guard_copy
from ustack._core.sys.memory cimport page_size
from ustack._core.zerocopy.window cimport WINDOW, window, window_block, window_get, window_put


# --- memory -------------------------------------------------------------------------------------------------------
cdef void sum_apart(dblk *d, const uint8_t *p, size_t n, uint32_t stride, uint32_t phase) noexcept nogil:
    """Partial sums over what was copied before, in a second pass: what stacks did before they were fused."""
    cdef size_t room = d.home.nsums if d.home != NULL else 0
    cdef size_t here, done = 0
    if room == 0:
        return
    d.sum_base = <uint8_t *>p
    d.sum_phase = phase
    d.stride = stride
    while d.stride * room < phase + n:
        d.stride += stride
    d.nsums = 0
    while done < n:
        here = d.stride - (phase if done == 0 else 0)
        if here > n - done:
            here = n - done
        d.sums[d.nsums] = csum_fold(csum_partial(p + done, here))
        d.nsums += 1
        done += here
    d.summed = <uint32_t>n


cdef mblk *copy_naive(arena *a, ledger *book, const uint8_t *p, size_t n, uint32_t stride,
                      uint32_t phase) noexcept nogil:
    cdef mblk *head = msgcopyin(a, book, LR_TX_COPY, p, n)
    cdef mblk *m = head
    while m != NULL:
        sum_apart(m.dp, m.rptr, mblk_len(m), stride, phase)
        phase = <uint32_t>((phase + mblk_len(m)) % stride)
        m = m.cont
    if head != NULL:
        ledger_book(book, LR_CSUM_TX, n)
    return head


cdef mblk *take_guarded(origin *o, arena *a, ledger *book, size_t n, int *err) noexcept nogil:
    """From a mapping of somebody's file, as far as it is there. It is summed when it is sent, if it has to be."""
    cdef mblk *m = allocb(a, n)
    cdef size_t got
    if m == NULL:
        err[0] = -ENOMEM
        return NULL
    got = guard_copy(m.rptr, o.bytes, n)
    if got == 0:
        err[0] = -EFAULT
        freemsg(m)
        return NULL
    m.wptr += got
    m.pkt_len = <uint32_t>got
    o.bytes += got
    ledger_book(book, LR_TX_COPY, got)
    return m


cdef mblk *take_memory(origin *o, arena *a, ledger *book, size_t n, uint32_t stride, uint32_t phase,
                       int *err) noexcept nogil:
    cdef mblk *m
    if o.guarded:
        return take_guarded(o, a, book, n, err)
    if o.sums == SUM_NAIVE:
        m = copy_naive(a, book, o.bytes, n, stride, phase)
    elif o.sums == SUM_OUTBOARD or stride == 0:
        m = msgcopyin(a, book, LR_TX_COPY, o.bytes, n)
    else:
        m = msgcopyin_csum(a, book, LR_TX_COPY, o.bytes, n, stride, phase)
    if m == NULL:
        err[0] = -ENOMEM
    else:
        o.bytes += n
    return m


# --- files that are read ------------------------------------------------------------------------------------------
cdef int look(origin *o) noexcept nogil:
    """How long the file is now; one that became shorter than we are is at its end."""
    cdef int64_t before = o.facts.size
    cdef int r = sys_file_facts(o.fd, &o.facts)
    if r == 0 and o.facts.size < before and o.facts.size <= o.at:
        o.shrunk = True
    return r


cdef ssize_t still_there(origin *o, ssize_t got) noexcept nogil:
    """Of so many bytes that were read or copied, those that the file still has. What is cut off reads as zeros for a
    moment, in the page that the new end lies in; but a file shrinks before its pages do."""
    cdef int r = look(o)
    if r < 0:
        return r
    if o.at + got <= o.facts.size:
        return got
    return <ssize_t>(o.facts.size - o.at) if o.facts.size > o.at else 0


cdef ssize_t fetch(origin *o, void *p, size_t n) noexcept nogil:
    cdef ssize_t got
    if not o.positional:
        return sys_read_some(o.fd, p, n)
    got = sys_pread(o.fd, p, n, o.at)
    if got == -EINVAL and o.facts.kind == FILE_REGULAR and o.at >= o.facts.size:
        return 0                # further behind the end than any file reaches
    return still_there(o, got) if got > 0 and o.facts.kind == FILE_REGULAR else got


cdef mblk *take_read(origin *o, arena *a, ledger *book, size_t n, int *err) noexcept nogil:
    """Straight into a block; or, as programs do, into a buffer first."""
    cdef mblk *m = NULL
    cdef ssize_t got
    if o.how == FROM_READ:
        if o.scratch == NULL:
            o.scratch = <uint8_t *>malloc(ORIGIN_CHUNK)
            if o.scratch == NULL:
                err[0] = -ENOMEM
                return NULL
        got = fetch(o, o.scratch, n if n < ORIGIN_CHUNK else ORIGIN_CHUNK)
        if got > 0:
            m = msgcopyin(a, book, LR_TX_COPY, o.scratch, got)
    else:
        m = allocb(a, n)
        if m == NULL:
            err[0] = -ENOMEM
            return NULL
        got = fetch(o, m.rptr, n)
        m.wptr += got if got > 0 else 0
    if got <= 0 or m == NULL:
        err[0] = <int>got if got <= 0 else -ENOMEM
        freemsg(m)
        return NULL
    m.pkt_len = <uint32_t>got
    o.at += got
    ledger_book(book, LR_FILE_READ, got)
    return m


# --- files that are mapped ----------------------------------------------------------------------------------------
cdef size_t within(const origin *o, size_t n) noexcept nogil:
    """As many of n bytes as the file and the window have."""
    cdef int64_t left = o.facts.size - o.at
    cdef int64_t here = WINDOW - o.at % WINDOW
    if left <= 0:
        return 0
    if here < left:
        left = here
    return n if n < <size_t>left else <size_t>left


cdef mblk *take_mapped(origin *o, arena *a, ledger *book, size_t n, window *w, int *err) noexcept nogil:
    """Copied from the mapping; a page that is gone ends the copy."""
    cdef mblk *m = allocb(a, n)
    cdef ssize_t got
    if m == NULL:
        err[0] = -ENOMEM
        return NULL
    got = still_there(o, guard_copy(m.rptr, w.base + (o.at - w.offset), n))
    if got <= 0:
        err[0] = <int>got
        freemsg(m)
        return NULL
    m.wptr += got
    m.pkt_len = <uint32_t>got
    o.at += got
    ledger_book(book, LR_TX_COPY, got)
    return m


cdef int bring_in(const origin *o, const window *w, size_t n) noexcept nogil:
    """The next n bytes are in memory before anybody who must not wait reads them. To ask costs less than to have them
    mapped one by one."""
    cdef size_t page = page_size()
    cdef size_t start = <size_t>(o.at - w.offset)
    cdef size_t end = start + n
    cdef int r
    start -= start % page
    end += (page - end % page) % page
    if w.dark:
        return 0
    if o.facts.owned and sys_resident(w.base + start, end - start):
        return 0
    r = sys_populate(w.base + start, end - start)
    return 0 if r == -EINVAL or r == -ENOSYS else r


cdef mblk *take_gathered(origin *o, arena *a, size_t n, window *w, int *err) noexcept nogil:
    """A block on the pages; the file is looked at again behind having them: what was cut off meanwhile is not sent."""
    cdef mblk *m
    cdef int r = bring_in(o, w, n)
    cdef ssize_t there = still_there(o, n)
    if there <= 0:
        err[0] = <int>there
        return NULL
    if r == -EFAULT and <size_t>there < n:
        r = bring_in(o, w, there)
    if r < 0:
        err[0] = r
        return NULL
    m = window_block(a, w, o.at, there)
    if m == NULL:
        err[0] = -ENOMEM
        return NULL
    o.at += there
    return m


cdef mblk *take_window(origin *o, arena *a, ledger *book, size_t max, bint gather, int *err) noexcept nogil:
    cdef window *w
    cdef mblk *m
    cdef size_t n
    err[0] = look(o)
    n = within(o, max)
    if err[0] != 0 or n == 0:
        return NULL
    w = window_get(o.fd, &o.facts, o.at, err)
    if w == NULL:
        return NULL
    if gather:
        m = take_gathered(o, a, n, w, err)
    else:
        m = take_mapped(o, a, book, n, w, err)
    window_put(w)
    return m


# --- all of them --------------------------------------------------------------------------------------------------
cdef mblk *origin_take(origin *o, arena *a, ledger *book, size_t max, bint gather, uint32_t stride, uint32_t phase,
                       bint *unmapped, int *err) noexcept nogil:
    cdef mblk *m
    cdef int64_t cached
    err[0] = 0
    unmapped[0] = False
    if o.how == FROM_MEMORY:
        return take_memory(o, a, book, max, stride, phase, err)
    gather = gather and o.how in (FROM_AUTO, FROM_GATHER)
    if o.no_disk and o.facts.kind == FILE_REGULAR:
        cached = sys_file_cached(o.fd, o.at, <int64_t>(max if max < ORIGIN_GATHERED else ORIGIN_GATHERED))
        if cached <= 0:
            err[0] = <int>cached if cached < 0 else -EBUSY
            return NULL
        max = <size_t>cached
    if gather or o.how == FROM_MMAP:
        if o.facts.kind == FILE_REGULAR:
            m = take_window(o, a, book, max, gather, err)
            if m != NULL or err[0] == 0 or err[0] == -ENOMEM:
                return m                # of everything else reading tells more: EBADF, EIO, or that it can be done
        unmapped[0] = True
        err[0] = 0
    return take_read(o, a, book, max if max < ORIGIN_CHUNK else ORIGIN_CHUNK, err)


cdef bint origin_at_end(const origin *o) noexcept nogil:
    return o.positional and o.facts.kind == FILE_REGULAR and o.at >= o.facts.size
