"""A message meets the descriptor that was posted for it: see deliver.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from ustack._core.base.ledger cimport LR_DEVICE_RX, ledger_book
from ustack._core.via.memory cimport memory_spans
from ustack._core.via.nic cimport nic_event
from ustack._core.via.queue cimport queue_complete, queue_read
from ustack._core.via.types cimport (
    RELIABLE_RECEPTION, UNRELIABLE, VC_BAD_DESC, VC_RECEIVED, VC_RECEIVED_BYTES, VC_RECVQ_EMPTY, VC_SENT, VC_SENT_BYTES,
    VC_TOO_LONG, VE_COMP_PROT, VE_CONN_LOST, VE_RECVQ_EMPTY, via_message, via_nic, via_queue, via_span, via_vi,
)
from ustack._core.via.vi cimport vi_abort, vi_break
from ustack._core.wire.via cimport (
    CONTROL_OP, OP_SENDRECV, STATUS_FORMAT, STATUS_IMMEDIATE, STATUS_LENGTH, STATUS_REMOTE_DESC, STATUS_TRANSPORT,
    desc,
)


cdef uint32_t deliver_gather(via_vi *vi, uint32_t position, desc *d, via_span *spans, uint32_t *length) noexcept nogil:
    cdef uint64_t total
    cdef uint32_t bad = queue_read(vi.nic, &vi.send.slots[position & vi.send.mask], d)
    if bad:
        return bad
    if d.c.control & CONTROL_OP != OP_SENDRECV:
        return STATUS_FORMAT
    bad = memory_spans(vi.nic, vi.ptag, d, spans, &total)
    if bad:
        return bad
    if total > vi.max_transfer:
        return STATUS_LENGTH
    if total != d.c.length:
        return STATUS_FORMAT
    length[0] = <uint32_t>total
    return 0


cdef uint32_t deliver_inspect(via_vi *vi, uint32_t position) noexcept nogil:
    cdef via_target to
    cdef uint64_t room
    to.position = position
    return open_target(vi, &to, &room)


cdef uint32_t open_target(via_vi *vi, via_target *to, uint64_t *room) noexcept nogil:
    """The spans of the receive descriptor at to.position. 0, or the status that it fails with."""
    cdef desc d
    cdef uint32_t bad = queue_read(vi.nic, &vi.recv.slots[to.position & vi.recv.mask], &d)
    if bad == 0 and d.c.control & CONTROL_OP != OP_SENDRECV:
        bad = STATUS_FORMAT
    if bad == 0:
        bad = memory_spans(vi.nic, vi.ptag, &d, to.spans, room)
    to.n = d.c.segments
    return bad


cdef uint32_t deliver_match(via_vi *vi, uint32_t length, via_target *to) noexcept nogil:
    cdef via_queue *q = &vi.recv
    cdef uint64_t room = 0
    cdef uint32_t bad
    while q.next != q.tail and q.slots[q.next & q.mask].status:
        q.next += 1
    if q.next == q.tail:
        vi.nic.counts[<int>VC_RECVQ_EMPTY] += 1
        if vi.reliability != UNRELIABLE:
            vi_break(vi, VE_RECVQ_EMPTY)
            return STATUS_TRANSPORT
        nic_event(vi.nic, VE_RECVQ_EMPTY, vi.id)
        return DELIVER_NOTHING
    to.position = q.next
    bad = open_target(vi, to, &room)
    if bad == 0 and room >= length:
        return 0
    vi.nic.counts[<int>VC_BAD_DESC if bad else <int>VC_TOO_LONG] += 1
    queue_complete(q, to.position, bad if bad else STATUS_LENGTH, 0, 0)
    if vi.reliability == UNRELIABLE:
        return DELIVER_NOTHING
    vi_break(vi, VE_COMP_PROT if bad else VE_CONN_LOST)
    return STATUS_REMOTE_DESC


cdef void deliver_move(via_nic *nic, const via_target *to, const via_message *m) noexcept nogil:
    cdef int i = 0
    cdef int k = 0
    cdef uint32_t from_at = 0
    cdef uint32_t to_at = 0
    cdef uint32_t n
    while i < m.n and k < to.n:
        n = m.spans[i].length - from_at
        if n > to.spans[k].length - to_at:
            n = to.spans[k].length - to_at
        memcpy(to.spans[k].base + to_at, m.spans[i].base + from_at, n)
        from_at += n
        to_at += n
        if from_at == m.spans[i].length:
            i += 1
            from_at = 0
        if to_at == to.spans[k].length:
            k += 1
            to_at = 0
    if m.length:
        ledger_book(&nic.book, LR_DEVICE_RX, m.length)


cdef void deliver_done(via_vi *vi, const via_target *to, const via_message *m) noexcept nogil:
    vi.nic.counts[<int>VC_RECEIVED] += 1
    vi.nic.counts[<int>VC_RECEIVED_BYTES] += m.length
    queue_complete(&vi.recv, to.position, STATUS_IMMEDIATE if m.has_immediate else 0, m.length,
                   m.immediate if m.has_immediate else 0)


cdef bint deliver_report(via_vi *vi, uint32_t position, uint32_t length, uint32_t refused) noexcept nogil:
    if refused == 0 or refused == DELIVER_NOTHING:
        vi.nic.counts[<int>VC_SENT] += 1
        vi.nic.counts[<int>VC_SENT_BYTES] += length
        queue_complete(&vi.send, position, 0, length, 0)
        return True
    # Reliable delivery has done its part when the message was on its way; reliable reception knows better.
    if vi.reliability == RELIABLE_RECEPTION:
        queue_complete(&vi.send, position, refused, 0, 0)
    else:
        queue_complete(&vi.send, position, 0, length, 0)
    vi_break(vi, VE_CONN_LOST)
    return False


cdef bint deliver_fail(via_vi *vi, uint32_t position, uint32_t status) noexcept nogil:
    vi.nic.counts[<int>VC_BAD_DESC] += 1
    queue_complete(&vi.send, position, status, 0, 0)
    if vi.reliability == UNRELIABLE:
        return True
    vi_abort(vi, VE_COMP_PROT)
    return False
