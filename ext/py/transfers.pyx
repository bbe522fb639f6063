"""Bytes from one place to another without the program in between: files, stack sockets, pipes, sockets of the kernel.

``Transfer`` moves in the calling thread, piece by piece: a piece is taken from the source into message blocks, without
any lock; the same blocks are then queued at the sink, or written to it. ``Relay`` is for two sockets of one stack: the
engine does it by itself. What users see is made of the two in ustack.socket (sendfile, write) and ustack.splice.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBADF, EBUSY, EINTR, EINVAL, EIO, ENOBUFS, ENOMEM, ENOTCONN
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

import threading

from ustack._core.base.codes cimport CAP_GATHER, CAP_TX_CSUM, CAP_ZEROCOPY_TX, EV_OUT
from ustack._core.base.counters cimport (
    C_FILE_GATHERED, C_FILE_NO_CHECKSUM, C_FILE_NO_GATHER, C_FILE_NOT_MAPPED, C_FILE_SHARED, C_FILE_SHRUNK, counters)
from ustack._core.base.counters cimport count as bump
from ustack._core.base.ledger cimport LR_DEVICE_TX, LR_RX_COPY, LR_TX_COPY, ledger, ledger_book
from ustack._core.base.types cimport NS_MS, NS_NEVER, atomic_load32, atomic_store32, ns_t
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport (
    DB_EXTERNAL, DB_LENT, freemsg, mblk, mblk_len, msg_intact, msgbytes, msgconsume, msgcopyin_csum, msgcopyout)
from ustack._core.py.buffers cimport Arena, chosen, drain, lend_buffer
from ustack._core.py.calls cimport NO_WAIT, call_recv
from ustack._core.py.driver cimport (
    clock_now, driver, driver_attend, driver_flush_unlock, driver_lock, driver_unlock, driver_wait, driver_wait_until,
    sock_note)
from ustack._core.py.errors cimport check, fail
from ustack._core.py.pagepipe cimport PagePipe
from ustack._core.py.socket cimport Socket
from ustack._core.stack.engine cimport engine_poll
from ustack._core.stack.sockets cimport SOCK_TCP, sock, waiter
from ustack._core.sys.eventfd cimport sys_eventfd
from ustack._core.sys.file cimport (
    FILE_OTHER, FILE_PIPE, FILE_REGULAR, FILE_SOCKET, file_facts, sys_file_facts, sys_file_flags, sys_file_position,
    sys_file_length, sys_read_ahead, sys_write_some)
from ustack._core.sys.guard cimport guard_counts, guard_install
from ustack._core.sys.io cimport iovec, sys_close
from ustack._core.sys.poll cimport POLLIN, POLLOUT, pollfd, sys_ppoll
from ustack._core.tcp.block cimport TF_MORE, mark
from ustack._core.tcp.tcp cimport (
    TCP_SEND_MORE, tcb, tcp_send, tcp_send_hint, tcp_send_memory, tcp_send_room, tcp_send_wait, tcp_state)
from ustack._core.zerocopy.origin cimport (
    FROM_AUTO, FROM_COPY, FROM_GATHER, FROM_MEMORY, FROM_MMAP, FROM_READ, ORIGIN_CHUNK, ORIGIN_GATHERED, SUM_AUTO,
    SUM_FUSED, SUM_NAIVE, SUM_OUTBOARD, origin, origin_at_end, origin_take)
from ustack._core.zerocopy.pagepipe cimport (
    PAGEPIPE_READ, PAGEPIPE_WRITE, pagepipe, pagepipe_begin, pagepipe_end, pagepipe_look, pagepipe_put, pagepipe_room,
    pagepipe_wait)
from ustack._core.zerocopy.relay cimport relay, relay_dissolve, relay_start, relay_turn
from ustack._core.zerocopy.window cimport windows_count, windows_drop

cdef extern from "<errno.h>" nogil:
    enum:
        ECANCELED, ESPIPE

TECHNIQUES = {"auto": FROM_AUTO, "read": FROM_READ, "mmap": FROM_MMAP, "copy": FROM_COPY, "gather": FROM_GATHER}
CHECKSUMS = {"auto": SUM_AUTO, "fused": SUM_FUSED, "naive": SUM_NAIVE, "outboard": SUM_OUTBOARD}

cdef enum:
    O_ACCMODE = 3
    O_WRONLY = 1
    O_RDONLY = 0
    IOVECS = 64
    AHEAD = 67108864            # most bytes of a file that are asked for ahead

cdef ns_t SLICE = 50 * NS_MS    # a wait that can be cancelled looks that often whether it was

cdef unsigned long _main_thread = threading.main_thread().ident

cdef struct xfer:
    driver *sd                  # the source, if it is a socket of a stack
    sock *ss
    driver *dd                  # the sink, if it is one
    sock *ds
    pagepipe *from_pipe         # the source, if it is a pipe of references
    pagepipe *to_pipe           # the sink, if it is one
    origin o                    # the source, if it is neither
    int out                     # the sink, if it is a descriptor
    int out_kind
    arena *mem                  # where blocks come from
    ledger *book
    int64_t left                # bytes still wanted; < 0: to the end
    int64_t done                # bytes that the sink has
    mblk *kept                  # taken from the source, not yet given to the sink
    bint ended
    bint peek                   # tee: what is taken stays
    bint borrow                 # what is taken from the socket stays there until the sink has it
    size_t piece                # most to be taken at once
    int64_t ahead               # bytes of a file to be asked for before they are taken
    int64_t asked               # up to there they were
    mblk *loan                  # the memory as one block, to be queued where the path takes it in place
    bint more                   # something follows behind the last byte
    bint held                   # the last piece was queued as one that is followed by others
    ns_t deadline
    bint brief                  # wait for the first bytes only
    bint nowait                 # do not wait for a pipe of references
    bint refused                # it would have been waited for
    bint main_thread
    int32_t cancelled


# --- waiting --------------------------------------------------------------------------------------------------------

cdef inline ns_t soon(const xfer *x) noexcept nogil:
    """The end of one wait: long waits are cut so that cancelling works."""
    cdef ns_t until
    if x.deadline == NO_WAIT:
        return NO_WAIT
    until = clock_now() + SLICE
    return until if until < x.deadline else x.deadline


cdef int again(const xfer *x, int r) noexcept nogil:
    """What the result of a wait means: 0: wait again."""
    if atomic_load32(&x.cancelled):
        return -ECANCELED
    if r == -EAGAIN and x.deadline != NO_WAIT and clock_now() < x.deadline:
        return 0
    return r


cdef int wait_fd(xfer *x, int fd, short events) noexcept nogil:
    """Until a descriptor is ready. 0 or -errno."""
    cdef pollfd p
    cdef ns_t until
    cdef int r
    while True:
        p.fd = fd
        p.events = events
        p.revents = 0
        until = soon(x)
        r = sys_ppoll(&p, 1, 0 if until == NO_WAIT else until - clock_now())
        if r > 0:
            return 0
        r = again(x, r if r < 0 else -EAGAIN)
        if r != 0:
            return r


cdef int wait_pipe(xfer *x, pagepipe *p, int what) noexcept nogil:
    """Until there may be something to do at a pipe of references. 0: look again."""
    cdef ns_t until = soon(x)
    cdef int r
    if x.nowait and x.kept == NULL:
        x.refused = True
        return -EAGAIN
    if until == NO_WAIT:
        return -EAGAIN
    r = pagepipe_wait(p, what, 1, until - clock_now())
    return again(x, r) if r else 0


cdef int pause(xfer *x, driver *d, sock *s, bint *tried) noexcept nogil:
    """Under the lock: until a socket may have room. 0: look again."""
    cdef int r
    if x.deadline == NO_WAIT:
        if tried[0]:
            return -EAGAIN
        tried[0] = True
        engine_poll(&d.eng, d.eng.ctx.now, 64)
        return 0
    r = driver_wait(d, s, EV_OUT, soon(x), x.main_thread)
    return again(x, r) if r else 0


# --- the sink -------------------------------------------------------------------------------------------------------

cdef int why_not_gather(const tcb *c) noexcept nogil:
    """The counter of the reason for which file pages cannot be sent in place; -1: they can."""
    if c.way.ifp == NULL or c.way.ifp.layer == 0 or c.way.ifp.caps & CAP_ZEROCOPY_TX:
        return C_FILE_SHARED
    if not c.way.ifp.caps & CAP_GATHER:
        return C_FILE_NO_GATHER
    if not c.way.ifp.caps & CAP_TX_CSUM:
        return C_FILE_NO_CHECKSUM
    return -1


cdef bint may_gather(xfer *x) noexcept nogil:
    cdef int why
    if x.from_pipe != NULL:
        return why_not_gather(x.ds.tcp) < 0
    if x.loan == NULL and (x.ss != NULL or x.o.how not in (FROM_AUTO, FROM_GATHER) or not x.o.positional):
        return False
    why = why_not_gather(x.ds.tcp)
    if why >= 0 and x.loan == NULL:
        bump(&x.dd.eng.ctx.n, why)
    return why < 0


cdef int room_at(xfer *x, sock *s, size_t *n, bint *gather, uint32_t *stride, uint32_t *phase) noexcept nogil:
    """Wait until the sink takes something: how much at once, and in what form. 0 or -errno."""
    cdef driver *d = x.dd
    cdef bint tried = False
    cdef int64_t room
    cdef int r = 0
    driver_lock(d)
    while True:
        room = -EBADF if s.closed else tcp_send_room(s.tcp)
        if room < 0:
            r = <int>room
            break
        if room > 0:
            gather[0] = may_gather(x)
            s.chunk = tcp_send_hint(s.tcp, &s.csum_stride, &s.csum_phase)
            stride[0] = s.csum_stride
            phase[0] = s.csum_phase
            if not stride[0] and x.o.how == FROM_MEMORY and x.o.sums in (SUM_FUSED, SUM_NAIVE):
                stride[0] = s.tcp.snd_mss
            n[0] = ORIGIN_GATHERED if gather[0] else s.chunk if 0 < s.chunk < ORIGIN_CHUNK else ORIGIN_CHUNK
            if x.left >= 0 and <int64_t>n[0] > x.left:
                n[0] = <size_t>x.left
            if not gather[0] and x.ss == NULL:
                n[0] = tcp_send_memory(s.tcp, n[0])
            if n[0]:
                break
        r = pause(x, d, s, &tried)
        if r != 0:
            break
    driver_flush_unlock(d)
    return r


cdef int queue(xfer *x) noexcept nogil:
    """What was kept goes to the sink's send queue."""
    cdef driver *d = x.dd
    cdef sock *s = x.ds
    cdef mblk *m = x.kept
    cdef size_t n = msgbytes(m)
    cdef bint last = x.left == 0 or x.ended or (x.ss == NULL and origin_at_end(&x.o))
    cdef int64_t sent = -EBADF
    cdef bint more = x.more if last or x.from_pipe != NULL else x.ss == NULL and x.o.positional
    x.kept = NULL
    driver_lock(d)
    if s.closed:
        freemsg(m)
    else:
        sent = tcp_send(s.tcp, m, TCP_SEND_MORE if more else 0)
        x.held = more and not x.more
        s.chunk = tcp_send_hint(s.tcp, &s.csum_stride, &s.csum_phase)
        if s.note_fd >= 0:
            sock_note(s)
        driver_attend(d, n)
    driver_flush_unlock(d)
    if sent < 0:
        return <int>sent
    x.done += sent
    return 0


cdef void let_go(xfer *x) noexcept nogil:
    """The source ended before it was thought to: what was held back for more of it is to leave."""
    if x.ds == NULL or not x.held:
        return
    x.held = False
    driver_lock(x.dd)
    if not x.ds.closed:
        x.ds.tcp.flags &= ~<uint32_t>TF_MORE
        mark(x.ds.tcp)
    driver_flush_unlock(x.dd)


cdef int consume(xfer *x, size_t n) noexcept nogil:
    """Take n bytes, which the sink has got, from the source's queue."""
    cdef mblk *m
    cdef int r
    while n:
        m = NULL
        r = call_recv(x.sd, x.ss, n, False, NO_WAIT, False, &m)
        if r != 0 or m == NULL:
            return r                    # somebody else reads there
        n -= msgbytes(m)
        freemsg(m)
    return 0


cdef int write_out(xfer *x) noexcept nogil:
    """What was kept is written to a descriptor, from where it lies; a part of it may stay."""
    cdef iovec v[IOVECS]
    cdef mblk *m = x.kept
    cdef int n = 0
    cdef int r
    cdef ssize_t sent
    while m != NULL and n < IOVECS:
        v[n].iov_base = m.rptr
        v[n].iov_len = mblk_len(m)
        n += 1
        m = m.cont
    if x.out_kind != FILE_REGULAR:
        r = wait_fd(x, x.out, POLLOUT)
        if r != 0:
            return r
    if x.from_pipe != NULL and not msg_intact(x.kept):
        return -EIO             # a file was cut whose pages are in the pipe
    sent = sys_write_some(x.out, v, n, x.out_kind in (FILE_PIPE, FILE_SOCKET))
    if sent == -EAGAIN and x.deadline != NO_WAIT:
        return 0
    if sent < 0:
        return <int>sent
    ledger_book(x.book, LR_DEVICE_TX, sent)
    x.done += sent
    x.kept = msgconsume(x.kept, sent)
    if x.kept != NULL and msgbytes(x.kept) == 0:
        freemsg(x.kept)
        x.kept = NULL
    return consume(x, sent) if x.borrow else 0


# --- pipes of references --------------------------------------------------------------------------------------------

cdef int room_in_pipe(xfer *x, size_t *n) noexcept nogil:
    """Wait until the sink takes something; *n becomes no more than that. 0 or -errno."""
    cdef int64_t room
    cdef int r
    while True:
        room = pagepipe_room(x.to_pipe, 1)
        if room > 0:
            if <int64_t>n[0] > room:
                n[0] = <size_t>room
            return 0
        r = <int>room if room < 0 else wait_pipe(x, x.to_pipe, PAGEPIPE_WRITE)
        if r != 0:
            return r


cdef int push(xfer *x) noexcept nogil:
    """What was kept goes into a pipe of references; a part of it may stay."""
    cdef int64_t sent = pagepipe_put(x.to_pipe, &x.kept, False)
    if sent < 0:
        return <int>sent
    x.done += sent
    if x.peek or x.from_pipe != NULL:
        return 0
    if x.borrow:
        forget(x)
        return consume(x, sent)
    if sent == 0:               # another was there first
        return wait_pipe(x, x.to_pipe, PAGEPIPE_WRITE)
    return 0


cdef void forget(xfer *x) noexcept nogil:
    """What was kept, and the source has as well, is not to be delivered now."""
    if x.kept == NULL:
        return
    if x.left >= 0:
        x.left += msgbytes(x.kept)
    freemsg(x.kept)
    x.kept = NULL


cdef int draw(xfer *x, size_t n) noexcept nogil:
    """Windows on the first bytes of a pipe of references, whose reader we are until ``put_back``."""
    cdef int64_t there
    cdef int r
    while True:
        there = pagepipe_begin(x.from_pipe)
        if there != -EAGAIN:
            break
        r = wait_pipe(x, x.from_pipe, PAGEPIPE_READ)
        if r != 0:
            return r
    if there <= 0:
        x.ended = there == 0
        return <int>there
    x.kept = pagepipe_look(x.from_pipe, n)
    if x.kept == NULL or x.peek:
        pagepipe_end(x.from_pipe, 0)
    return 0 if x.kept != NULL else -ENOBUFS


cdef void put_back(xfer *x, size_t used) noexcept nogil:
    """Of what was drawn, so much is gone; the rest is where it was."""
    if not x.peek:
        pagepipe_end(x.from_pipe, used)
    forget(x)


cdef int copy_external(xfer *x, uint32_t stride, uint32_t phase) noexcept nogil:
    """For a path that cannot send the program's memory, or a file's, in place: copies of what is not a stack's."""
    cdef mblk **at = &x.kept
    cdef mblk *m
    cdef mblk *twin
    cdef bint intact
    cdef size_t n
    while at[0] != NULL:
        m = at[0]
        n = mblk_len(m)
        if m.dp.flags & DB_EXTERNAL and not m.dp.flags & DB_LENT:
            twin = msgcopyin_csum(x.mem, x.book, LR_TX_COPY, m.rptr, n, stride, phase)
            if twin == NULL:
                return -ENOMEM
            at[0] = twin
            while twin.cont != NULL:
                twin = twin.cont
            twin.cont = m.cont
            m.cont = NULL
            intact = msg_intact(m)
            freemsg(m)
            if not intact:
                return -EIO     # a file was cut whose pages are in the pipe
            m = twin
        if stride:
            phase = <uint32_t>((phase + n) % stride)
        at = &m.cont
    return 0


cdef int draw_for_socket(xfer *x, size_t n, bint gather, uint32_t stride, uint32_t phase) noexcept nogil:
    """The same in the form in which the sink's path takes it."""
    cdef int r = draw(x, n)
    if r != 0 or x.kept == NULL:
        return r
    n = msgbytes(x.kept)
    if not gather:
        r = copy_external(x, stride, phase)
    if r == 0 and not msg_intact(x.kept):
        r = -EIO                # a file was cut whose pages are in the pipe
    if r == 0:
        x.kept.pkt_len = <uint32_t>n
        return 0
    freemsg(x.kept)
    x.kept = NULL
    put_back(x, 0)
    return no_memory(x) if r == -ENOMEM else r


# --- the source -----------------------------------------------------------------------------------------------------

cdef int receive(xfer *x, size_t n) noexcept nogil:
    cdef int r
    while True:
        r = call_recv(x.sd, x.ss, n, x.peek or x.borrow, soon(x), x.main_thread, &x.kept)
        if r == 0:
            x.ended = x.kept == NULL
            return 0
        r = again(x, r)
        if r != 0:
            return r


cdef int no_memory(xfer *x) noexcept nogil:
    """Nothing was to be had of what had been promised: wait for it, or give up."""
    cdef bint tried = True
    cdef int r
    if x.dd == NULL or x.mem.budget == 0:
        return -ENOBUFS
    driver_lock(x.dd)
    if x.ds.closed:
        r = -EBADF
    else:
        tcp_send_wait(x.ds.tcp)
        r = pause(x, x.dd, x.ds, &tried)
    driver_flush_unlock(x.dd)
    return r


cdef void ask_ahead(xfer *x) noexcept nogil:
    """Have the next bytes of a file read while these are sent: half of it at a time."""
    cdef int64_t until = x.o.at + x.ahead
    cdef int64_t start = x.asked if x.asked > x.o.at else x.o.at
    if x.left >= 0 and until > x.o.at + x.left:
        until = x.o.at + x.left
    if until > x.o.facts.size:
        until = x.o.facts.size
    if until - start >= x.ahead / 2 and until > start:
        sys_read_ahead(x.o.fd, start, until - start)
        x.asked = until


cdef int fetch(xfer *x, size_t n, bint gather, uint32_t stride, uint32_t phase) noexcept nogil:
    cdef counters *c = &x.dd.eng.ctx.n if x.dd != NULL else NULL
    cdef bint unmapped = False
    cdef bint shrunk = x.o.shrunk
    cdef int r = 0
    if not x.o.positional and x.o.how != FROM_MEMORY:
        r = wait_fd(x, x.o.fd, POLLIN)
        if r != 0:
            return r
    if x.ahead and x.o.positional:
        ask_ahead(x)
    if gather and x.loan != NULL:
        x.kept = x.loan
        x.loan = NULL
        return 0
    x.kept = origin_take(&x.o, x.mem, x.book, n, gather, stride, phase, &unmapped, &r)
    if c != NULL:
        if unmapped:
            bump(c, C_FILE_NOT_MAPPED)
        elif gather and x.kept != NULL:
            bump(c, C_FILE_GATHERED)
        if x.o.shrunk and not shrunk:
            bump(c, C_FILE_SHRUNK)
    if r == -ENOMEM:
        return no_memory(x)
    if r == 0 and x.kept == NULL:
        x.ended = True
    return r


cdef int bring(xfer *x) noexcept nogil:
    """One piece from the source, no more than the sink takes. 0 or -errno."""
    cdef size_t n = x.piece
    cdef bint gather = False
    cdef uint32_t stride = 0, phase = 0
    cdef int r
    if x.left >= 0 and <int64_t>n > x.left:
        n = <size_t>x.left
    if x.ds != NULL:
        r = room_at(x, x.ds, &n, &gather, &stride, &phase)
        if r != 0:
            return r
        if n > x.piece and not gather:
            n = x.piece
    elif x.to_pipe != NULL:
        gather = True
        r = room_in_pipe(x, &n)
        if r != 0:
            return r
    if x.from_pipe != NULL:
        r = draw_for_socket(x, n, gather, stride, phase) if x.ds != NULL else draw(x, n)
    else:
        r = receive(x, n) if x.ss != NULL else fetch(x, n, gather, stride, phase)
    if x.kept != NULL and x.left > 0:
        x.left -= msgbytes(x.kept)
    return r


cdef int deliver(xfer *x) noexcept nogil:
    """What was kept goes to the sink, as much as it takes. 0 or -errno."""
    cdef int64_t before = x.done
    cdef int r
    if x.ds != NULL:
        r = queue(x)
    elif x.to_pipe != NULL:
        r = push(x)
    else:
        r = write_out(x)
    if x.from_pipe != NULL:
        put_back(x, <size_t>(x.done - before))
    return r


cdef int xfer_run(xfer *x) noexcept nogil:
    """Until the source has ended or all is moved: 0; -errno, with -EINTR to be called again. What was taken is
    delivered before it is looked whether to go on."""
    cdef int r
    while True:
        if x.kept == NULL:
            if x.left == 0 or x.ended:
                return 0
            if atomic_load32(&x.cancelled):
                return -ECANCELED
            r = bring(x)
            if r != 0:
                return r
            if x.kept == NULL:
                continue
        r = deliver(x)
        if r != 0:
            return r
        if x.peek and (x.kept == NULL or x.to_pipe != NULL):
            return 0
        if x.brief and x.done and x.kept == NULL:
            x.deadline = NO_WAIT


# --- handles --------------------------------------------------------------------------------------------------------

cdef object technique_of(table, name, what):
    try:
        return table[name]
    except (KeyError, TypeError):
        raise ValueError(f"{what} is one of {', '.join(map(repr, table))}, not {name!r}") from None


@cython.final
cdef class Transfer:
    """Bytes on their way from ``source`` to ``sink``: stream sockets of stacks, pipes of references, or descriptors.

    count: bytes, or -1 for all until the source ends. offset: of a file; None: its own position, which is moved by the
    caller. data: a buffer as the source instead. how: the technique for files; checksum: that for memory. more:
    something follows behind it. timeout_ns: < 0 waits for ever, 0 never. guarded: the data may be a mapping of a file
    that was cut: EFAULT instead of SIGBUS. piece: most to be taken from the source at once. given_back: of
    data, which the sink then sends in place if its path can; called once, when nobody needs the data any more. ``run``
    then queues all of it or nothing, or copies it. ahead: bytes of a file to be asked for before they are taken.
    no_disk: EBUSY instead of waiting for a file's disk. brief: ``run`` waits for the first bytes only; nowait: a pipe
    of references is not waited for.
    """

    cdef xfer x
    cdef object source, sink
    cdef Py_buffer view
    cdef bint viewing
    cdef Arena pool

    def __cinit__(self, source, sink, long long count=-1, *, offset=None, data=None, how="auto", checksum="auto",
                  bint more=False, bint peek=False, long long timeout_ns=-1, bint guarded=False,
                  Py_ssize_t piece=ORIGIN_CHUNK, given_back=None, long long ahead=0,
                  bint no_disk=False, bint brief=False, bint nowait=False):
        memset(&self.x, 0, sizeof(xfer))
        self.x.o.fd = -1
        self.x.out = -1
        self.viewing = False
        self.x.left = count
        self.x.more = more
        self.x.peek = peek
        self.x.brief = brief
        self.x.nowait = nowait
        self.x.o.no_disk = no_disk
        self.x.ahead = min(ahead, <long long>AHEAD)
        self.x.piece = max(1, min(piece, <Py_ssize_t>ORIGIN_CHUNK))
        self.x.deadline = NS_NEVER if timeout_ns < 0 else NO_WAIT if timeout_ns == 0 else clock_now() + timeout_ns
        self.x.o.how = technique_of(TECHNIQUES, how, "how")
        self.x.o.sums = technique_of(CHECKSUMS, checksum, "checksum")
        self.source, self.sink = source, sink
        self._set_sink(sink)
        if data is not None:
            self.x.o.guarded = guarded
            check(guard_install() if guarded else 0)
            self._set_memory(data)
            if given_back is not None:
                self.x.loan = lend_buffer(self.x.mem, data, given_back)
                self.x.loan.wptr += self.view.len
                self.x.loan.pkt_len = <uint32_t>self.view.len
        elif isinstance(source, Socket):
            self._set_source(source)
        elif isinstance(source, PagePipe):
            self._set_source_pipe(source)
        else:
            self._set_file(source, offset)

    def __dealloc__(self):
        freemsg(self.x.kept)
        freemsg(self.x.loan)
        free(self.x.o.scratch)
        if self.viewing:
            PyBuffer_Release(&self.view)

    def _set_sink(self, sink):
        cdef Socket s
        cdef file_facts facts
        if isinstance(sink, Socket):
            s = sink
            _need_stream(s)
            self.x.dd = s.d
            self.x.ds = s.s
            self.x.mem = s.d.eng.ctx.mem
            self.x.book = &s.d.eng.ctx.book
            return
        if isinstance(sink, PagePipe):
            self.x.to_pipe = &(<PagePipe>sink).p
            self.pool = (<PagePipe>sink).arena
            self.x.mem = self.pool.a
            self.x.book = &self.pool.book
            return
        self.x.out = sink
        check(sys_file_facts(self.x.out, &facts))
        self.x.out_kind = facts.kind
        if check(sys_file_flags(self.x.out)) & O_ACCMODE == O_RDONLY:
            fail(-EBADF, "the sink is not open for writing")
        self.pool = chosen(None)
        self.x.mem = self.pool.a
        self.x.book = &self.pool.book

    def _set_source(self, Socket s):
        _need_stream(s)
        self.x.sd = s.d
        self.x.ss = s.s
        if self.x.ds == NULL:
            self.x.borrow = not self.x.peek
            self.x.mem = s.d.eng.ctx.mem
            self.x.book = &s.d.eng.ctx.book

    def _set_source_pipe(self, PagePipe pipe):
        self.x.from_pipe = &pipe.p
        if self.x.from_pipe == self.x.to_pipe:
            fail(-EINVAL, "a pipe with itself")
        if self.x.ds == NULL:
            self.pool = pipe.arena
            self.x.mem = self.pool.a
            self.x.book = &self.pool.book

    def _set_memory(self, data):
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        self.viewing = True
        self.x.o.how = FROM_MEMORY
        self.x.o.bytes = <const uint8_t *>self.view.buf
        self.x.left = self.view.len

    def _set_file(self, int fd, offset):
        self.x.o.fd = fd
        check(sys_file_facts(fd, &self.x.o.facts))
        if check(sys_file_flags(fd)) & O_ACCMODE == O_WRONLY:
            fail(-EBADF, "the source is not open for reading")
        self.x.o.at = sys_file_position(fd)
        self.x.o.positional = self.x.o.at >= 0 and self.x.o.facts.kind != FILE_OTHER
        if offset is None:
            return
        if not self.x.o.positional and self.x.o.at == offset:
            return                      # a device that stands there, a folder: to read it tells
        if not self.x.o.positional:
            fail(-ESPIPE, "the source has no offsets")
        if offset < 0:
            fail(-EINVAL, "a negative offset")
        self.x.o.at = offset

    def run(self) -> int:
        """Move, and return how many bytes the sink has got. Signals are seen to; OSError as the sink's or source's."""
        cdef int r
        self.x.main_thread = threading.get_ident() == _main_thread
        entered = []
        try:
            for end in (self.source, self.sink):
                if isinstance(end, Socket):
                    (<Socket>end).enter()
                    entered.append(end)
                elif isinstance(end, PagePipe):
                    (<PagePipe>end).tell()
            while True:
                with nogil:
                    r = xfer_run(&self.x)
                    if r != -EINTR:
                        let_go(&self.x)
                if r != -EINTR:
                    break
                PyErr_CheckSignals()
        finally:
            for end in entered:
                (<Socket>end).leave()
            freemsg(self.x.loan)
            self.x.loan = NULL
            drain()
        if r == -EAGAIN and not (self.x.brief and self.x.done):
            if self.x.deadline == NO_WAIT or self.x.refused:
                raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")
            raise TimeoutError("timed out")
        if r not in (0, -EAGAIN, -ECANCELED):
            fail(r)
        return self.x.done

    def cancel(self):
        """Have ``run``, in whatever thread, return soon. What was taken from the source and cannot be delivered at once
        stays there; of a pipe or a socket of the kernel it is in ``unsent`` then."""
        atomic_store32(&self.x.cancelled, 1)

    @property
    def moved(self) -> int:
        """Bytes that the sink has got."""
        return self.x.done

    @property
    def position(self) -> int:
        """Of a file: the offset behind the last byte that the sink has got; -1 for what has none."""
        if not self.x.o.positional:
            return -1
        return self.x.o.at - (<int64_t>msgbytes(self.x.kept) if self.x.kept != NULL else 0)

    @property
    def unsent(self) -> bytes:
        """Bytes that were taken from a source that cannot have them back, and that the sink has not got."""
        cdef size_t n
        if self.x.kept == NULL or self.x.ss != NULL or self.x.o.positional or self.x.o.how == FROM_MEMORY:
            return b""
        n = msgbytes(self.x.kept)
        rest = PyBytes_FromStringAndSize(NULL, n)
        msgcopyout(self.x.book, LR_RX_COPY, self.x.kept, 0, PyBytes_AS_STRING(rest), n)
        return rest

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.x.cancelled != 0


def take_into(Socket source not None, target not None, long long timeout_ns=-1, bint peek=False) -> int:
    """Receive into memory, at most as much as it holds: how much (booked as rx.copy), 0 at the end of the stream.

    peek: and leave it there. TimeoutError after so many nanoseconds, whatever the socket's own timeout; 0:
    BlockingIOError.
    """
    cdef ns_t deadline = NS_NEVER if timeout_ns < 0 else NO_WAIT if timeout_ns == 0 else clock_now() + timeout_ns
    cdef bint main_thread = threading.get_ident() == _main_thread
    cdef uint8_t[::1] view = target
    cdef size_t n = view.shape[0]
    cdef mblk *m = NULL
    cdef int r = -EINTR
    _need_stream(source)
    source.enter()
    try:
        while r == -EINTR:
            with nogil:
                r = call_recv(source.d, source.s, n, peek, deadline, main_thread, &m)
            if r == -EINTR:
                PyErr_CheckSignals()
    finally:
        source.leave()
        drain()
    if r == -EAGAIN and deadline != NO_WAIT:
        raise TimeoutError("timed out")
    check(r)
    if m == NULL:
        return 0
    n = msgbytes(m)
    msgcopyout(&source.d.eng.ctx.book, LR_RX_COPY, m, 0, &view[0], n)
    freemsg(m)
    return n


cdef int _need_stream(Socket s) except -1:
    if s.closed:
        raise OSError(EBADF, "Bad file descriptor")
    if s.s.kind != SOCK_TCP:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    return 0


cdef struct relay_watch:
    relay *r
    driver *d
    waiter *mine                # the role of the poller while it is ours


cdef bint over_or_displaced(void *arg) noexcept nogil:
    cdef relay_watch *w = <relay_watch *>arg
    if atomic_load32(&w.r.done):
        return True
    if w.mine == NULL:
        w.mine = w.d.poller
    return w.d.poller != w.mine


cdef void wait_relay(relay_watch *w, ns_t deadline, bint main_thread) noexcept nogil:
    """A while at most: as the poller; then, if somebody else took that over, for the event alone."""
    cdef ns_t until = clock_now() + SLICE
    cdef pollfd p
    if until > deadline:
        until = deadline
    w.mine = NULL
    driver_lock(w.d)
    driver_wait_until(w.d, over_or_displaced, w, until, main_thread)
    driver_unlock(w.d)
    if atomic_load32(&w.r.done) or w.d.manual:
        return
    p.fd = w.r.event
    p.events = POLLIN
    p.revents = 0
    deadline = until - clock_now()
    if deadline > 0:
        sys_ppoll(&p, 1, deadline)


@cython.final
cdef class Relay:
    """A splice between two connections of one stack, which runs in the engine (see ext/zerocopy/relay.pxd).

    count: bytes, or -1 for all until the source ends. idle_ns: it ends with ETIMEDOUT after so long without any byte;
    0: never. pass_end: the source's end becomes the sink's. callback: called once when it is over, as the free
    functions of ``ustack.buffers`` are.
    """

    cdef relay r
    cdef Socket source, sink
    cdef bint started

    def __cinit__(self, Socket source not None, Socket sink not None, long long count=-1, *, long long idle_ns=0,
                  bint pass_end=False, callback=None):
        cdef int err = 0
        memset(&self.r, 0, sizeof(relay))
        self.r.event = -1
        _need_stream(source)
        _need_stream(sink)
        if source.stack is not sink.stack:
            raise ValueError("the engine splices sockets of one stack")
        self.source, self.sink = source, sink
        self.r.left = count
        self.r.idle = idle_ns
        self.r.pass_end = pass_end
        source.enter()
        try:
            self.r.event = check(sys_eventfd())
            if callback is not None:
                self.r.farewell = lend_buffer(source.d.eng.ctx.mem, b"", callback)
            with nogil:
                driver_lock(source.d)
                err = open_relay(&self.r, source.d, source.s, sink.s)
                driver_flush_unlock(source.d)
            self.started = err == 0
        finally:
            source.leave()
        if err:
            freemsg(self.r.farewell)
            self.r.farewell = NULL
            check(err, "cannot splice")

    def __dealloc__(self):
        if self.started:
            close_relay(&self.r, self.source.d, self.source.stack.closed or self.source.d.forked)
        if self.r.event >= 0:
            sys_close(self.r.event)

    def cancel(self):
        """End it now; what the source has received from here on is for recv() again."""
        if not self.r.done and not self.source.stack.closed:
            self.source.stack.enter()
            with nogil:
                driver_lock(self.source.d)
                relay_dissolve(&self.r, 0)
                driver_flush_unlock(self.source.d)
            self.source.stack.leave()

    def wait(self, long long timeout_ns=-1) -> bool:
        """Until it is over, or for so long. Whether it is over.

        It polls, as all who wait; once another thread does that, the event that ends it is enough.
        """
        cdef driver *d = self.source.d
        cdef ns_t deadline = NS_NEVER if timeout_ns < 0 else clock_now() + timeout_ns
        cdef bint main_thread = threading.get_ident() == _main_thread
        cdef relay_watch w
        w.r = &self.r
        w.d = d
        while not self.r.done:
            if self.source.stack.closed:
                fail(-EBADF)
            self.source.stack.enter()
            with nogil:
                wait_relay(&w, deadline, main_thread)
            self.source.stack.leave()
            PyErr_CheckSignals()
            if d.manual or clock_now() >= deadline:
                break
        drain()
        return self.r.done != 0

    def fileno(self) -> int:
        """A descriptor that is readable when it is over."""
        return self.r.event

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return atomic_load32(&self.r.done) != 0

    @property
    def moved(self) -> int:
        """Bytes that the sink has taken."""
        return self.r.moved

    @property
    def error(self) -> int:
        """The errno it ended with; 0: none."""
        return self.r.error

    @property
    def ended(self) -> bool:
        """Whether the source has reached its end."""
        return self.r.ended


cdef int open_relay(relay *r, driver *d, sock *source, sock *sink) noexcept nogil:
    if source.closed or sink.closed:
        return -EBADF
    if source == sink:
        return -EINVAL
    if source.out != NULL or sink.into != NULL:
        return -EBUSY
    if tcp_state(source.tcp) in (7, 10) or tcp_state(sink.tcp) in (7, 10):      # CLOSED, LISTEN
        return -ENOTCONN
    d.eng.relays += 1
    relay_start(r, &d.eng.ctx, source.tcp, sink.tcp, &source.out, &sink.into)
    relay_turn(r)
    return 0


cdef void close_relay(relay *r, driver *d, bint gone) noexcept:
    """Its handle goes: nobody may move it any more."""
    if gone:
        return
    with nogil:
        driver_lock(d)
        relay_dissolve(r, 0)
        d.eng.relays -= 1
        driver_flush_unlock(d)


def read_ahead(int fd, long long offset, long long n) -> None:
    """Have a part of a file read into memory, and do not wait for it. Nothing happens where that cannot be."""
    cdef int64_t size = sys_file_length(fd)
    with nogil:
        sys_read_ahead(fd, offset, min(n, size - offset, <int64_t>AHEAD))


def settle() -> None:
    """Call the free functions of storage that stacks do not need any more, as every call of the library does."""
    drain()


def file_windows() -> tuple[int, int]:
    """(windows on files that are mapped now, those of them that nobody uses); see docs/techniques/sendfile.md."""
    cdef int mapped = 0, unused = 0
    windows_count(&mapped, &unused)
    return mapped, unused


def drop_file_windows() -> int:
    """Unmap the windows on files that nobody uses; returns how many they were."""
    return windows_drop()


def faults() -> tuple[int, int]:
    """(copies from mapped files that ended where the file did, pages of mapped files replaced by zeros)."""
    cdef long stopped = 0, replaced = 0
    guard_counts(&stopped, &replaced)
    return stopped, replaced
