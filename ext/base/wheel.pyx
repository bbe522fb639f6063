"""The timer wheel: see wheel.pxd.

Eight levels of 64 slots. A timer lives on the level of the highest base-64 digit in which its tick differs from the
wheel's: so everything on a lower level expires before everything on a higher one, and one occupancy word a level
finds the next slot. Slots of higher levels are handed down when the wheel's tick reaches them.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from ustack._core.base.types cimport NS_NEVER, bit_highest64, bit_lowest64, ns_t

cdef enum:
    DIGIT = 6
    # A slot of a higher level with more timers than this is not searched for its exact minimum:
    # its start is returned instead, and the early wake-up hands its timers down.
    SEARCH_LIMIT = 32


cdef inline uint64_t tick_of(ns_t t) noexcept nogil:
    return (<uint64_t>t) >> WHEEL_TICK_SHIFT if t > 0 else 0


cdef void wheel_init(wheel *w, ns_t now) noexcept nogil:
    memset(w, 0, sizeof(wheel))
    w.tick = tick_of(now)


cdef void timer_init(timer *t, timer_fn fn, void *arg) noexcept nogil:
    memset(t, 0, sizeof(timer))
    t.fn = fn
    t.arg = arg


cdef void insert(wheel *w, timer *t) noexcept nogil:
    cdef uint64_t tick = tick_of(t.expires)
    cdef uint64_t differ
    cdef int level, slot
    if tick < w.tick:
        tick = w.tick               # already due: the next run finds it
    differ = tick ^ w.tick
    level = bit_highest64(differ) // DIGIT if differ else 0
    if level >= WHEEL_LEVELS:
        level = WHEEL_LEVELS - 1    # beyond 2^48 ticks (580 years)
    slot = (tick >> (level * DIGIT)) & (WHEEL_SLOTS - 1)
    t.level = level
    t.slot = slot
    t.next = w.slots[level][slot]
    t.pprev = &w.slots[level][slot]
    if t.next != NULL:
        t.next.pprev = &t.next
    w.slots[level][slot] = t
    w.used[level] |= <uint64_t>1 << slot
    if w.known and t.expires < w.deadline:
        w.deadline = t.expires
        w.exact = True


cdef void unlink(wheel *w, timer *t) noexcept nogil:
    t.pprev[0] = t.next
    if t.next != NULL:
        t.next.pprev = t.pprev
    t.pprev = NULL
    t.next = NULL
    if w.slots[t.level][t.slot] == NULL:
        w.used[t.level] &= ~(<uint64_t>1 << t.slot)
    if t.expires == w.deadline or (not w.exact and t.level == w.level and t.slot == w.slot):
        w.known = False


cdef void timer_arm(wheel *w, timer *t, ns_t expires) noexcept nogil:
    """(Re)arm ``t`` for ``expires``; NS_NEVER stops it."""
    if t.pprev != NULL:
        if t.expires == expires:
            return
        unlink(w, t)
        w.armed -= 1
    if expires == NS_NEVER:
        return
    t.expires = expires
    insert(w, t)
    w.armed += 1


cdef void timer_stop(wheel *w, timer *t) noexcept nogil:
    if t.pprev != NULL:
        unlink(w, t)
        w.armed -= 1


cdef timer *detach_slot(wheel *w, int level, int slot) noexcept nogil:
    cdef timer *head = w.slots[level][slot]
    w.slots[level][slot] = NULL
    w.used[level] &= ~(<uint64_t>1 << slot)
    return head


cdef void hand_down(wheel *w, int level, int slot) noexcept nogil:
    """Put the timers of a slot that the wheel has reached on their lower levels."""
    cdef timer *t = detach_slot(w, level, slot)
    cdef timer *following
    if not w.exact:
        w.known = False
    while t != NULL:
        following = t.next
        insert(w, t)
        t = following


cdef timer *earliest(timer *t) noexcept nogil:
    cdef timer *best = t
    while t != NULL:
        if t.expires < best.expires:
            best = t
        t = t.next
    return best


cdef int lowest_level(wheel *w) noexcept nogil:
    cdef int level
    for level in range(WHEEL_LEVELS):
        if w.used[level]:
            return level
    return -1


cdef uint64_t slot_start(wheel *w, int level, int slot) noexcept nogil:
    """First tick of a slot, given that it lies at or ahead of the wheel's tick."""
    cdef int shift = level * DIGIT
    cdef uint64_t above = w.tick >> (shift + DIGIT) << (shift + DIGIT) if shift + DIGIT < 64 else 0
    return above | (<uint64_t>slot << shift)


cdef int wheel_run(wheel *w, ns_t now) noexcept nogil:
    """Fire everything due at ``now``; returns how many fired. A function may arm and stop any timer."""
    cdef uint64_t target = tick_of(now)
    cdef uint64_t start
    cdef int fired = 0
    cdef int level, slot
    cdef timer *t
    if target < w.tick:
        target = w.tick
    while True:
        level = lowest_level(w)
        if level < 0:
            break
        slot = bit_lowest64(w.used[level])
        start = slot_start(w, level, slot)
        if start > target:
            break
        if start > w.tick:
            w.tick = start
        if level > 0:
            hand_down(w, level, slot)
            continue
        if w.known and w.deadline > now:
            break                       # without looking at every timer of the slot
        t = earliest(w.slots[0][slot])
        if t.expires > now:
            break
        timer_stop(w, t)
        fired += 1
        t.fn(t.arg, now)
    if target > w.tick:
        advance(w, target)
    return fired


cdef void advance(wheel *w, uint64_t target) noexcept nogil:
    """Move the wheel to ``target``, handing down the slots that it enters on the way."""
    cdef int level
    cdef int slot
    w.tick = target
    for level in range(WHEEL_LEVELS - 1, 0, -1):
        slot = (target >> (level * DIGIT)) & (WHEEL_SLOTS - 1)
        if w.used[level] >> slot & 1:
            hand_down(w, level, slot)


cdef ns_t wheel_deadline(wheel *w) noexcept nogil:
    """When the next timer expires; NS_NEVER if none is armed. For a crowded far slot: not later than that.

    It is remembered: each poll asks, and the timers of many connections are not in the caches.
    """
    cdef int level
    if not w.known:
        level = lowest_level(w)
        w.known = True
        w.exact = True
        w.deadline = NS_NEVER if level < 0 else first_of(w, level, bit_lowest64(w.used[level]))
    return w.deadline


cdef ns_t first_of(wheel *w, int level, int slot) noexcept nogil:
    cdef int seen = 0
    cdef ns_t best = NS_NEVER
    cdef timer *t = w.slots[level][slot]
    while t != NULL:
        if t.expires < best:
            best = t.expires
        t = t.next
        seen += 1
        if level > 0 and seen > SEARCH_LIMIT:
            w.exact = False
            w.level = <uint8_t>level
            w.slot = <uint8_t>slot
            return <ns_t>(slot_start(w, level, slot) << WHEEL_TICK_SHIFT)
    return best
