"""The SACK scoreboard: see sack.pxd."""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from ustack._core.base.seq cimport seq_geq, seq_leq, seq_lt, seq_max, seq_min, seq_t
from ustack._core.tcp.block cimport interval, scoreboard

cdef enum:
    DUP_THRESH = 3              # RFC 6675 2


cdef int first_ending_at(const scoreboard *b, seq_t seq) noexcept nogil:
    """Index of the first interval whose end is at or above seq; n if there is none."""
    cdef int low = 0
    cdef int high = b.n
    cdef int mid
    while low < high:
        mid = (low + high) >> 1
        if seq_lt(b.v[mid].end, seq):
            low = mid + 1
        else:
            high = mid
    return low


cdef bint grow(scoreboard *b) noexcept nogil:
    cdef int cap = b.cap * 2 if b.cap else 8
    cdef interval *v
    if b.n < b.cap:
        return True
    if b.cap >= SACK_INTERVALS:
        return False
    v = <interval *>realloc(b.v, cap * sizeof(interval))
    if v == NULL:
        return False
    b.v = v
    b.cap = cap
    return True


cdef uint32_t sack_add(scoreboard *b, seq_t start, seq_t end) noexcept nogil:
    cdef int i = first_ending_at(b, start)
    cdef int j = i
    cdef uint32_t known = 0
    cdef seq_t low = start
    cdef seq_t high = end
    if seq_geq(start, end):
        return 0
    while j < b.n and seq_leq(b.v[j].start, end):       # overlapping or touching: merged
        low = seq_min(low, b.v[j].start)
        high = seq_max(high, b.v[j].end)
        known += b.v[j].end - b.v[j].start
        j += 1
    if i == j:
        if not grow(b):
            return 0
        memmove(&b.v[i + 1], &b.v[i], (b.n - i) * sizeof(interval))
        b.n += 1
    elif j > i + 1:
        memmove(&b.v[i + 1], &b.v[j], (b.n - j) * sizeof(interval))
        b.n -= <uint16_t>(j - i - 1)
    b.v[i].start = low
    b.v[i].end = high
    b.total += (high - low) - known
    return (high - low) - known


cdef void sack_advance(scoreboard *b, seq_t una) noexcept nogil:
    cdef int i = 0
    while i < b.n and seq_leq(b.v[i].end, una):
        b.total -= b.v[i].end - b.v[i].start
        i += 1
    if i:
        b.n -= <uint16_t>i
        memmove(b.v, &b.v[i], b.n * sizeof(interval))
    if b.n and seq_lt(b.v[0].start, una):
        b.total -= una - b.v[0].start
        b.v[0].start = una


cdef void sack_clear(scoreboard *b) noexcept nogil:
    b.n = 0
    b.total = 0


cdef void sack_free(scoreboard *b) noexcept nogil:
    free(b.v)
    b.v = NULL
    b.n = 0
    b.cap = 0
    b.total = 0


cdef uint32_t sack_within(const scoreboard *b, seq_t start, seq_t end) noexcept nogil:
    cdef int i
    cdef uint32_t total = 0
    if b.n == 0 or seq_geq(start, end):
        return 0
    i = first_ending_at(b, start + 1)
    while i < b.n and seq_lt(b.v[i].start, end):
        total += seq_min(b.v[i].end, end) - seq_max(b.v[i].start, start)
        i += 1
    return total


cdef bint sack_hole(const scoreboard *b, seq_t start, seq_t end, interval *hole) noexcept nogil:
    cdef int i = first_ending_at(b, start + 1)
    if i < b.n and seq_leq(b.v[i].start, start):        # start itself is held: the hole is behind it
        start = b.v[i].end
        i += 1
    if seq_geq(start, end):
        return False
    hole.start = start
    hole.end = seq_min(end, b.v[i].start) if i < b.n else end
    return True


cdef seq_t sack_lost_below(const scoreboard *b, seq_t una, uint32_t mss) noexcept nogil:
    """RFC 6675 4: lost is what has DupThresh separate held intervals, or more than (DupThresh - 1) * SMSS held
    bytes, above it."""
    cdef int i = b.n - 1
    cdef uint32_t above = 0
    while i >= 0:
        above += b.v[i].end - b.v[i].start
        if b.n - i >= DUP_THRESH or above > (DUP_THRESH - 1) * mss:
            return seq_max(una, b.v[i].start)
        i -= 1
    return una
