"""Sending in place: registered memory, sends that return when their memory is free, and notices of completion.

The memory of a call is lent to the stack: its exporter is held until nobody refers to it, so that it can be neither
freed nor resized. What the engine has to know of it is in zerocopy/direct.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBADF, ECONNABORTED, EFAULT, EINTR, ENOBUFS, EOPNOTSUPP
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc

import threading
from typing import NamedTuple

from ustack._core.base.codes cimport EV_OUT
from ustack._core.base.counters cimport (
    C_DIRECT_BYTES, C_DIRECT_DATAGRAM, C_DIRECT_NO_MEMORY, C_DIRECT_NO_WAIT, C_DIRECT_REGISTERED, C_DIRECT_RESCUED,
    C_DIRECT_RESET, C_DIRECT_SENT, C_DIRECT_SMALL)
from ustack._core.base.counters cimport count as bump
from ustack._core.base.counters cimport count_n
from ustack._core.base.seq cimport seq_geq, seq_t
from ustack._core.base.types cimport NS_MS, NS_NEVER, ns_t
from ustack._core.mem.mblk cimport DB_READONLY, mblk
from ustack._core.mem.pin cimport mem_pinned
from ustack._core.py.buffers cimport drain, lend, release_block
from ustack._core.py.calls cimport NO_WAIT
from ustack._core.py.driver cimport (
    clock_now, driver, driver_attend, driver_flush_unlock, driver_lock, driver_unlock, driver_wait, driver_wait_until,
    sock_note)
from ustack._core.py.errors cimport fail
from ustack._core.py.socket cimport Socket
from ustack._core.stack.engine cimport engine_poll, iface
from ustack._core.stack.sockets cimport SOCK_TCP, sock
from ustack._core.sys.mapped cimport sys_maps_file
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.close cimport conn_abort
from ustack._core.tcp.tcp cimport (
    TCP_SEND_MORE, TCPS_CLOSED, TCPS_LISTEN, TCPS_SYN_RECEIVED, TCPS_SYN_SENT, tcp_send, tcp_send_hint, tcp_send_room,
    tcp_state)
from ustack._core.zerocopy.direct cimport (
    DIRECT_LEAST, DIRECT_PIECE, MEMORY_PINNED, NOTICES_MAX, direct_bring_in, direct_free, direct_refusal,
    direct_rescue, direct_rescue_queue, direct_window, memory_counts, memory_known, memory_register,
    memory_unregister, notice_range, notices, notices_add, notices_any, notices_cancel, notices_harvest,
    notices_reserve, notices_take)

cdef enum:
    MSG_DONTWAIT = 0x40
    MSG_MORE = 0x8000
    BLOCK_STORAGE = 256         # what a queue is charged for a window: its structures

cdef ns_t SLICE = 5 * NS_MS             # who waits beside another thread that polls looks that often
cdef ns_t SIGNALS = 50 * NS_MS           # a signal that interrupts no system call is seen after that
cdef ns_t RESCUE_WAIT = 250 * NS_MS    # for packets that a link has, after a send ended early

AUTO_LEAST = DIRECT_LEAST

cdef unsigned long _main_thread = threading.main_thread().ident


# --- registered memory --------------------------------------------------------------------------------------------

@cython.final
cdef class Registration:
    """Memory that is promised to stay where it is, pinned if the system allows it: see ``ustack.register``.

    ``address`` and ``nbytes`` say where it is, ``pinned`` whether its pages are locked, ``error`` the errno if not (0).
    """

    cdef Py_buffer view
    cdef bint active
    cdef readonly bint pinned
    cdef readonly int error
    cdef readonly size_t nbytes
    cdef readonly object address

    def __cinit__(self, buffer):
        cdef bint full = False
        cdef bint pin
        cdef int r
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)
        try:
            if self.view.len == 0:
                raise ValueError("an empty buffer cannot be registered")
            pin = not may_vanish(buffer, self.view.buf, self.view.len)
            with nogil:
                r = memory_register(self.view.buf, self.view.len, pin, &full)
            if full:
                fail(r, "too many registered ranges")
        except BaseException:
            PyBuffer_Release(&self.view)
            raise
        self.active = True
        self.pinned = r == 0
        self.error = -r
        self.nbytes = self.view.len
        self.address = <uintptr_t>self.view.buf

    def __dealloc__(self):
        self.let_go()

    cdef void let_go(self):
        if self.active:
            self.active = False
            memory_unregister(self.view.buf, self.view.len, self.pinned)
            PyBuffer_Release(&self.view)

    def close(self):
        """Unpin it and let go of the buffer; what is being sent of it stays held until it is free. Idempotent."""
        self.let_go()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self.active

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.let_go()

    def __repr__(self):
        state = "closed" if not self.active else "pinned" if self.pinned else "not pinned"
        return f"<ustack.Registration of {self.nbytes} bytes at {self.address:#x}, {state}>"


def registered() -> tuple[int, int, int, int]:
    """(registered ranges, bytes pinned in this process, look-ups that found a range, look-ups that did not)."""
    cdef int ranges = 0
    cdef long hits = 0, misses = 0
    memory_counts(&ranges, &hits, &misses)
    return ranges, mem_pinned(), hits, misses


# --- one call -----------------------------------------------------------------------------------------------------

cdef struct call:
    driver *d
    sock *s
    mblk *whole                 # all of its memory
    size_t n
    size_t done                 # bytes queued
    seq_t end                   # the stream's position behind them
    bint more
    bint appended               # to a block of the stack's, by copying
    bint partial                # a non-blocking call, of which a part may do
    ns_t deadline
    bint main_thread


cdef int pause(call *x, bint *tried) noexcept nogil:
    """Under the lock: until there may be room. 0: look again."""
    if x.deadline == NO_WAIT:
        if tried[0]:
            return -EAGAIN
        tried[0] = True
        engine_poll(&x.d.eng, x.d.eng.ctx.now, 64)
        return 0
    return driver_wait(x.d, x.s, EV_OUT, x.deadline, x.main_thread)


cdef int room(call *x, bint *tried) noexcept nogil:
    cdef int64_t n
    cdef int r
    while True:
        n = -EBADF if x.s.closed else tcp_send_room(x.s.tcp)
        if n < 0:
            return <int>n
        if n > 0:
            return 0
        r = pause(x, tried)
        if r != 0:
            return r


cdef int queue_piece(call *x, size_t n) noexcept nogil:
    """Under the lock, with room: windows on the next n bytes into the send queue."""
    cdef mblk *m = direct_window(x.d.eng.ctx.mem, x.whole, x.done, n)
    cdef int64_t sent
    if m == NULL:
        return -ENOBUFS
    sent = tcp_send(x.s.tcp, m, TCP_SEND_MORE if x.more or x.done + n < x.n else 0)
    if sent < 0:
        return <int>sent
    x.done += n
    x.appended = direct_free(x.whole)
    x.end = x.s.tcp.snd_end
    x.s.chunk = tcp_send_hint(x.s.tcp, &x.s.csum_stride, &x.s.csum_phase)
    return 0


cdef int queue_all(call *x) noexcept nogil:
    """Until everything is queued: 0 or -errno, with -EINTR to be called again."""
    cdef bint tried = False
    cdef size_t n
    cdef int r = 0
    while x.done < x.n and r == 0:
        driver_lock(x.d)
        r = room(x, &tried)
        if r == 0:
            n = x.n - x.done if x.n - x.done < DIRECT_PIECE else DIRECT_PIECE
            r = queue_piece(x, n)
            driver_attend(x.d, n)
        if x.s.note_fd >= 0:
            sock_note(x.s)
        driver_flush_unlock(x.d)
        if x.partial and x.done:
            break
    return r


cdef bint is_free(void *arg) noexcept nogil:
    cdef call *x = <call *>arg
    return direct_free(x.whole) or x.s.closed


cdef int wait_free(call *x, ns_t deadline, bint patient) noexcept nogil:
    """Until nobody holds the memory. 0; -EAGAIN at the deadline; -EBADF: the socket was closed; -EINTR: look at signals
    and call again. patient: neither of the last two."""
    cdef ns_t began = clock_now()
    cdef ns_t until
    cdef int r = 0
    driver_lock(x.d)
    while not direct_free(x.whole):
        if x.s.closed and not patient:
            r = -EBADF
            break
        if x.main_thread and not patient and clock_now() - began > SIGNALS:
            r = -EINTR
            break
        until = clock_now() + SLICE
        r = driver_wait_until(x.d, is_free, x, until if until < deadline else deadline, x.main_thread and not patient)
        if (r == -EAGAIN and clock_now() < deadline) or (r == -EINTR and patient):
            r = 0
        if r != 0:
            break
    r = 0 if direct_free(x.whole) else r
    driver_flush_unlock(x.d)
    return r


cdef int outcome(call *x) noexcept nogil:
    """The memory is free: were its bytes acknowledged, or was the connection lost?"""
    cdef int64_t r = 0
    driver_lock(x.d)
    if x.s.closed:
        r = -EBADF
    elif not seq_geq(x.s.tcp.snd_una, x.end):
        r = tcp_send_room(x.s.tcp)      # what was small may have been copied behind what was queued before
        r = r if r < 0 else 0
    driver_unlock(x.d)
    return <int>r


# --- ending it early ----------------------------------------------------------------------------------------------

cdef int rescue_packets(call *x) noexcept nogil:
    """Copies for packets that wait for a link."""
    cdef iface *i = x.d.eng.ifs
    cdef mblk *m
    cdef int r = 0
    while i != NULL and r == 0:
        m = i.txq
        while m != NULL and r == 0:
            r = direct_rescue(x.d.eng.ctx.mem, &x.d.eng.ctx.book, m, x.whole.dp)
            m = m.next
        i = i.next
    return r


cdef void reset_users(call *x) noexcept nogil:
    """Reset the connection that the memory was queued at."""
    cdef tcb *c = x.d.eng.tcp.all
    while c != NULL:
        if not x.s.closed and c == x.s.tcp:
            conn_abort(c, ECONNABORTED)
            break
        c = c.all_next


cdef void rescue(call *x) noexcept nogil:
    """The caller wants its memory back before everything was acknowledged: what is left of it is sent from copies."""
    cdef tcb *c
    cdef int r = 0
    driver_lock(x.d)
    if not direct_free(x.whole):
        bump(&x.d.eng.ctx.n, C_DIRECT_RESCUED)
        c = x.d.eng.tcp.all
        while c != NULL and r == 0:
            r = direct_rescue_queue(c, x.whole.dp)
            c = c.all_next
        if r == 0:
            r = rescue_packets(x)
    driver_flush_unlock(x.d)
    # What is left then are packets that a link has already: they are its own for as long as it takes.
    if r == 0 and wait_free(x, clock_now() + RESCUE_WAIT, True) == 0:
        return
    driver_lock(x.d)
    if not direct_free(x.whole):
        bump(&x.d.eng.ctx.n, C_DIRECT_RESET)
        reset_users(x)
    driver_flush_unlock(x.d)


# --- sending ------------------------------------------------------------------------------------------------------

cdef inline bint connected(const tcb *c) noexcept nogil:
    return tcp_state(c) not in (TCPS_SYN_SENT, TCPS_SYN_RECEIVED, TCPS_CLOSED, TCPS_LISTEN)


cdef int refusal(Socket s, bint sync, bint auto, size_t n, bint nonblocking) noexcept nogil:
    """The counter of the reason for which a send is copied; -1: it goes in place; -2: copied without a reason."""
    cdef int why = -2
    driver_lock(s.d)
    if s.s.kind != SOCK_TCP:
        why = C_DIRECT_DATAGRAM
    elif not s.s.closed and n and connected(s.s.tcp):
        why = direct_refusal(s.s.tcp)
        if why < 0 and auto and n < DIRECT_LEAST:
            why = C_DIRECT_SMALL
        elif why < 0 and sync and nonblocking:
            why = C_DIRECT_NO_WAIT
    if why >= 0:
        bump(&s.d.eng.ctx.n, why)
    driver_unlock(s.d)
    return why


cdef bint may_vanish(object data, const void *base, size_t n) noexcept:
    cdef bint yes
    if type(data) is memoryview:
        data = data.obj
    if type(data) is bytes or type(data) is bytearray or n == 0:
        return False
    with nogil:
        yes = sys_maps_file(base, n)
    return yes


cdef mblk *lend_memory(Socket s, object data, size_t n) except? NULL:
    """A block on the caller's memory, with its pages at hand; NULL: copy."""
    cdef mblk *whole
    cdef int known, r = 0
    try:
        whole = lend(s.d.eng.ctx.mem, data, None, True)
    except MemoryError:
        note(s, C_DIRECT_NO_MEMORY, 1)
        return NULL
    whole.wptr = whole.rptr + n
    whole.dp.flags |= DB_READONLY
    whole.dp.truesize = BLOCK_STORAGE
    known = memory_known(whole.rptr, n)
    if known != MEMORY_PINNED:
        with nogil:
            r = direct_bring_in(whole.rptr, n)
    if r == 0:
        if known == MEMORY_PINNED:
            note(s, C_DIRECT_REGISTERED, 1)
        return whole
    release_block(whole)
    if r == -EFAULT:
        fail(r, "the memory to be sent cannot be read")
    note(s, C_DIRECT_NO_MEMORY, 1)
    return NULL


cdef void note(Socket s, int which, size_t n) noexcept:
    with nogil:
        driver_lock(s.d)
        count_n(&s.d.eng.ctx.n, which, n)
        driver_unlock(s.d)


cdef void account(call *x) noexcept nogil:
    if x.done == 0 or x.appended:
        return
    driver_lock(x.d)
    bump(&x.d.eng.ctx.n, C_DIRECT_SENT)
    count_n(&x.d.eng.ctx.n, C_DIRECT_BYTES, x.done)
    driver_unlock(x.d)


cdef int run(call *x) except *:
    """Queue, with signals seen to: 0 or -errno. If a signal handler raises, the memory is free again."""
    cdef int r
    while True:
        with nogil:
            r = queue_all(x)
        if r != -EINTR:
            return r
        try:
            PyErr_CheckSignals()
        except BaseException:
            with nogil:
                rescue(x)
            raise


cdef int settle(call *x) except *:
    """Wait until the memory is free: 0 or -errno."""
    cdef int r
    while True:
        with nogil:
            r = wait_free(x, x.deadline, False)
        if r == -EINTR:
            try:
                PyErr_CheckSignals()
            except BaseException:
                with nogil:
                    rescue(x)
                raise
            continue
        with nogil:
            if r == -EAGAIN:
                rescue(x)               # what was queued is sent: from now on this is a send that copied
                r = 0
            elif r != 0:
                rescue(x)
            else:
                r = outcome(x)
        return r


cdef call make_call(Socket s, mblk *whole, size_t n, int flags, ns_t deadline, bint partial):
    cdef call x
    x.d, x.s, x.whole, x.n = s.d, s.s, whole, n
    x.done = 0
    x.end = 0
    x.appended = False
    x.more = flags & MSG_MORE != 0
    x.partial = partial
    x.deadline = deadline
    x.main_thread = threading.get_ident() == _main_thread
    return x


cdef Py_ssize_t send_sync(Socket s, mblk *whole, size_t n, int flags, ns_t deadline, bint partial) except -1:
    cdef call x = make_call(s, whole, n, flags, deadline, False)
    cdef int r, e
    try:
        r = run(&x)
        account(&x)
        e = settle(&x) if x.done else 0
    finally:
        release_block(whole)
    if r == -EAGAIN and not (partial and x.done):
        raise TimeoutError("timed out")
    if r != 0 and r != -EAGAIN:
        fail(r)
    if e != 0:
        fail(e)
    return x.done


cdef Py_ssize_t send_noticed(Socket s, Notices q, mblk *whole, size_t n, int flags, ns_t deadline,
                             bint partial) except -1:
    cdef call x = make_call(s, whole, n, flags, deadline, partial)
    cdef int r
    try:
        r = run(&x)
    except BaseException:
        release_block(whole)
        raise
    account(&x)
    if r == 0 or (partial and x.done):
        if x.appended:
            release_block(whole)
            whole = NULL
        notices_add(q.q, whole)
        return x.done
    with nogil:
        rescue(&x)                      # a call that fails has no number: its memory is free
    release_block(whole)
    if r == -EAGAIN:
        if deadline == NO_WAIT:
            raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")
        raise TimeoutError("timed out")
    fail(r)
    return -1


cdef Py_ssize_t send_with_notice(Socket s, Notices q, object data, const char *p, size_t n, int flags, ns_t deadline,
                                 bint partial, bint copied=False) except -1:
    """A call that gets a number; copied: and its completion says so."""
    cdef mblk *whole = NULL
    cdef Py_ssize_t done
    if n == 0:
        return s._send_bytes(p, 0, flags, partial)
    q.harvest()
    if not notices_reserve(q.q):
        raise OSError(ENOBUFS, f"{NOTICES_MAX} completions are outstanding: collect them with completions()")
    try:
        if not copied:
            whole = lend_memory(s, data, n)
        if whole != NULL:
            return send_noticed(s, q, whole, n, flags, deadline, partial)
        if may_vanish(data, p, n):
            done = s._send_mapping(data, flags, partial)
        else:
            done = s._send_bytes(p, n, flags, partial)
        notices_add(q.q, NULL)
        return done
    except BaseException:
        notices_cancel(q.q)
        raise


cdef Py_ssize_t send_in_place(Socket s, object data, int flags, object direct, bint zerocopy, bint partial) except -1:
    cdef Py_buffer b
    cdef ns_t deadline = NO_WAIT if flags & MSG_DONTWAIT else s.deadline()
    cdef bint auto = isinstance(direct, str)
    cdef Notices q = None
    cdef mblk *whole = NULL
    cdef size_t n
    cdef int why
    if auto and direct != "auto":
        raise ValueError(f"direct is 'auto', True or False, not {direct!r}")
    if zerocopy:
        if direct is not False and direct != "auto":
            raise ValueError("direct and zerocopy exclude each other: one waits for the memory, the other does not")
        q = <Notices?>s.notices if s.notices is not None else None
        if q is None or not q.on:
            raise OSError(EOPNOTSUPP, "zerocopy: set the option SO_ZEROCOPY first")
        auto = False
    drain()
    PyObject_GetBuffer(data, &b, PyBUF_SIMPLE)
    n = b.len
    try:
        with nogil:
            why = refusal(s, not zerocopy, auto, n, deadline == NO_WAIT)
        if why == -1:
            if may_vanish(data, b.buf, n):
                # Read while it waits, by a device or under the lock, it could not be guarded.
                note(s, C_DIRECT_NO_MEMORY, 1)
            elif q is not None:
                return send_with_notice(s, q, data, <const char *>b.buf, n, flags, deadline, partial)
            else:
                whole = lend_memory(s, data, n)
            if whole != NULL:
                return send_sync(s, whole, n, flags, deadline, partial)
        if q is not None:
            return send_with_notice(s, q, data, <const char *>b.buf, n, flags, deadline, partial, True)
        if s.s.kind != SOCK_TCP:
            return s._send_datagram(data, None, flags)
        if may_vanish(data, b.buf, n):
            return s._send_mapping(data, flags, partial)
        return s._send_bytes(<const char *>b.buf, n, flags, partial)
    finally:
        PyBuffer_Release(&b)


# --- notices ------------------------------------------------------------------------------------------------------

class Completion(NamedTuple):
    """Calls of ``send(zerocopy=True)`` whose memory may be used again: their numbers, both ends included.

    Numbers are counted from 0 by socket, of 32 bits, and wrap: ``low`` may be greater than ``high``. ``copied``: the
    bytes were copied after all, so that sending in place did not pay.
    """

    low: int
    high: int
    copied: bool


@cython.final
cdef class Notices:
    """What a socket knows of its sends with completion; it outlives the connection."""

    cdef notices *q
    cdef bint on

    def __cinit__(self):
        self.q = <notices *>calloc(1, sizeof(notices))
        if self.q == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int k
        if self.q != NULL:
            for k in range(self.q.waiting):
                release_block(self.q.calls[k].whole)
            free(self.q)

    cdef void harvest(self):
        cdef mblk *m = notices_harvest(self.q)
        cdef mblk *following
        while m != NULL:
            following = m.cont
            m.cont = NULL
            release_block(m)
            m = following

    cdef list take(self):
        cdef notice_range *found = <notice_range *>malloc(NOTICES_MAX * sizeof(notice_range))
        cdef int k, n
        if found == NULL:
            raise MemoryError
        try:
            self.harvest()
            n = notices_take(self.q, found, NOTICES_MAX)
            return [Completion(found[k].low, found[k].high, bool(found[k].copied)) for k in range(n)]
        finally:
            free(found)


cdef int opt_in(Socket s, bint on) except -1:
    if s.notices is None:
        s.notices = Notices()
    (<Notices>s.notices).on = on
    return 0


cdef bint opted_in(Socket s) noexcept:
    return s.notices is not None and (<Notices>s.notices).on


cdef bint has_notice(void *arg) noexcept nogil:
    return notices_any(<notices *>arg)


cdef int wait_notice(driver *d, notices *q, ns_t deadline, bint main_thread) noexcept nogil:
    """Until something can be collected: 0; -EAGAIN; -EINTR: look at signals and call again."""
    cdef ns_t until = clock_now() + SLICE
    cdef int r
    driver_lock(d)
    r = driver_wait_until(d, has_notice, q, until if until < deadline else deadline, main_thread)
    driver_flush_unlock(d)
    if r == -EAGAIN and not d.manual and clock_now() < deadline:
        return -EINTR
    return r


cdef list collect(Socket s, object timeout):
    cdef Notices q = s.notices
    cdef bint main_thread = threading.get_ident() == _main_thread
    cdef ns_t deadline
    cdef int r = -EINTR
    drain()
    if q is None:
        return []
    found = q.take()
    if timeout is not None and timeout < 0:
        raise ValueError("Timeout value out of range")
    deadline = NS_NEVER if timeout is None else clock_now() + <ns_t>min(timeout * 1e9, 4e18)
    while not found and timeout != 0 and q.q.waiting and r == -EINTR and not s.stack.closed:
        s.stack.enter()
        try:
            with nogil:
                r = wait_notice(s.d, q.q, deadline, main_thread)
        finally:
            s.stack.leave()
        PyErr_CheckSignals()
        found = q.take()
    return found


def number_from(Socket s, uint32_t number) -> None:
    """For tests: the number of the next call of ``send(zerocopy=True)``."""
    opt_in(s, True)
    (<Notices>s.notices).q.next = number
