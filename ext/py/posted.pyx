"""Posted receives: the link is told of the caller's registered memory, and puts payload there: see zerocopy/posted."""

from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBADF, EFAULT, EINTR, EOPNOTSUPP
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport strcmp

import threading

from ustack._core.base.codes cimport CAP_ZEROCOPY_RX, EV_IN
from ustack._core.base.counters cimport C_POSTED_NO_LINK, C_POSTED_UNREGISTERED
from ustack._core.base.counters cimport count as bump
from ustack._core.base.ledger cimport LR_RX_COPY
from ustack._core.base.types cimport NS_MS, cpu_relax, ns_t, unlikely
from ustack._core.link.link cimport link, link_header
from ustack._core.mem.guarded cimport msgcopyout_guarded
from ustack._core.mem.mblk cimport freeb, freemsg, mblk, mblk_len, msgconsume
from ustack._core.py.buffers cimport lend, release_block
from ustack._core.py.calls cimport NO_WAIT
from ustack._core.py.driver cimport (
    check_fn, clock_now, driver, driver_flush_unlock, driver_lock, driver_unlock, driver_wait, driver_wait_until,
    sock_note)
from ustack._core.py.errors cimport fail
from ustack._core.py.socket cimport Socket
from ustack._core.stack.engine cimport iface
from ustack._core.stack.sockets cimport SOCK_TCP, sock
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.tcp cimport TCPS_ESTABLISHED, TCPS_FIN_WAIT_1, TCPS_FIN_WAIT_2, tcp_recv, tcp_state
from ustack._core.tcp.unread cimport tcp_unread
from ustack._core.zerocopy.cow cimport cow_break
from ustack._core.zerocopy.direct cimport MEMORY_PINNED, direct_free, memory_known
from ustack._core.zerocopy.posted cimport posted, posted_open, posted_rescue, posted_resume

cdef enum:
    MSG_WAITALL = 0x100
    BLOCK_STORAGE = 256         # what a queue is charged for a window on the caller's memory
    LOOKS = 1000                # at a device that is just writing: it moves 64 KB in that time
    PART = 1 << 30              # bytes of one posting

cdef ns_t HELD = 250 * NS_MS    # for a block that another reader of the socket has
cdef ns_t WRITING = 1000 * NS_MS        # for a device that is just writing 64 KB
cdef ns_t LOOK = 2 * NS_MS      # between looks at a device that may not say when it is done

cdef unsigned long _main_thread = threading.main_thread().ident

cdef struct call:
    driver *d
    sock *s
    mblk *whole
    posted *p
    link *dev                   # that was told of it
    char *to
    size_t n
    size_t done
    bint refused                # the link cannot
    bint dev_places             # … looks at the posting itself, under the lock
    char *spared                # nothing is to be put below it
    ns_t deadline
    bint main_thread


cdef bint places(const link *dev) noexcept nogil:
    """Whether a link puts payload where it is wanted."""
    if strcmp(dev.ops.kind, b"memory") == 0:
        return not dev.caps & CAP_ZEROCOPY_RX
    return dev.ops.post != NULL or strcmp(dev.ops.kind, b"tap") == 0


cdef link *device_of(const tcb *c) noexcept nogil:
    if c.way.ifp == NULL or c.way.ifp.layer == 0 or c.way.ifp.owner == NULL:
        return NULL
    return (<iface *>c.way.ifp.owner).dev


cdef void post(call *x) noexcept nogil:
    """Nothing is there: tell the link where the next bytes belong, or look where they belong now."""
    cdef tcb *c = x.s.tcp
    cdef link *dev
    if x.dev != NULL:
        posted_resume(x.p, c)
        return
    if x.refused or tcp_state(c) not in (TCPS_ESTABLISHED, TCPS_FIN_WAIT_1, TCPS_FIN_WAIT_2):
        return
    dev = device_of(c)
    if dev == NULL or not places(dev) or dev.posted != NULL or x.s.out != NULL:
        x.refused = True
        bump(&x.d.eng.ctx.n, C_POSTED_NO_LINK)
        return
    if c.rq_len or c.ooo.n:
        return
    x.whole.dp.base = <unsigned char *>x.to + x.done
    posted_open(x.p, c, x.whole, link_header(dev), &x.d.eng.ctx.n)
    dev.posted = &x.p.face
    if dev.ops.post != NULL and dev.ops.post(dev) < 0:
        dev.posted = NULL
        x.refused = True
        bump(&x.d.eng.ctx.n, C_POSTED_NO_LINK)
        return
    x.dev = dev
    x.dev_places = dev.ops.post == NULL


# --- a device that was told ahead of time -------------------------------------------------------------------------

cdef link *told(call *x) noexcept nogil:
    """The link that knows of our posting, under the lock; NULL: there is none any more."""
    cdef iface *i = x.d.eng.ifs
    while i != NULL and x.dev != NULL:
        if i.dev == x.dev:
            return x.dev if x.dev.posted == &x.p.face else NULL
        i = i.next
    return NULL


cdef bint is_spared(void *arg) noexcept nogil:
    cdef call *x = <call *>arg
    cdef link *dev = told(x)
    return dev == NULL or dev.ops.spare(dev, <uint8_t *>x.spared, False) == 0


cdef bint is_back(void *arg) noexcept nogil:
    cdef call *x = <call *>arg
    cdef link *dev = told(x)
    return dev == NULL or dev.ops.unpost(dev, False) == 0


cdef bint in_time(call *x, check_fn check) noexcept nogil:
    """Under the lock, which it lets go of: whether the device has answered."""
    cdef ns_t until
    cdef int _i
    for _i in range(LOOKS):
        if check(x):
            return True
        cpu_relax()
    until = clock_now() + WRITING
    while clock_now() < until:
        if driver_wait_until(x.d, check, x, clock_now() + LOOK, False) == 0:
            return True
        if x.d.closed:
            break
    return check(x)


cdef void spare(call *x, const mblk *m) noexcept nogil:
    """The device is not to write where bytes will be copied to that it has not put in their place."""
    cdef link *dev
    cdef char *to = x.to + x.done
    x.spared = NULL
    while m != NULL:
        if <char *>m.rptr != to:
            x.spared = to + mblk_len(m)
        to += mblk_len(m)
        m = m.cont
    if x.spared == NULL or x.dev == NULL or x.dev_places:
        return
    if not in_time(x, is_spared):
        dev = told(x)
        if dev != NULL:
            dev.ops.spare(dev, <uint8_t *>x.spared, True)


cdef void take_back(call *x) noexcept nogil:
    cdef link *dev
    if x.dev == NULL or x.dev_places or in_time(x, is_back):
        return
    dev = told(x)
    if dev != NULL:
        dev.ops.unpost(dev, True)


# --- receiving ----------------------------------------------------------------------------------------------------

cdef int next_bytes(call *x, mblk **m) noexcept nogil:
    """Wait for bytes: 0 with *m NULL at the end of the stream; -errno."""
    cdef int r = 0
    m[0] = NULL
    driver_lock(x.d)
    while True:
        if x.s.closed:
            r = -EBADF
            break
        m[0] = tcp_recv(x.s.tcp, x.n - x.done, 0, &r)
        if m[0] != NULL:
            spare(x, m[0])
            break
        if r != -EAGAIN:
            break
        post(x)
        r = driver_wait(x.d, x.s, EV_IN, x.deadline, x.main_thread)
        if r != 0:
            break
    driver_flush_unlock(x.d)
    return r


cdef int put(call *x, mblk *m) noexcept nogil:
    """Bytes to their place, unless they are there. -EFAULT: what found none is the next to be received."""
    cdef mblk *following
    cdef char *to
    cdef size_t got
    while m != NULL:
        to = x.to + x.done
        if <char *>m.rptr != to:
            got = msgcopyout_guarded(&x.d.eng.ctx.book, LR_RX_COPY, m, 0, to, mblk_len(m))
            if unlikely(got < mblk_len(m)):
                x.done += got
                give_back(x, msgconsume(m, got))
                return -EFAULT
        x.done += mblk_len(m)
        following = m.cont
        m.cont = NULL
        freeb(m)
        m = following
    return 0


cdef void give_back(call *x, mblk *taken) noexcept nogil:
    driver_lock(x.d)
    if not x.s.closed:
        tcp_unread(x.s.tcp, taken)
        taken = NULL
    if x.s.note_fd >= 0:
        sock_note(x.s)
    driver_flush_unlock(x.d)
    freemsg(taken)


cdef int receive(call *x) noexcept nogil:
    """Until all is there, the end of the stream (0), or -errno; -EINTR: look at signals and call again."""
    cdef mblk *m = NULL
    cdef int r
    while x.done < x.n:
        r = next_bytes(x, &m)
        if m == NULL:
            return r
        r = put(x, m)
        if r != 0:
            return r
    return 0


# --- the end ------------------------------------------------------------------------------------------------------

cdef bint is_free(void *arg) noexcept nogil:
    return direct_free(<mblk *>arg)


cdef bint withdraw(call *x) noexcept nogil:
    """Under the lock: no link is to write there any more. False: the link is gone with its pointer to the posting."""
    cdef iface *i
    take_back(x)
    i = x.d.eng.ifs
    x.p.face.room = 0
    while i != NULL:
        if i.dev == x.dev:
            if x.dev.posted == &x.p.face:
                x.dev.posted = NULL
            return True
        i = i.next
    return False


cdef void finish(call *x) noexcept nogil:
    """The memory is the caller's again: what queues hold of it is copied."""
    cdef bint gone = False
    cdef tcb *c
    if x.dev != NULL:
        driver_lock(x.d)
        gone = not withdraw(x)
        c = x.d.eng.tcp.all
        while c != NULL and not direct_free(x.whole):
            posted_rescue(c, x.whole)
            c = c.all_next
        if not direct_free(x.whole):
            driver_wait_until(x.d, is_free, x.whole, clock_now() + HELD, False)
        driver_unlock(x.d)
    if not gone:
        free(x.p)


cdef void count_unregistered(driver *d) noexcept nogil:
    driver_lock(d)
    bump(&d.eng.ctx.n, C_POSTED_UNREGISTERED)
    driver_unlock(d)


cdef Py_ssize_t run(Socket s, call *x) except -1:
    cdef int r
    try:
        while True:
            with nogil:
                r = receive(x)
            if r != -EINTR:
                break
            PyErr_CheckSignals()
    finally:
        with nogil:
            finish(x)
    if r < 0 and not x.done:
        if r == -EAGAIN:
            raise TimeoutError("timed out")
        fail(r)
    return x.done


def recv_posted(Socket s not None, buffer, Py_ssize_t nbytes=0) -> int:
    """Receive into registered memory that the link fills: see ``ustack.socket.socket.recv_posted``."""
    cdef Py_buffer b
    cdef size_t n
    cdef ns_t deadline
    if nbytes < 0:
        raise ValueError("negative buffersize in recv_posted")
    PyObject_GetBuffer(buffer, &b, PyBUF_CONTIG)
    s.enter()
    try:
        if nbytes > b.len:
            raise ValueError("buffer too small for requested bytes")
        if s.s.kind != SOCK_TCP:
            raise OSError(EOPNOTSUPP, "recv_posted(): Operation not supported on this type of socket")
        n = nbytes if nbytes else b.len
        deadline = s.deadline()
        if n == 0:
            return 0
        if deadline == NO_WAIT or memory_known(b.buf, n) != MEMORY_PINNED:
            if deadline != NO_WAIT:
                with nogil:
                    count_unregistered(s.d)
            return s.recv_into(buffer, n, 0 if deadline == NO_WAIT else MSG_WAITALL)
        return receive_parts(s, buffer, <char *>b.buf, n, deadline)
    finally:
        s.leave()
        PyBuffer_Release(&b)


cdef Py_ssize_t receive_parts(Socket s, object buffer, char *to, size_t n, ns_t deadline) except -1:
    """A posting is bounded: positions of four bytes must not come round in it."""
    cdef size_t done = 0, part
    cdef Py_ssize_t got
    while done < n:
        part = n - done if n - done < PART else PART
        try:
            if part < n:
                got = start(s, memoryview(buffer).cast("B")[done:done + part], to + done, part, deadline)
            else:
                got = start(s, buffer, to, n, deadline)
        except OSError:
            if done == 0:
                raise
            break
        done += got
        if <size_t>got < part:
            break
    return done


cdef Py_ssize_t start(Socket s, object buffer, void *to, size_t n, ns_t deadline) except -1:
    cdef call x
    x.d, x.s, x.dev, x.to, x.n = s.d, s.s, NULL, <char *>to, n
    x.done = 0
    x.refused = x.dev_places = False
    x.deadline = deadline
    x.main_thread = threading.get_ident() == _main_thread
    x.p = <posted *>calloc(1, sizeof(posted))
    if x.p == NULL:
        raise MemoryError
    try:
        x.whole = lend(s.d.eng.ctx.mem, buffer, None, True)
    except BaseException:
        free(x.p)
        raise
    x.whole.dp.truesize = BLOCK_STORAGE
    x.whole.dp.lim = <unsigned char *>to + n
    with nogil:
        cow_break(to, n)                # the link writes there under the engine's lock: no fault may need that
    try:
        return run(s, &x)
    finally:
        release_block(x.whole)
