"""The shared-memory provider, its port and the way out: see shared.pxd."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.types cimport fence_full
from ustack._core.mem.region cimport region, region_unref
from ustack._core.mem.share cimport region_share
from ustack._core.via.connect cimport connect_purge
from ustack._core.via.deliver cimport deliver_fail, deliver_gather, deliver_report
from ustack._core.via.incoming cimport incoming_poll
from ustack._core.via.lane cimport (
    LANE_BYTES, LANE_MAGIC, LANE_RESERVE, LANE_SLOTS, LANE_VERSION, SLEEPS, lane_publish, lane_sleeping, lane_slot,
)
from ustack._core.via.memory cimport memory_find
from ustack._core.via.types cimport (
    VI_CONNECTED, VIA_MEMORY_MAX, VIA_VI_MAX, VIP_ERROR_NOT_SUPPORTED, VIP_NOT_REACHABLE, VIP_SUCCESS, via_control,
    via_memory, via_nic, via_ops, via_port, via_queue, via_slot, via_span, via_vi,
)
from ustack._core.via.vi cimport port_die, vi_find
from ustack._core.wire.via cimport (
    CONTROL_IMMEDIATE, ENTRY_CONNECT, ENTRY_DISCONNECT, ENTRY_HAS_IMMEDIATE, ENTRY_INLINE, ENTRY_MORE, ENTRY_SEND,
    LANE_ENTRY, SEGMENTS_MAX, STATUS_PROTECTION, desc, entry, entry_more, entry_segment, entry_slots,
)

cdef enum:                      # what became of a descriptor that was to be begun with
    STALLED = 1                 # no room, or its memory must be shown to the other side first
    FAILED = 2                  # and with it the connection
    NOT_SHARED = 3              # its memory is in no memory file: no handle, which are above 65535

cdef struct entry_segment_out:
    entry_segment s[SEGMENTS_MAX]

cdef via_ops operations


cdef region *shared_segment(int *err) noexcept nogil:
    cdef region *r = region_share(LANE_BYTES, err)
    cdef uint32_t *head
    if r != NULL:
        head = <uint32_t *>r.base
        head[0] = LANE_MAGIC
        head[1] = LANE_VERSION
        head[2] = LANE_SLOTS
    return r


cdef int shared_poll(via_port *port, int budget) noexcept nogil:
    # The address of a function of another module would be that of a pointer to it.
    return incoming_poll(port, budget)


cdef shared_port *shared_create(region *mine, region *theirs) noexcept nogil:
    cdef shared_port *p
    cdef uint32_t *head = <uint32_t *>theirs.base
    if (theirs.length < LANE_BYTES or head[0] != LANE_MAGIC or head[1] != LANE_VERSION or head[2] != LANE_SLOTS):
        return NULL
    p = <shared_port *>calloc(1, sizeof(shared_port))
    if p == NULL:
        return NULL
    operations.send = &shared_send
    operations.control = &shared_control
    operations.poll = &shared_poll
    operations.cancel = &shared_cancel
    p.port.ops = &operations
    p.port.state = p
    p.mine = mine
    p.theirs = theirs
    return p


cdef void shared_close(shared_port *p) noexcept nogil:
    cdef int k
    port_die(&p.port)
    connect_purge(p.port.nic, &p.port)
    p.port.owes_kick = p.port.wants_export = p.port.stalled = False
    for k in range(VIA_MEMORY_MAX):
        if p.lent[k].handle:
            shared_unlend(p, p.lent[k].handle)


cdef void shared_free(shared_port *p) noexcept nogil:
    region_unref(p.mine)
    region_unref(p.theirs)
    free(p)


cdef void shared_shown(shared_port *p) noexcept nogil:
    cdef uint32_t handle = p.port.export_handle
    p.port.wants_export = False
    p.shown[handle & (VIA_MEMORY_MAX - 1)] = handle
    shared_resume(p)


cdef bint shared_lend(shared_port *p, uint32_t handle, region *file, uint64_t offset, uint64_t length) noexcept nogil:
    cdef shared_lent *lent = &p.lent[handle & (VIA_MEMORY_MAX - 1)]
    if handle == 0 or offset > file.length or length > file.length - offset:
        return False
    if lent.handle:
        shared_unlend(p, lent.handle)
    lent.handle = handle
    lent.file = file
    lent.offset = offset
    lent.length = length
    return True


cdef void shared_unlend(shared_port *p, uint32_t handle) noexcept nogil:
    cdef shared_lent *lent = &p.lent[handle & (VIA_MEMORY_MAX - 1)]
    if handle and lent.handle == handle:
        region_unref(lent.file)
        lent.handle = 0
        lent.file = NULL


# --- our lane
# ---------------------------------------------------------------------------------------------------------

cdef inline uint32_t room(const shared_port *p) noexcept nogil:
    return LANE_SLOTS - (p.out_at - p.out_done)


cdef void finish(shared_port *p, uint32_t slots) noexcept nogil:
    """Entries from out_at on are written: publish them, the first one last."""
    cdef uint32_t k
    for k in range(1, slots):
        lane_publish(p.mine.base, p.out_at + k)
    lane_publish(p.mine.base, p.out_at)
    p.out_at += slots
    fence_full()                # it is there before the wish is read; shared_sleeps has the other half
    if lane_sleeping(p.theirs.base) & SLEEPS:
        p.port.owes_kick = True


cdef bint shared_put(shared_port *p, void *what) noexcept nogil:
    cdef entry *e = <entry *>what
    cdef shared_flight *f = &p.flights[p.out_at & (LANE_SLOTS - 1)]
    if room(p) < 1:
        return False
    e.ack = p.in_at
    memset(f, 0, sizeof(shared_flight))
    f.slots = 1
    memcpy(lane_slot(p.mine.base, p.out_at) + 4, <uint8_t *>what + 4, LANE_ENTRY - 4)
    finish(p, 1)
    return True


cdef int shared_control(via_port *port, const via_control *c) noexcept nogil:
    cdef shared_port *p = <shared_port *>port.state
    cdef entry e
    if port.dead:
        return VIP_NOT_REACHABLE
    memset(&e, 0, sizeof(e))
    e.kind = c.kind
    e.to = c.to
    e.source = c.source
    e.about = c.attempt
    e.length = c.code
    if c.kind == ENTRY_CONNECT:
        e.flags = c.reliability
        e.segments = <uint8_t>c.name_length
        e.length = c.max_transfer
        e.immediate = c.qos
        memcpy(e.s, c.name, sizeof(e.s))
    if shared_put(p, &e):
        return VIP_SUCCESS
    if c.kind == ENTRY_DISCONNECT:
        port_die(port)          # it does not read, and would believe for ever that it is connected
    return VIP_NOT_REACHABLE


cdef uint32_t translate(via_nic *nic, shared_port *p, const desc *d, entry_segment_out *out) noexcept nogil:
    """The segments as the other process names them. 0; a handle that it has not been shown; or NOT_SHARED."""
    cdef uint32_t k
    cdef via_memory *m
    for k in range(d.c.segments):
        m = memory_find(nic, d.s[k].handle)
        if not m.shared:
            return NOT_SHARED
        if p.shown[m.handle & (VIA_MEMORY_MAX - 1)] != m.handle:
            return m.handle
        out.s[k].handle = m.handle
        out.s[k].length = d.s[k].length
        out.s[k].offset = d.s[k].data - <uint64_t>m.base
    return 0


cdef void write(shared_port *p, via_vi *vi, const desc *d, uint32_t length, const entry_segment_out *o) noexcept nogil:
    """The entry of a message, with its further slots."""
    cdef entry *e = <entry *>lane_slot(p.mine.base, p.out_at)
    cdef uint32_t n = d.c.segments
    cdef uint32_t k = 0
    cdef uint32_t at
    e.ack = p.in_at
    e.kind = ENTRY_SEND
    e.flags = ENTRY_HAS_IMMEDIATE if d.c.control & CONTROL_IMMEDIATE else 0
    e.segments = <uint8_t>n
    e.cancelled = 0
    e.to = vi.peer
    e.source = vi.id
    e.immediate = d.c.immediate
    e.length = length
    e.about = 0
    while k < n and k < ENTRY_INLINE:
        e.s[k] = o.s[k]
        k += 1
    while k < n:
        at = (k - ENTRY_INLINE) / ENTRY_MORE
        (<entry_more *>lane_slot(p.mine.base, p.out_at + 1 + at)).s[k - ENTRY_INLINE - at * ENTRY_MORE] = o.s[k]
        k += 1


cdef int launch(shared_port *p, via_vi *vi, uint32_t position) noexcept nogil:
    """Begin with one descriptor. 0; STALLED; FAILED; NOT_SHARED."""
    cdef via_span spans[SEGMENTS_MAX]
    cdef entry_segment_out out
    cdef desc d
    cdef uint32_t length, slots
    cdef uint32_t bad = deliver_gather(vi, position, &d, spans, &length)
    cdef shared_flight *f
    cdef via_slot *s = &vi.send.slots[position & vi.send.mask]
    if bad:
        return 0 if deliver_fail(vi, position, bad) else FAILED
    slots = entry_slots(d.c.segments)
    if room(p) < slots + LANE_RESERVE:
        return STALLED
    bad = translate(vi.nic, p, &d, &out)
    if bad == NOT_SHARED:
        return NOT_SHARED
    if bad:
        p.port.wants_export = True
        p.port.export_handle = bad
        return STALLED
    write(p, vi, &d, length, &out)
    f = &p.flights[p.out_at & (LANE_SLOTS - 1)]
    f.vi = vi.id
    f.position = position
    f.length = length
    f.refused = 0
    f.slots = slots
    s.flying = True
    s.position = p.out_at
    finish(p, slots)
    return 0


cdef int shared_send(via_vi *vi) noexcept nogil:
    cdef shared_port *p = <shared_port *>vi.port.state
    cdef via_queue *q = &vi.send
    cdef int r
    while q.next != q.tail:
        if q.slots[q.next & q.mask].status == 0:
            r = launch(p, vi, q.next)
            if r == STALLED:
                p.port.stalled = True
                break
            if r == NOT_SHARED:
                if q.next == q.tail - 1:
                    q.tail -= 1
                    return VIP_ERROR_NOT_SUPPORTED
                r = 0 if deliver_fail(vi, q.next, STATUS_PROTECTION) else FAILED
            if r == FAILED:
                break
        q.next += 1
    return VIP_SUCCESS


cdef void shared_cancel(via_vi *vi, bint everything) noexcept nogil:
    cdef shared_port *p = <shared_port *>vi.port.state
    cdef shared_flight *f
    cdef via_slot *s
    cdef uint32_t at = p.out_done
    while at != p.out_at:
        f = &p.flights[at & (LANE_SLOTS - 1)]
        if f.vi == vi.id:
            s = &vi.send.slots[f.position & vi.send.mask]
            if everything or not (s.flying and s.position == at):
                (<entry *>lane_slot(p.mine.base, at)).cancelled = 1
                f.vi = 0
        at += f.slots
    fence_full()                # before anybody may use the memory for something else


cdef void land(shared_port *p, shared_flight *f, uint32_t at) noexcept nogil:
    """The other side has finished with an entry."""
    cdef via_vi *vi = vi_find(p.port.nic, f.vi) if f.vi else NULL
    cdef via_slot *s
    f.vi = 0
    if vi == NULL or f.position - vi.send.head >= vi.send.tail - vi.send.head:
        return
    s = &vi.send.slots[f.position & vi.send.mask]
    if s.flying and s.position == at:
        deliver_report(vi, f.position, f.length, f.refused)


cdef bint shared_acknowledge(shared_port *p, uint32_t position) noexcept nogil:
    cdef shared_flight *f
    if <int32_t>(position - p.out_done) <= 0:
        return True             # an older word than the last
    if position - p.out_done > p.out_at - p.out_done:
        return False
    while p.out_done != position:
        f = &p.flights[p.out_done & (LANE_SLOTS - 1)]
        if f.slots > position - p.out_done:
            return False        # in the middle of an entry
        land(p, f, p.out_done)
        p.out_done += f.slots
    return True


cdef void shared_resume(shared_port *p) noexcept nogil:
    cdef via_vi *vi
    cdef int k
    if p.port.wants_export:
        return
    p.port.stalled = False
    for k in range(VIA_VI_MAX):
        vi = p.port.nic.vis[k]
        if vi != NULL and vi.port == &p.port and vi.state == VI_CONNECTED and vi.send.next != vi.send.tail:
            shared_send(vi)
            if p.port.wants_export:
                return
