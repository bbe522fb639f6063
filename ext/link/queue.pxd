"""A bounded queue of packets between two threads: one puts, one takes. The bound is a number of packets."""

from libc.stdint cimport int32_t, uint32_t

from ustack._core.base.types cimport atomic_load32, atomic_store32, spin_lock, spin_unlock
from ustack._core.mem.mblk cimport freemsg, mblk

cdef struct packet_queue:
    mblk *head
    mblk *tail
    int32_t lock
    int32_t count
    int32_t limit
    bint starved                # a put found no room: the next take should tell the other side


cdef inline void queue_init(packet_queue *q, int32_t limit) noexcept nogil:
    q.head = q.tail = NULL
    q.lock = q.count = 0
    q.limit = limit
    q.starved = False


cdef inline int32_t queue_count(const packet_queue *q) noexcept nogil:
    return atomic_load32(&q.count)


cdef inline int queue_put(packet_queue *q, mblk **pkts, int n, bint *was_empty) noexcept nogil:
    """Append as many of the packets as there is room for; returns how many (these are the queue's now)."""
    cdef int i = 0
    spin_lock(&q.lock)
    was_empty[0] = q.count == 0
    while i < n and q.count + i < q.limit:
        pkts[i].next = NULL
        if q.head == NULL:
            q.head = pkts[i]
        else:
            q.tail.next = pkts[i]
        q.tail = pkts[i]
        i += 1
    atomic_store32(&q.count, q.count + i)
    if i < n:
        q.starved = True
    spin_unlock(&q.lock)
    return i


cdef inline int queue_take(packet_queue *q, mblk **out, int max, bint *was_starved) noexcept nogil:
    """Take up to ``max`` packets; ``was_starved`` tells that somebody waits for the room."""
    cdef int i = 0
    was_starved[0] = False
    if atomic_load32(&q.count) == 0:
        return 0
    spin_lock(&q.lock)
    while i < max and q.head != NULL:
        out[i] = q.head
        q.head = q.head.next
        out[i].next = NULL
        i += 1
    atomic_store32(&q.count, q.count - i)
    if i:
        was_starved[0] = q.starved
        q.starved = False
    spin_unlock(&q.lock)
    return i


cdef inline void queue_clear(packet_queue *q) noexcept nogil:
    """Free everything in it. The other thread no longer uses it."""
    cdef mblk *m
    while q.head != NULL:
        m = q.head
        q.head = m.next
        m.next = NULL
        freemsg(m)
    q.tail = NULL
    q.count = 0
