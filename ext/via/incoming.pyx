"""The shared-memory provider, the way in: see incoming.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ustack._core.base.types cimport fence_full
from ustack._core.via.connect cimport connect_input
from ustack._core.via.deliver cimport DELIVER_NOTHING, deliver_done, deliver_match, deliver_move, via_target
from ustack._core.via.lane cimport (
    LANE_SLOTS, SLEEPS_FOR_SENDS, lane_done, lane_finish, lane_sleeping, lane_slot, lane_there,
)
from ustack._core.via.shared cimport (
    shared_acknowledge, shared_flight, shared_lent, shared_port, shared_put, shared_resume,
)
from ustack._core.via.types cimport (
    PORT_WANTS_MEMORY, UNRELIABLE, VC_BAD_RANGE, VC_CANCELLED, VC_HOSTILE, VC_STALE, VE_CATASTROPHIC, VE_CONN_LOST,
    VI_CONNECTED, VIA_MEMORY_MAX, via_control, via_message, via_port, via_span, via_vi,
)
from ustack._core.via.nic cimport nic_event
from ustack._core.via.vi cimport port_die, vi_break, vi_find
from ustack._core.wire.via cimport (
    DISCRIMINATOR_MAX, ENTRY_CONNECT, ENTRY_DISCONNECT, ENTRY_ERROR, ENTRY_HAS_IMMEDIATE, ENTRY_INLINE, ENTRY_MORE,
    ENTRY_SEND, LANE_ENTRY, SEGMENTS_MAX, STATUS_REMOTE_DESC, STATUS_TRANSPORT, entry, entry_more, entry_segment,
    entry_slots,
)

cdef enum:
    HOSTILE = -1

cdef struct arrived:            # a message, as it was written
    int n
    entry_segment s[SEGMENTS_MAX]


cdef bint collect(shared_port *p, const entry *e, arrived *a) noexcept nogil:
    """Copy the segments from all slots of an entry. False: it is none."""
    cdef entry_more more
    cdef uint32_t k, n, slot
    if e.segments > SEGMENTS_MAX:
        return False
    a.n = e.segments
    n = <uint32_t>a.n if a.n < ENTRY_INLINE else ENTRY_INLINE
    memcpy(a.s, e.s, n * sizeof(entry_segment))
    for slot in range(1, entry_slots(e.segments)):
        if not lane_there(p.theirs.base, p.in_at + slot):
            return False
        memcpy(&more, lane_slot(p.theirs.base, p.in_at + slot), LANE_ENTRY)
        for k in range(ENTRY_MORE):
            if n < <uint32_t>a.n:
                a.s[n] = more.s[k]
                n += 1
    return True


cdef bint locate(shared_port *p, const arrived *a, via_span *spans, uint64_t *total) noexcept nogil:
    """Where the segments lie in this process. False: one of them names what was not lent; port.missing, if that may
    come.
    """
    cdef const shared_lent *lent
    cdef int k
    total[0] = 0
    for k in range(a.n):
        lent = &p.lent[a.s[k].handle & (VIA_MEMORY_MAX - 1)]
        if a.s[k].handle == 0 or lent.handle != a.s[k].handle:
            p.missing = a.s[k].handle
            return False
        if a.s[k].offset > lent.length or a.s[k].length > lent.length - a.s[k].offset:
            return False
        spans[k].base = lent.file.base + lent.offset + a.s[k].offset
        spans[k].length = a.s[k].length
        total[0] += a.s[k].length
    return True


cdef bint complain(shared_port *p, uint32_t status) noexcept nogil:
    """Tell the other side that the entry at in_at was not delivered. False: it does not listen."""
    cdef entry e
    memset(&e, 0, sizeof(e))
    e.kind = ENTRY_ERROR
    e.about = p.in_at
    e.length = status
    return shared_put(p, &e)


cdef bint refuse_range(shared_port *p, via_vi *vi) noexcept nogil:
    p.port.nic.counts[<int>VC_BAD_RANGE] += 1
    if vi.reliability == UNRELIABLE:
        return True
    vi_break(vi, VE_CONN_LOST)
    return complain(p, STATUS_TRANSPORT)


cdef bint place(shared_port *p, via_vi *vi, const entry *e, via_message *m) noexcept nogil:
    """Move a message into the receive descriptor whose turn it is. False: the other side does not listen."""
    cdef via_target to
    cdef uint32_t refused = deliver_match(vi, m.length, &to)
    if refused == DELIVER_NOTHING:
        return True
    if refused:
        return complain(p, refused)
    deliver_move(p.port.nic, &to, m)
    fence_full()                # if it was not taken back by now, what we have read was the message
    if (<entry *>lane_slot(p.theirs.base, p.in_at)).cancelled:
        p.port.nic.counts[<int>VC_CANCELLED] += 1
        return True
    deliver_done(vi, &to, m)
    return True


cdef int take_message(shared_port *p, const entry *e) noexcept nogil:
    """Slots that it took, PORT_WANTS_MEMORY, or HOSTILE."""
    cdef via_span spans[SEGMENTS_MAX]
    cdef arrived a
    cdef via_message m
    cdef uint64_t total
    cdef bint known, heard
    cdef via_vi *vi = vi_find(p.port.nic, e.to)
    if not collect(p, e, &a):
        return HOSTILE
    p.missing = 0
    if e.cancelled:
        p.port.nic.counts[<int>VC_CANCELLED] += 1
        return entry_slots(a.n)
    if vi == NULL or vi.state != VI_CONNECTED or vi.port != &p.port or vi.peer != e.source:
        p.port.nic.counts[<int>VC_STALE] += 1
        return entry_slots(a.n)
    known = locate(p, &a, spans, &total)
    if not known and p.missing and p.missing != p.asked:
        return PORT_WANTS_MEMORY
    if not known or total != e.length or total > vi.max_transfer:
        heard = refuse_range(p, vi)
    else:
        m.spans = spans
        m.n = a.n
        m.length = e.length
        m.immediate = e.immediate
        m.has_immediate = e.flags & ENTRY_HAS_IMMEDIATE != 0
        heard = place(p, vi, e, &m)
    return <int>entry_slots(a.n) if heard else HOSTILE


cdef int take_error(shared_port *p, const entry *e) noexcept nogil:
    cdef shared_flight *f = &p.flights[e.about & (LANE_SLOTS - 1)]
    if e.about - p.out_done >= p.out_at - p.out_done:
        return HOSTILE
    if e.length != STATUS_TRANSPORT and e.length != STATUS_REMOTE_DESC:
        return HOSTILE
    if f.vi:
        f.refused = e.length
    return 1


cdef int take_control(shared_port *p, const entry *e) noexcept nogil:
    cdef via_control c
    memset(&c, 0, sizeof(c))
    c.kind = e.kind
    c.to = e.to
    c.source = e.source
    c.attempt = e.about
    c.code = e.length
    if e.kind == ENTRY_CONNECT:
        if e.segments > DISCRIMINATOR_MAX:
            return HOSTILE
        c.reliability = e.flags
        c.max_transfer = e.length
        c.qos = e.immediate
        c.name_length = e.segments
        memcpy(c.name, e.s, DISCRIMINATOR_MAX)
    connect_input(&p.port, &c)
    return 1


cdef int take(shared_port *p) noexcept nogil:
    """The entry at in_at. Slots, PORT_WANTS_MEMORY or HOSTILE."""
    cdef entry e
    cdef int slots
    memcpy(&e, lane_slot(p.theirs.base, p.in_at), LANE_ENTRY)
    if not shared_acknowledge(p, e.ack):
        return HOSTILE          # first: an end of the connection flushes what was not taken, and only that
    if e.kind == ENTRY_SEND:
        slots = take_message(p, &e)
    elif e.kind == ENTRY_ERROR:
        slots = take_error(p, &e)
    elif ENTRY_CONNECT <= e.kind <= ENTRY_DISCONNECT:
        slots = take_control(p, &e)
    else:
        return HOSTILE
    if slots > 0:
        p.in_at += slots
        lane_finish(p.mine.base, p.in_at)
    return slots


cdef int hostile(shared_port *p) noexcept nogil:
    p.port.nic.counts[<int>VC_HOSTILE] += 1
    nic_event(p.port.nic, VE_CATASTROPHIC, 0)
    port_die(&p.port)
    return HOSTILE


cdef int incoming_poll(via_port *port, int budget) noexcept nogil:
    cdef shared_port *p = <shared_port *>port.state
    cdef uint32_t done
    cdef int r = 0
    cdef int n = 0
    if port.dead:
        return 0
    done = lane_done(p.theirs.base)
    while n < budget and not port.dead and lane_there(p.theirs.base, p.in_at):
        r = take(p)
        if r <= 0:
            break
        n += 1
    # What `done` passed before it was read was complained about before: such entries have been seen now.
    if r >= 0 and n < budget and not port.dead and not shared_acknowledge(p, done):
        r = HOSTILE
    if r == HOSTILE:
        return hostile(p)
    if n:
        fence_full()            # as in shared.finish
        if lane_sleeping(p.theirs.base) & SLEEPS_FOR_SENDS:
            port.owes_kick = True
    if port.stalled:
        shared_resume(p)
    return r if r < 0 else n
