"""The device's half of posted receives: see shm_place.pxd."""

from libc.errno cimport EAGAIN
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ustack._core.base.types cimport atomic_load32, atomic_store32, fence_full
from ustack._core.link.shm_wire cimport (
    SHM_AT_BUSY, SHM_AT_POSTING, SHM_FORGET, SHM_NOT_FLOW, SHM_NOT_FORM, SHM_NOT_LEFT, SHM_NOT_ORDER, SHM_POSTED,
    SHM_REGION, SHM_SINKS, shm_order, shm_packet, shm_posting,
)
from ustack._core.mem.posting cimport POSTING_HEADER, posting_rule
from ustack._core.mem.region cimport region, region_unref
from ustack._core.mem.share cimport region_import
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.memory cimport PROT_READ, PROT_WRITE
from ustack._core.sys.passing cimport sys_take_passed_now

cdef extern from "<errno.h>" nogil:
    enum:
        EBADMSG

cdef enum:
    HEAR = 32                   # messages at a time


cdef void shm_placer_init(shm_placer *q, region *face, int fd) noexcept nogil:
    memset(q, 0, sizeof(shm_placer))
    q.told = <shm_posting *>(face.base + SHM_AT_POSTING)
    q.busy = <int32_t *>(face.base + SHM_AT_BUSY)
    q.fd = fd


cdef void shm_placer_end(shm_placer *q) noexcept nogil:
    cdef int i
    for i in range(SHM_SINKS):
        if q.sinks[i] != NULL:
            region_unref(q.sinks[i])
            q.sinks[i] = NULL
    if q.fd >= 0:
        sys_close(q.fd)
        q.fd = -1


# --- what it is told --------------------------------------------------------------------------------------------------

cdef void shm_placer_hear(shm_placer *q) noexcept nogil:
    cdef shm_order o
    cdef region *r
    cdef uint32_t slot
    cdef int _i, fd, err = 0
    cdef ssize_t got
    for _i in range(HEAR):
        got = sys_take_passed_now(q.fd, &o, sizeof(o), &fd, 1) if q.fd >= 0 else -EAGAIN
        if got == -EAGAIN:
            return
        if got <= 0 and got != -EBADMSG:
            sys_close(q.fd)
            q.fd = -1
            return
        if got <= 0:
            continue
        r = NULL
        if got == sizeof(o) and o.kind == SHM_REGION:
            r = region_import(fd, 1, PROT_READ | PROT_WRITE, &err)
        if r == NULL:
            sys_close(fd)
        if got != sizeof(o) or (r == NULL and o.kind != SHM_FORGET):
            continue
        slot = o.region % SHM_SINKS
        if q.sinks[slot] != NULL:
            region_unref(q.sinks[slot])
        q.sinks[slot] = r
        q.names[slot] = o.region
        q.mine.version = 0      # it is looked at again: its region may be another one now


cdef bint is_sound(shm_placer *q) noexcept nogil:
    """Whether our copy of the posting makes sense, and its memory is known."""
    cdef const shm_posting *m = &q.mine
    cdef const posting_rule *rule = &m.rule
    cdef uint32_t slot = m.region % SHM_SINKS
    cdef region *r
    if not 4 <= rule.header <= POSTING_HEADER or rule.number_at > rule.header - 4 or not 0 < m.length <= SHM_POSTED:
        return False
    if q.sinks[slot] == NULL or q.names[slot] != m.region:
        return False
    r = q.sinks[slot]
    return m.offset <= r.length and m.length <= r.length - m.offset


cdef int take_posting(shm_placer *q, int32_t version) noexcept nogil:
    shm_placer_hear(q)
    memcpy(&q.mine, q.told, sizeof(shm_posting))
    fence_full()
    if atomic_load32(&q.told.version) != version:
        q.mine.version = 0      # it was just being changed
        return 0
    q.mine.version = version
    q.mark = 0
    if is_sound(q):
        return q.mine.rule.header
    q.mine.length = 0
    return -2


cdef int shm_placer_look(shm_placer *q) noexcept nogil:
    cdef int32_t version = atomic_load32(&q.told.version)
    if version == 0:
        return 0
    if version != q.mine.version:
        return take_posting(q, version)
    return q.mine.rule.header if q.mine.length else -1


# --- one packet -------------------------------------------------------------------------------------------------------

cdef int differs(const posting_rule *rule, const uint8_t *head) noexcept nogil:
    cdef uint8_t other, flow = 0, form = 0
    cdef int i
    for i in range(rule.header):
        other = head[i] ^ rule.value[i]
        flow |= other & rule.flow[i]
        form |= other & rule.form[i]
    return SHM_NOT_FLOW if flow else SHM_NOT_FORM if form else 0


cdef inline uint32_t number(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef uint8_t *shm_placer_claim(shm_placer *q, const uint8_t *head, uint32_t payload, shm_packet *p) noexcept nogil:
    cdef const shm_posting *m = &q.mine
    cdef region *r = q.sinks[m.region % SHM_SINKS]
    cdef int why = differs(&m.rule, head)
    cdef uint32_t at = number(head + m.rule.number_at) - m.rule.origin
    p.at = why
    if why:
        return NULL
    if at < q.mark or at >= m.length:
        p.at = SHM_NOT_ORDER
        return NULL
    q.writes = q.writes + 1 if 0 <= q.writes < 0x7FFFFFFF else 1
    atomic_store32(q.busy, q.writes)
    fence_full()
    if atomic_load32(&q.told.version) != m.version or <uint32_t>atomic_load32(<int32_t *>&q.told.floor) > at:
        shm_placer_release(q)
        p.at = SHM_NOT_LEFT
        return NULL
    p.at = at
    p.placed = payload if payload < m.length - at else m.length - at
    q.mark = at + p.placed
    return r.base + m.offset + at


cdef void shm_placer_release(shm_placer *q) noexcept nogil:
    atomic_store32(q.busy, 0)
