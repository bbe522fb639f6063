"""The stack's half of posted receives: see shm_post.pxd."""

from libc.errno cimport EAGAIN, EFAULT, EMSGSIZE, ENODEV, ENOSPC
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from ustack._core.base.ledger cimport LR_RING_COPY
from ustack._core.base.types cimport atomic_load32, atomic_store32, cpu_relax, fence_full
from ustack._core.link.link cimport link
from ustack._core.link.shm_wire cimport (
    SHM_AT_BUSY, SHM_AT_POSTING, SHM_FORGET, SHM_NOT_COUNT, SHM_PACKET, SHM_POSTED, SHM_REGION, SHM_SINKS,
    SHM_VERSION, shm_order, shm_packet, shm_posting,
)
from ustack._core.mem.mblk cimport allocb, dblk, freemsg, mblk, mblk_attach, msgappend
from ustack._core.mem.posting cimport posting
from ustack._core.mem.region cimport region, region_unref
from ustack._core.mem.ring cimport ring, ring_ready
from ustack._core.mem.share cimport (
    REGION_PEERS, REGION_RETIRED, region_holding, region_seal, regions_retired,
)
from ustack._core.mem.source cimport source
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.passing cimport sys_hung_up, sys_pass

cdef enum:
    TOLD_OF = 0xFFFF            # version of a region's name
    PATIENCE = 20000            # looks for the end of one copy of 64 KB: about a millisecond


cdef void shm_poster_init(shm_poster *q, region *face, int fd) noexcept nogil:
    memset(q, 0, sizeof(shm_poster))
    q.told = <shm_posting *>(face.base + SHM_AT_POSTING)
    q.busy = <int32_t *>(face.base + SHM_AT_BUSY)
    q.fd = fd
    q.retired = regions_retired()


cdef void shm_poster_close(shm_poster *q) noexcept nogil:
    cdef int i, _i
    if q.state == POST_OUT:
        atomic_store32(&q.told.version, 0)
        ask(q)
        for _i in range(PATIENCE):
            if answer(q, False) == 0:
                break
            cpu_relax()
    for i in range(SHM_SINKS):
        if q.sinks[i] != NULL:
            region_unref(q.sinks[i])
            q.sinks[i] = NULL
    if q.fd >= 0:
        sys_close(q.fd)
    q.fd = -1
    q.state = POST_NOTHING


# --- regions ----------------------------------------------------------------------------------------------------------

cdef bint tell(shm_poster *q, uint32_t kind, uint32_t name, int fd) noexcept nogil:
    cdef shm_order o
    memset(&o, 0, sizeof(o))
    o.kind = kind
    o.region = name
    return sys_pass(q.fd, &o, sizeof(o), &fd, 1) == sizeof(o)


cdef void shm_poster_look_through(shm_poster *q) noexcept nogil:
    cdef int i
    if q.retired == regions_retired() or q.state != POST_NOTHING:
        return
    q.retired = regions_retired()
    for i in range(SHM_SINKS):
        if q.sinks[i] != NULL and q.sinks[i].flags & REGION_RETIRED:
            tell(q, SHM_FORGET, q.names[i], q.sinks[i].fd)
            region_unref(q.sinks[i])
            q.sinks[i] = NULL


cdef int introduce(shm_poster *q, region *taken) noexcept nogil:
    """Which of the sinks a region is, after the device was told of it; -1: it cannot be."""
    cdef int i, where = q.told_of % SHM_SINKS
    for i in range(SHM_SINKS):
        if q.sinks[i] == taken:
            region_unref(taken)
            return i
        if q.sinks[i] == NULL and q.sinks[where] != NULL:
            where = i
    if taken.flags & REGION_PEERS and taken.fd >= 0 and region_seal(taken) == 0:
        q.told_of += 1
        q.names[where] = <uint32_t>where | (q.told_of & TOLD_OF) << SHM_VERSION
        if tell(q, SHM_REGION, q.names[where], taken.fd):
            if q.sinks[where] != NULL:
                region_unref(q.sinks[where])
            q.sinks[where] = taken
            q.n.regions += 1
            return where
    region_unref(taken)
    return -1


# --- posting, and taking back -----------------------------------------------------------------------------------------

cdef int shm_poster_post(shm_poster *q, link *l) noexcept nogil:
    cdef posting *p = l.posted
    cdef region *r
    cdef int i
    if q.fd < 0 or q.state != POST_NOTHING:
        return -ENODEV if q.fd < 0 else -EAGAIN
    if p.room == 0 or p.room > SHM_POSTED:
        return -EMSGSIZE
    shm_poster_look_through(q)
    r = region_holding(p.base, p.room)
    if r == NULL:
        return -EFAULT
    i = introduce(q, r)
    if i < 0:
        return -ENOSPC
    q.base, q.length, q.header = p.base, <uint32_t>p.room, p.header
    q.mark = q.floor = q.spared = 0
    q.version = q.version + 1 if q.version < 0x7FFFFFFF else 1
    q.told.floor = 0
    q.told.region = q.names[i]
    q.told.length = q.length
    q.told.offset = p.base - q.sinks[i].base
    q.told.rule = p.rule
    q.state = POST_OUT
    atomic_store32(&q.told.version, q.version)
    return 0


cdef void ask(shm_poster *q) noexcept nogil:
    fence_full()                # what was told is out before we look; the device does it the other way round
    q.writing = atomic_load32(q.busy)


cdef int answer(shm_poster *q, bint last) noexcept nogil:
    """Whether the device has done with what it was at: 0, -EAGAIN, or, if it has been waited for, -ENODEV."""
    if q.writing and atomic_load32(q.busy) == q.writing:
        if not last:
            return -EAGAIN
        if not sys_hung_up(q.fd):
            return -ENODEV      # one that has ended writes no more
    q.writing = 0
    return 0


cdef int shm_poster_spare(shm_poster *q, const uint8_t *end, bint last) noexcept nogil:
    cdef size_t off
    cdef int r
    if q.state != POST_OUT or end <= q.base + q.spared or end <= q.base + q.mark:
        return 0
    off = end - q.base
    if off > q.length:
        off = q.length
    if off > q.floor:
        q.floor = <uint32_t>off
        atomic_store32(<int32_t *>&q.told.floor, <int32_t>q.floor)
        ask(q)
    r = answer(q, last)
    if r == 0:
        q.spared = q.floor
    return r


cdef int shm_poster_unpost(shm_poster *q, ring *inbox, bint ended, bint last) noexcept nogil:
    cdef int r, n
    if q.state == POST_OUT:
        atomic_store32(&q.told.version, 0)
        q.state = POST_ASKED
        ask(q)
    if q.state == POST_ASKED:
        r = answer(q, last)
        if r < 0:
            return r
        n = ring_ready(inbox)   # whatever it has put somewhere is in the ring by now
        q.last = inbox.at + <uint32_t>(n if n > 0 else 0)
        q.state = POST_BACK
    if q.state == POST_BACK:
        if not ended and not last and <int32_t>(inbox.at - q.last) < 0:
            return -EAGAIN
        q.state = POST_NOTHING
    return 0


# --- receiving --------------------------------------------------------------------------------------------------------

cdef bint is_sound(const shm_poster *q, const link *l, const shm_packet *d) noexcept nogil:
    """Whether it could have been put there."""
    cdef uint32_t payload, room
    if q.state == POST_NOTHING or l.posted == NULL or d.posting != <uint16_t>q.version:
        return False
    if d.hdr_len != q.header or d.length < q.header or d.length + d.placed > SHM_PACKET:
        return False
    if d.at < q.mark or d.at >= q.length:
        return False
    payload = d.length + d.placed - q.header
    room = q.length - d.at
    return d.placed == (payload if payload < room else room)


cdef bint add_rest(link *l, mblk *m, const uint8_t *data, size_t n) noexcept nogil:
    """What had no room in the posted memory, behind what had."""
    if n == 0:
        return True
    m.cont = allocb(l.mem, n)
    if m.cont == NULL:
        return False
    msgappend(l.book, LR_RING_COPY, m.cont, data, n)
    return True


cdef mblk *shm_poster_receive(shm_poster *q, link *l, const shm_packet *d, const uint8_t *data) noexcept nogil:
    cdef source *src = l.src
    cdef uint8_t *where
    cdef mblk *m
    cdef dblk *its
    if not is_sound(q, l, d):
        q.n.bad_placed += 1
        l.stats.rx_bad += 1
        return NULL
    where = q.base + d.at
    q.mark = d.at + d.placed
    its = src.take(src.owner, q.header)
    m = mblk_attach(l.mem, its) if its != NULL else NULL
    if m == NULL:
        l.stats.rx_nomem += 1
        return NULL
    msgappend(NULL, LR_RING_COPY, m, data, q.header)
    its = l.posted.claim(l.posted, m.rptr, d.length + d.placed, where)
    if its == NULL:
        q.n.stray += 1
        l.stats.rx_bad += 1
        freemsg(m)
        return NULL
    m.cont = mblk_attach(l.mem, its)
    if m.cont != NULL:
        m.cont.rptr = where
        m.cont.wptr = where + d.placed
    if m.cont == NULL or not add_rest(l, m.cont, data + q.header, d.length - q.header):
        l.stats.rx_nomem += 1
        freemsg(m)
        return NULL
    q.n.placed += 1
    q.n.placed_bytes += d.placed
    return m


cdef void shm_poster_passed(shm_poster *q, const shm_packet *d) noexcept nogil:
    if d.posting and d.posting == <uint16_t>q.version and 0 < d.at < SHM_NOT_COUNT:
        q.n.passed[d.at] += 1
