"""Descriptors, VIs, completion queues and connections: handles on the room ``via``. NICs and memory: ``via_nic``."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from ustack._core.base.ledger cimport LR_DEVICE_TX, LR_FILE_READ, LR_RX_COPY, LR_TX_COPY, ledger_book
from ustack._core.py.via_nic cimport (
    Memory, Nic, Port, Ptag, alive, attend, check, condition, fail, hold, look, release, wait,
)
from ustack._core.sys.file cimport (
    FILE_REGULAR, file_facts, sys_file_facts, sys_pread, sys_read_some, sys_write_some,
)
from ustack._core.sys.io cimport iovec
from ustack._core.via.connect cimport (
    connect_abandon, connect_accept, connect_pair, connect_reject, connect_start, connect_take, listener_create,
    listener_destroy,
)
from ustack._core.via.cq cimport cq_create, cq_destroy, cq_free, cq_has, cq_resize, cq_take
from ustack._core.via.queue cimport queue_has_done, queue_take
from ustack._core.via.types cimport (
    RELIABLE_DELIVERY, VI_IDLE, VIP_ERROR_NOT_SUPPORTED, VIP_ERROR_RESOURCE, VIP_INVALID_PARAMETER, VIP_INVALID_STATE,
    VIP_NOT_DONE, VIP_NOT_REACHABLE, VIP_SUCCESS, via_cq, via_listener, via_port, via_queue, via_request, via_slot,
    via_vi,
)
from ustack._core.via.vi cimport (
    vi_create, vi_destroy, vi_disconnect, vi_post_recv, vi_post_send,
)
from ustack._core.wire.via cimport (
    CONTROL_IMMEDIATE, DESC_ALIGN, DESC_CONTROL, DESC_SEGMENT, SEGMENTS_MAX, STATUS_ERRORS, STATUS_IMMEDIATE,
    desc_control,
    desc_segment,
)

cdef enum:
    LARGE = 16384               # bytes of a message beyond which the GIL is not kept while they move


# --- descriptors
# ------------------------------------------------------------------------------------------------------

cdef class Descriptor:
    """A descriptor in registered memory, in VIPL's layout, at a multiple of 64 bytes from the start of an aligned
    page.

    Until it is posted it can be filled in with ``set``; then it belongs to the NIC until its queue gives it back.
    After that
    ``status``, ``length`` and ``immediate`` say what became of it. Who prefers bytes may write them to
    ``memory.data``.
    """

    def __init__(self, memory: Memory, offset: int = 0) -> None:
        cdef Memory m = memory
        if not 0 <= offset <= m.length - DESC_CONTROL:
            raise ValueError("the descriptor does not lie in the memory")
        self.memory = m
        self.at = m.base + <Py_ssize_t>offset

    def set(self, segments: object = (), *, immediate: int | None = None, op: int = 0) -> None:
        """Fill it in: ``segments`` are (memory, offset, length), at most 16; ``immediate`` are 32 bits; ``op`` the
        control bits.

        Segments are not checked here: the NIC does that when it is posted. Raises ValueError if it does not fit its
        memory.
        """
        cdef desc_control *c = <desc_control *>self.at
        cdef desc_segment *s = <desc_segment *>(self.at + DESC_CONTROL)
        cdef Memory m
        cdef Py_ssize_t n, k
        self.writable()
        segments = tuple(segments)
        n = len(segments)
        if n > SEGMENTS_MAX or self.at + DESC_CONTROL + n * DESC_SEGMENT > self.memory.base + self.memory.length:
            raise ValueError(f"no room for {n} segments here (at most {SEGMENTS_MAX})")
        total = sum(length for _, _, length in segments)
        if total >= 1 << 32 or not 0 <= op < 1 << 16:
            raise ValueError("lengths and control bits are unsigned numbers of 32 and 16 bits")
        memset(c, 0, sizeof(desc_control))
        c.segments = <uint16_t>n
        c.control = <uint16_t>(op | (CONTROL_IMMEDIATE if immediate is not None else 0))
        c.immediate = immediate or 0
        c.length = total
        for k, (memory, offset, length) in enumerate(segments):
            m = memory
            s[k].data = <uint64_t>(<uintptr_t>m.base + <uint64_t>offset)
            s[k].handle = m.handle
            s[k].length = length

    cdef int writable(self) except -1:
        if self.busy:
            fail(VIP_INVALID_STATE, "the descriptor is posted: it belongs to the NIC")
        if self.memory.handle == 0:
            fail(VIP_INVALID_PARAMETER, "the descriptor's memory was deregistered")
        return 0

    @property
    def posted(self) -> bool:
        """Whether it belongs to the NIC."""
        return self.busy

    @property
    def status(self) -> int:
        """Status bits (``Status``) of the last time that it was given back; 0 if it never was, or is posted."""
        return self.result.status

    @property
    def failed(self) -> bool:
        """Whether its status has an error bit."""
        return self.result.status & STATUS_ERRORS != 0

    @property
    def length(self) -> int:
        """Bytes that were really moved, the last time that it was given back."""
        return self.result.length

    @property
    def immediate(self) -> int | None:
        """The 32 bits that came with the message; None if none did."""
        return self.result.immediate if self.result.status & STATUS_IMMEDIATE else None


@cython.final
cdef class Buffer(Descriptor):
    """A descriptor with one buffer of fixed size: made by ``buffers``. One message is one buffer; a larger one is an
    error.
    """

    def __init__(self) -> None:
        raise TypeError("buffers are made by ustack.via.buffers")

    @property
    def size(self) -> int:
        """Bytes that fit."""
        return self.room

    @property
    def data(self) -> memoryview:
        """The whole buffer, to be filled or read in place while it is not posted."""
        return self.memory.data[self.begins:self.begins + self.room]

    @property
    def offset(self) -> int:
        """Where it begins in its ``memory``."""
        return self.begins

    def prepare(self, length: int, *, immediate: int | None = None) -> None:
        """Make it a message of the first ``length`` bytes, to be sent in place. ValueError if the buffer is
        smaller.
        """
        cdef desc_control *c = <desc_control *>self.at
        if not 0 <= length <= self.room:
            raise ValueError(f"a message of {length} bytes does not fit a buffer of {self.room}")
        self.writable()
        self.prepared(length)
        if immediate is not None:
            c.control = CONTROL_IMMEDIATE
            c.immediate = immediate

    cdef void prepared(self, uint32_t length):
        cdef desc_control *c = <desc_control *>self.at
        cdef desc_segment *s = <desc_segment *>(self.at + DESC_CONTROL)
        c.segments = 1
        c.control = 0
        c.length = length
        s.data = <uint64_t>self.bytes_at
        s.handle = self.memory.handle
        s.length = length

    def copy_in(self, source: object, *, immediate: int | None = None) -> int:
        """Copy a message in from the caller's memory (booked as ``tx.copy``), and prepare it. Returns its length."""
        cdef const uint8_t[::1] view = source
        cdef Py_ssize_t n = view.shape[0]
        self.prepare(n, immediate=immediate)
        if n:
            memcpy(self.bytes_at, &view[0], n)
            ledger_book(&self.memory.nic.n.book, LR_TX_COPY, n)
        return n

    def copy_out(self, target: object) -> int:
        """Copy the message that was received to the caller's memory (booked as ``rx.copy``). Returns its length.

        This is the copy that buffers of fixed size force on a program that wants its data somewhere else.
        BufferError if the
        memory is too small or read-only.
        """
        cdef uint8_t[::1] view = target
        cdef Py_ssize_t n = self.result.length
        self.writable()
        if view.shape[0] < n:
            raise BufferError(f"{n} bytes do not fit a buffer of {view.shape[0]}")
        if n:
            memcpy(&view[0], self.bytes_at, n)
            ledger_book(&self.memory.nic.n.book, LR_RX_COPY, n)
        return n

    # --- for streams and splices: between the buffer and a descriptor, with nothing in between

    def _fill(self, int fd, Py_ssize_t length, long long position=-1) -> int:
        """Read from a descriptor straight into the buffer, booked as ``file.read``: 0 at the end, or -errno.

        position: of a file; -1 for what has none. What a file loses while it is read is not counted.
        """
        cdef uint8_t *p = self.bytes_at
        cdef ssize_t got
        cdef file_facts facts
        self.writable()
        if not 0 <= length <= self.room:
            raise ValueError(f"{length} bytes do not fit a buffer of {self.room}")
        with nogil:
            if position < 0:
                got = sys_read_some(fd, p, length)
            else:
                got = sys_pread(fd, p, length, position)
                if got > 0 and sys_file_facts(fd, &facts) == 0 and facts.kind == FILE_REGULAR:
                    if position + got > facts.size:
                        got = facts.size - position if facts.size > position else 0
        if got > 0:
            ledger_book(&self.memory.nic.n.book, LR_FILE_READ, got)
        return got

    def _drain(self, int fd, Py_ssize_t start, Py_ssize_t end, bint nowait) -> int:
        """Write a part of the buffer to a descriptor from where it lies, booked as ``device.tx``: bytes, or -errno.

        nowait: -EAGAIN instead of waiting, of pipes and sockets.
        """
        cdef iovec v
        cdef ssize_t sent
        self.writable()
        if not 0 <= start <= end <= <Py_ssize_t>self.room:
            raise ValueError("not a part of the buffer")
        v.iov_base = self.bytes_at + start
        v.iov_len = end - start
        with nogil:
            sent = sys_write_some(fd, &v, 1, nowait)
        if sent > 0:
            ledger_book(&self.memory.nic.n.book, LR_DEVICE_TX, sent)
        return sent

    def _hand_out(self, Py_ssize_t start, object target) -> int:
        """Copy what lies in the buffer from ``start`` on to memory of the caller's, as much as fits (``rx.copy``)."""
        cdef uint8_t[::1] view = target
        cdef Py_ssize_t n = <Py_ssize_t>self.result.length - start
        self.writable()
        if n > view.shape[0]:
            n = view.shape[0]
        if start < 0 or n <= 0:
            return 0
        memcpy(&view[0], self.bytes_at + start, n)
        ledger_book(&self.memory.nic.n.book, LR_RX_COPY, n)
        return n


def buffers(nic: Nic, ptag: Ptag, size: int, count: int) -> list[Buffer]:
    """``count`` buffers of ``size`` bytes with their descriptors, in registered memory that can be sent from.

    A buffer begins at a cache line; its descriptor lies elsewhere, so that what arrives never meets it.
    """
    cdef Memory m
    cdef Buffer b
    cdef Py_ssize_t k
    if not 0 < size < 1 << 32 or not 0 < count <= 1 << 20:
        raise ValueError("buffers have from 1 byte on, and there is at least one of them")
    stride = (size + 63) & ~63
    first = (count * DESC_ALIGN + 4095) & ~4095
    m = nic.allocate(first + stride * count, ptag)
    made = []
    for k in range(count):
        b = Buffer.__new__(Buffer)
        b.memory = m
        b.at = m.base + k * DESC_ALIGN
        b.begins = first + stride * k
        b.bytes_at = m.base + b.begins
        b.room = size
        b.prepared(size)
        made.append(b)
    return made


# --- completion queues
# ------------------------------------------------------------------------------------------------

@cython.final
cdef class CompletionQueue:
    """Where several queues say that they have something to give back (VipCreateCQ). ``entries``: how many
    notifications fit.

    One that overflows says so (VIP_ERROR_RESOURCE from ``done`` and ``wait``, once) after what it has; the
    descriptors themselves
    are in their queues. A queue that reports here is not waited for directly.
    """

    def __init__(self, nic: Nic, entries: int) -> None:
        cdef int r
        alive(nic)
        if not 0 <= entries < 1 << 32:
            raise ValueError("a number of entries")
        hold(nic)
        r = cq_create(nic.n, entries, &self.cq)
        release(nic)
        check(r, "too many completion queues, or entries")
        self.nic = nic

    def __dealloc__(self):
        if self.cq == NULL:
            return
        if self.nic is None or self.nic.n == NULL:
            cq_free(self.cq)
        else:
            hold(self.nic)
            cq_destroy(self.cq)
            release(self.nic)

    cdef via_cq *queue(self) except NULL:
        alive(self.nic)
        if self.cq == NULL:
            fail(VIP_INVALID_STATE, "the completion queue was destroyed")
        return self.cq

    cdef tuple take(self):
        cdef via_cq *cq = self.queue()
        cdef uint32_t k = 0
        cdef bint is_recv = False
        cdef int r
        hold(self.nic)
        r = cq_take(cq, &k, &is_recv)
        release(self.nic)
        if r == VIP_NOT_DONE:
            return None
        check(r, "the completion queue has overflowed: look at all its queues")
        return self.nic.handles[k], is_recv

    def done(self) -> tuple[Vi, bool] | None:
        """VipCQDone: (VI, whether it is its receive queue), whose ``recv_done`` or ``send_done`` then gives a
        descriptor; or None.
        """
        found = self.take() if cq_has(self.queue()) else None
        if found is None:
            look(self.nic)
            found = self.take()
        return found

    def wait(self, timeout: float | None = None) -> tuple[Vi, bool]:
        """VipCQWait: the same, waited for. ViaTimeout after so many seconds; None: no limit."""
        cdef condition what
        memset(&what, 0, sizeof(what))
        self.waiting += 1
        try:
            while True:
                what.cq = self.queue()
                found = self.done()
                if found is not None:
                    return found
                check(wait(self.nic, &what, timeout))
        finally:
            self.waiting -= 1

    def resize(self, entries: int) -> None:
        """VipResizeCQ: room for another number of notifications; those that wait stay. VIP_ERROR_RESOURCE if they
        are more.
        """
        cdef via_cq *cq = self.queue()
        cdef int r
        hold(self.nic)
        r = cq_resize(cq, entries)
        release(self.nic)
        check(r)

    def destroy(self) -> None:
        """VipDestroyCQ. VIP_ERROR_RESOURCE while queues report to it, or a thread waits."""
        cdef via_cq *cq = self.queue()
        cdef int r
        if self.waiting:
            fail(VIP_ERROR_RESOURCE, "a thread waits for it")
        hold(self.nic)
        r = cq_destroy(cq)
        release(self.nic)
        check(r, "queues report to it")
        self.cq = NULL


# --- VIs
# --------------------------------------------------------------------------------------------------------------

@cython.final
cdef class Vi:
    """An end of a connection: a queue of descriptors to send, one to receive into, and a state (VipCreateVi).

    ``reliability`` is a ``Reliability``; ``max_transfer`` the bytes of its largest message; ``depth`` how many
    descriptors may
    be posted to each queue. Both ends must agree on reliability, max_transfer and qos. Starts IDLE.
    Raises VIP_INVALID_RELIABILITY_LEVEL, VIP_INVALID_MTU, VIP_INVALID_PTAG, VIP_INVALID_PARAMETER,
    VIP_ERROR_RESOURCE.
    """

    def __init__(
        self, nic: Nic, ptag: Ptag, *, reliability: int = RELIABLE_DELIVERY, max_transfer: int = 1 << 20,
        qos: int = 0, depth: int = 256, send_cq: CompletionQueue | None = None,
        recv_cq: CompletionQueue | None = None,
    ) -> None:
        cdef CompletionQueue s = send_cq
        cdef CompletionQueue r = recv_cq
        cdef int code
        alive(nic)
        for n in (reliability, max_transfer, qos, depth):
            if not 0 <= n < 1 << 32:
                raise ValueError("attributes are unsigned numbers of 32 bits")
        if (s is not None and s.nic is not nic) or (r is not None and r.nic is not nic):
            fail(VIP_INVALID_PARAMETER, "the completion queue belongs to another NIC")
        hold(nic)
        code = vi_create(nic.n, ptag.id if ptag.nic is nic else 0, min(reliability, 255), max_transfer, qos, depth,
                         s.cq if s is not None else NULL, r.cq if r is not None else NULL, &self.v)
        release(nic)
        check(code)
        self.nic = nic
        self.ptag = ptag
        self.send_cq, self.recv_cq = s, r
        self.sending = [None] * (self.v.send.mask + 1)
        self.receiving = [None] * (self.v.recv.mask + 1)
        nic.handles[self.v.id & 0xFFFF] = self

    cdef via_vi *mine(self) except NULL:
        alive(self.nic)
        if self.v == NULL:
            fail(VIP_INVALID_STATE, "the VI was destroyed")
        return self.v

    @property
    def id(self) -> int:
        """The number by which asynchronous errors name it."""
        return self.mine().id

    @property
    def state(self) -> int:
        """A ``State``: IDLE 0, CONNECTED 1, CONNECT_PENDING 2, ERROR 3."""
        cdef via_vi *v = self.mine()
        look(self.nic)
        return v.state

    def query(self) -> dict[str, object]:
        """VipQueryVi: state, attributes, and whether the queues are empty."""
        cdef via_vi *v = self.mine()
        return {
            "State": v.state, "ReliabilityLevel": v.reliability, "MaxTransferSize": v.max_transfer, "QoS": v.qos,
            "Ptag": v.ptag, "EnableRdmaWrite": False, "EnableRdmaRead": False,
            "SendQEmpty": v.send.head == v.send.tail, "RecvQEmpty": v.recv.head == v.recv.tail,
        }

    # --- queues

    cdef int post(self, Descriptor d, bint is_recv) except -1:
        cdef via_vi *v = self.mine()
        cdef uint32_t position = 0
        cdef int r
        cdef bint to_be_shown
        cdef uint32_t depth
        cdef list held = self.receiving if is_recv else self.sending
        if d.busy:
            fail(VIP_INVALID_STATE, "the descriptor is posted already")
        if d.memory.handle == 0:
            fail(VIP_INVALID_PARAMETER, "the descriptor's memory was deregistered")
        hold(self.nic)
        if is_recv:
            r = vi_post_recv(v, d.at, d.memory.handle, &position)
        elif (<desc_control *>d.at).length <= LARGE:
            r = vi_post_send(v, d.at, d.memory.handle, &position)
        else:
            with nogil:
                r = vi_post_send(v, d.at, d.memory.handle, &position)
        if r == VIP_SUCCESS:
            d.busy = True
            d.result.status = 0
            held[position & v.send.mask] = d
        to_be_shown = v.port != NULL and v.port.wants_export
        depth = v.send.mask + 1
        release(self.nic)
        if r == VIP_SUCCESS:
            if to_be_shown:
                attend(self.nic)
            return 0
        if r == VIP_INVALID_STATE:
            fail(r, "the VI is not connected")
        if r == VIP_ERROR_RESOURCE:
            fail(r, f"{depth} descriptors are posted: take some back first")
        if r == VIP_ERROR_NOT_SUPPORTED:
            fail(r,
                 "this memory is in no memory file, which the other process could see: Nic.allocate, or a Region")
        return fail(r,
                    "the descriptor must lie at a multiple of 64 bytes, whole in memory of the VI's protection tag")

    def post_send(self, descriptor: Descriptor) -> None:
        """VipPostSend: the message is on its way; the descriptor and its memory belong to the NIC until it is given
        back.

        VIP_INVALID_STATE unless CONNECTED (in ERROR it is given back at once, flushed), VIP_ERROR_RESOURCE (queue
        full),
        VIP_INVALID_PARAMETER (misaligned, not in registered memory), VIP_ERROR_NOT_SUPPORTED (memory that cannot be
        shared).
        What is wrong inside the descriptor is told in its status.
        """
        self.post(descriptor, False)

    def post_recv(self, descriptor: Descriptor) -> None:
        """VipPostRecv: where the next message without a place goes; legal in every state. A ``Buffer`` is posted
        with its whole size.
        """
        if isinstance(descriptor, Buffer) and not descriptor.busy and (<Buffer>descriptor).memory.handle:
            (<Buffer>descriptor).prepared((<Buffer>descriptor).room)
        self.post(descriptor, True)

    cdef Descriptor take(self, bint is_recv):
        """The oldest of a queue if it is done, else None."""
        cdef via_queue *q = &self.v.recv if is_recv else &self.v.send
        cdef list held = self.receiving if is_recv else self.sending
        cdef uint32_t position
        cdef Descriptor d
        cdef via_slot slot
        cdef int r
        hold(self.nic)
        position = q.head & q.mask
        r = queue_take(q, &slot)
        release(self.nic)
        if r == VIP_NOT_DONE:
            return None
        if r != VIP_SUCCESS:
            fail(r, "no descriptor is posted")
        d = <Descriptor>held[position]
        held[position] = None
        d.result = slot
        d.busy = False
        return d

    cdef Descriptor take_or_look(self, bint is_recv):
        cdef via_vi *v = self.mine()
        if not queue_has_done(&v.recv if is_recv else &v.send):
            look(self.nic)
            self.mine()         # another thread may have destroyed it meanwhile
        return self.take(is_recv)

    cdef Descriptor take_or_wait(self, bint is_recv, object timeout):
        cdef condition what
        cdef Descriptor d
        self.mine()
        if (self.recv_cq if is_recv else self.send_cq) is not None:
            fail(VIP_INVALID_STATE, "the queue reports to a completion queue: wait for that")
        memset(&what, 0, sizeof(what))
        self.waiting += 1
        try:
            while True:
                d = self.take_or_look(is_recv)
                if d is not None:
                    return d
                what.queue = &self.v.recv if is_recv else &self.v.send
                check(wait(self.nic, &what, timeout))
        finally:
            self.waiting -= 1

    def send_done(self) -> Descriptor | None:
        """VipSendDone: the oldest descriptor of the send queue if it is done, else None. VIP_DESCRIPTOR_ERROR if
        none is posted.
        """
        return self.take_or_look(False)

    def recv_done(self) -> Descriptor | None:
        """VipRecvDone: the oldest descriptor of the receive queue if it is done, else None. VIP_DESCRIPTOR_ERROR if
        none is posted.
        """
        return self.take_or_look(True)

    def send_wait(self, timeout: float | None = None) -> Descriptor:
        """VipSendWait: the oldest descriptor of the send queue, when it is done. ViaTimeout after so many seconds."""
        return self.take_or_wait(False, timeout)

    def recv_wait(self, timeout: float | None = None) -> Descriptor:
        """VipRecvWait: the oldest descriptor of the receive queue, when it is done. ViaTimeout after so many
        seconds.
        """
        return self.take_or_wait(True, timeout)

    # --- for streams

    def _receives(self) -> list[Descriptor]:
        """The descriptors that are posted to receive, oldest first; RuntimeError where a queue has a completion
        queue."""
        cdef via_vi *v = self.mine()
        cdef uint32_t k
        if self.send_cq is not None or self.recv_cq is not None:
            raise RuntimeError("its queues report to completion queues")
        return [self.receiving[k & v.recv.mask] for k in range(v.recv.head, v.recv.tail)]

    def _depth(self) -> int:
        """Descriptors that fit a queue."""
        return self.mine().send.mask + 1

    def _mark(self) -> int:
        """A number that changes whenever something happens to a queue or a connection of the NIC."""
        self.mine()
        return self.nic.n.completions

    def _changed(self, uint32_t mark, timeout: float, bint sends) -> bool:
        """Wait until ``_mark`` would say something else; ``sends``: be woken also when the peer has taken something."""
        cdef condition what
        cdef int r
        self.mine()
        memset(&what, 0, sizeof(what))
        what.any = self.nic.n
        what.seen = mark
        what.sends = sends
        self.waiting += 1
        try:
            look(self.nic)
            r = wait(self.nic, &what, timeout)
        finally:
            self.waiting -= 1
        return r == VIP_SUCCESS

    # --- connections

    def connect(self, discriminator: bytes, port: Port | None = None, timeout: float | None = None) -> None:
        """VipConnectRequest: connect to who listens under that name (1 to 32 bytes), on the NIC behind ``port`` or
        on this one.

        VIP_NO_MATCH, VIP_REJECT, VIP_NOT_REACHABLE, ViaTimeout (of a time-out of 0: VIP_INVALID_PARAMETER),
        VIP_INVALID_STATE
        unless IDLE.
        """
        cdef via_vi *v = self.mine()
        cdef condition what
        cdef via_port *way = &self.nic.n.loopback
        cdef const uint8_t[::1] name = discriminator
        cdef int r
        if timeout == 0:
            fail(VIP_INVALID_PARAMETER, "a time-out of 0 gives nobody the time to answer")
        if port is not None:
            if port.nic is not self.nic or not port.connected:
                fail(VIP_NOT_REACHABLE, "this way leads nowhere any more")
            way = &port.p.port
        if name.shape[0] == 0:
            fail(VIP_INVALID_PARAMETER, "a discriminator has 1 to 32 bytes")
        hold(self.nic)
        r = connect_start(v, way, &name[0], name.shape[0])
        release(self.nic)
        check(r)
        memset(&what, 0, sizeof(what))
        what.outcome = v
        self.waiting += 1
        try:
            r = wait(self.nic, &what, timeout)
            r = v.outcome if r == VIP_SUCCESS else r
        finally:
            self.waiting -= 1
            if self.nic.n != NULL:
                hold(self.nic)
                connect_abandon(v)
                release(self.nic)
        check(r)

    def disconnect(self) -> None:
        """VipDisconnect: back to IDLE; what is posted is given back, flushed. VIP_INVALID_STATE if IDLE."""
        cdef via_vi *v = self.mine()
        cdef int r
        hold(self.nic)
        r = vi_disconnect(v)
        release(self.nic)
        check(r)

    def destroy(self) -> None:
        """VipDestroyVi: VIP_INVALID_STATE unless IDLE, VIP_ERROR_RESOURCE if descriptors were not taken back or a
        thread waits.
        """
        cdef via_vi *v = self.mine()
        cdef int r
        cdef uint32_t index = v.id & 0xFFFF
        if self.waiting:
            fail(VIP_ERROR_RESOURCE, "a thread waits on this VI")
        hold(self.nic)
        r = vi_destroy(v)
        release(self.nic)
        check(r, "descriptors are posted, or were not taken back" if r == VIP_ERROR_RESOURCE else None)
        self.v = NULL
        self.nic.handles.pop(index, None)

    def _abandon(self) -> None:
        """The NIC closes: whatever is posted is given up."""
        if self.v == NULL:
            return
        hold(self.nic)
        if self.v.state != VI_IDLE:
            vi_disconnect(self.v)
        release(self.nic)
        for d in (*self.sending, *self.receiving):
            if d is not None:
                (<Descriptor>d).busy = False
        self.v = NULL


def pair(a: Vi, b: Vi) -> None:
    """Connect two idle VIs of one NIC to each other. Raises what ``Request.accept`` does."""
    cdef via_vi *x = a.mine()
    cdef via_vi *y = b.mine()
    cdef int r
    if a.nic is not b.nic:
        fail(VIP_INVALID_PARAMETER, "VIs of different NICs")
    hold(a.nic)
    r = connect_pair(x, y)
    release(a.nic)
    check(r)


@cython.final
cdef class Listener:
    """Waits for connections under a name of 1 to 32 bytes, from VIs of this NIC and of attached processes.

    Requests that nobody waits for are refused with VIP_NO_MATCH; at most 64 wait here. A context manager.
    """

    cdef readonly Nic nic
    cdef via_listener *place
    cdef int waiting            # threads

    def __init__(self, nic: Nic, discriminator: bytes) -> None:
        cdef const uint8_t[::1] name = discriminator
        cdef int r
        alive(nic)
        if name.shape[0] == 0:
            fail(VIP_INVALID_PARAMETER, "a discriminator has 1 to 32 bytes")
        hold(nic)
        r = listener_create(nic.n, &name[0], name.shape[0], &self.place)
        release(nic)
        check(r,
              "at most 32 bytes" if r == VIP_INVALID_PARAMETER else "the name is taken, or there are too many")
        self.nic = nic

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def wait(self, timeout: float | None = None) -> Request:
        """VipConnectWait: the next request. ViaTimeout after so many seconds; None: no limit."""
        cdef condition what
        cdef Request q
        cdef bint there
        alive(self.nic)
        if self.place == NULL:
            fail(VIP_INVALID_STATE, "the listener is closed")
        memset(&what, 0, sizeof(what))
        what.listener = self.place
        self.waiting += 1
        try:
            look(self.nic)
            while True:
                q = Request.__new__(Request)
                hold(self.nic)
                there = connect_take(self.place, &q.r)
                release(self.nic)
                if there:
                    q.nic = self.nic
                    return q
                check(wait(self.nic, &what, timeout))
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Wait no longer: requests that have come are refused. May be called twice.

        VIP_ERROR_RESOURCE while a thread waits.
        """
        if self.waiting:
            fail(VIP_ERROR_RESOURCE, "a thread waits for requests")
        if self.place != NULL and self.nic.n != NULL:
            hold(self.nic)
            listener_destroy(self.place)
            release(self.nic)
        self.place = NULL


@cython.final
cdef class Request:
    """Somebody asks for a connection: from ``Listener.wait`` of the NIC ``nic``. ``accept`` or ``reject`` it."""

    cdef readonly Nic nic
    cdef via_request r

    def __init__(self) -> None:
        raise TypeError("requests come from Listener.wait")

    @property
    def attributes(self) -> dict[str, int]:
        """Those of the other end's VI, by VIPL's names."""
        return {"ReliabilityLevel": self.r.reliability, "MaxTransferSize": self.r.max_transfer, "QoS": self.r.qos}

    def accept(self, vi: Vi) -> None:
        """VipConnectAccept: ``vi``, which is IDLE, becomes the other end.

        If it does not fit (VIP_INVALID_RELIABILITY_LEVEL, VIP_INVALID_MTU, VIP_INVALID_QOS, VIP_INVALID_STATE) the
        other end hears
        nothing of it: try another one, or reject. VIP_NOT_REACHABLE if the other process is gone.
        """
        cdef via_vi *v = vi.mine()
        cdef int r
        if vi.nic is not self.nic:
            fail(VIP_INVALID_PARAMETER, "the VI belongs to another NIC")
        hold(self.nic)
        r = connect_accept(v, &self.r)
        release(self.nic)
        check(r)

    def reject(self) -> None:
        """VipConnectReject: the other end is told VIP_REJECT."""
        alive(self.nic)
        hold(self.nic)
        connect_reject(self.nic.n, &self.r)
        release(self.nic)
