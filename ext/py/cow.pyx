"""Sending with copy-on-write, and the memory that is best for it: ``CowBuffer``. See docs/techniques/cow.md."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBADF, EINTR
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t
from libc.string cimport strcmp

import threading

from ustack._core.base.counters cimport (
    C_COW_FULL, C_COW_KEPT, C_COW_NESTED, C_COW_PAGES, C_COW_REFUSED, C_COW_SMALL)
from ustack._core.base.types cimport NS_NEVER, atomic_add64, atomic_cas32, atomic_swap32, cpu_relax, ns_t
from ustack._core.mem.mblk cimport freemsg, mblk
from ustack._core.py.buffers cimport drain, lend_buffer, release_block
from ustack._core.py.calls cimport NO_WAIT, wait_for_room
from ustack._core.py.direct cimport may_vanish
from ustack._core.py.driver cimport (
    driver, driver_attend, driver_flush_unlock, driver_lock, driver_notify_kick, driver_unlock, sock_note)
from ustack._core.py.errors cimport fail
from ustack._core.py.socket cimport Socket
from ustack._core.stack.engine cimport iface
from ustack._core.stack.sockets cimport SOCK_TCP, sock
from ustack._core.sys.fault cimport FAULT_MPROTECT, FAULT_NONE, FAULT_USERFAULTFD
from ustack._core.sys.futex cimport sys_futex_wait, sys_futex_wake
from ustack._core.sys.memory cimport page_size
from ustack._core.tcp.block cimport TF_MORE, mark
from ustack._core.tcp.tcp cimport TCP_SEND_MORE, tcb, tcp_send, tcp_send_hint
from ustack._core.zerocopy.cow cimport cow_start
from ustack._core.zerocopy.cow_file cimport (
    COW_FILE_PAGES, cow_file, cow_file_close, cow_file_create, cow_file_find, cow_file_share, cow_file_unref)
from ustack._core.zerocopy.cow_owner cimport owner_create
from ustack._core.zerocopy.cow_plain cimport cow_plain_share

cdef enum:
    MSG_DONTWAIT = 0x40
    MSG_MORE = 0x8000
    CHUNK = 1 << 20             # bytes that are shared, and queued, at once
    LOCK_SPINS = 200

_MECHANISMS = {"userfaultfd": FAULT_USERFAULTFD, "mprotect": FAULT_MPROTECT}
_NAMES = {FAULT_USERFAULTFD: "userfaultfd", FAULT_MPROTECT: "mprotect", FAULT_NONE: None}

cdef unsigned long _main_thread = threading.main_thread().ident
cdef bint every_link = False    # for tests: plain memory is shared whatever the link


def cow_mechanism(name=None):
    """How writes to shared pages are noticed: "userfaultfd", "mprotect", or None where neither is to be had.

    The first is taken where the system allows it (sysctl vm.unprivileged_userfaultfd, CAP_SYS_PTRACE, or access to
    /dev/userfaultfd); a system call that writes to a shared page then just works, while with mprotect it fails with
    EFAULT. With a ``name`` that one is used from now on: OSError (EBUSY) while pages are shared, or why it cannot be.
    """
    cdef int r
    if name is not None and name not in _MECHANISMS:
        raise ValueError(f"a mechanism is one of {', '.join(map(repr, _MECHANISMS))}, not {name!r}")
    r = cow_start(_MECHANISMS.get(name, FAULT_NONE))
    if r < 0 and name is not None:
        fail(r, f"no {name}")
    return _NAMES[r] if r > 0 else None


def share_over_any_link(bint on) -> None:
    """For tests that carry packets themselves, in one thread: share plain memory also with links that keep packets."""
    global every_link
    every_link = on


@cython.final
cdef class CowBuffer:
    """A writable buffer of ``length`` bytes, zeros at first, that ``send(cow=True)`` shares without a copy.

    It is a memory file, mapped for the application and for the stack. Its pages may be written to at any time: a page
    that the stack still has to send is replaced, for the application, by a copy with the same content.
    spare: pages that may be replaced, or wait to be, at a time; None: as many as the buffer has. Where they do not
    suffice send copies. ValueError, or OSError: ENOSPC (more than 64 MiB of such buffers), ENOMEM, EMFILE.
    In a child process after fork(2) it is ordinary private memory.
    """

    cdef cow_file *f
    cdef Py_ssize_t length

    def __cinit__(self, length: int, *, spare: int | None = None):
        cdef int err = 0
        cdef size_t page = page_size()
        if length < 1 or length > <long long>COW_FILE_PAGES * page:
            raise ValueError(f"a CowBuffer has between 1 and {COW_FILE_PAGES * page} bytes")
        pages = (length + page - 1) // page
        if spare is None:
            spare = pages
        if not 0 <= spare <= COW_FILE_PAGES:
            raise ValueError(f"spare is a number of pages, 0 to {COW_FILE_PAGES}")
        cow_start(FAULT_NONE)
        self.length = length
        self.f = cow_file_create(pages, spare, &err)
        if self.f == NULL:
            fail(err, f"no CowBuffer of {length} bytes")

    def __dealloc__(self):
        if self.f != NULL:
            cow_file_close(self.f)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.f.user, self.length, False, flags)

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return f"<ustack.CowBuffer of {self.length} bytes, {self.f.nguarded} page(s) shared>"

    @property
    def address(self) -> int:
        """Where it begins: the beginning of a page."""
        return <uintptr_t>self.f.user

    @property
    def shared(self) -> int:
        """Pages that are shared with a stack now, and would be copied if they were written to."""
        return self.f.nguarded

    @property
    def spare(self) -> int:
        """Pages that could still be shared, beyond those that are."""
        return self.f.nspare - self.f.nguarded


# --- the lock of a stack, for the fault handler ---------------------------------------------------------------------
cdef void hold(void *arg) noexcept nogil:
    cdef driver *d = <driver *>arg
    cdef int _k
    for _k in range(LOCK_SPINS):
        if atomic_cas32(&d.lock, 0, 1):
            return
        cpu_relax()
    while atomic_swap32(&d.lock, 2) != 0:
        sys_futex_wait(&d.lock, 2, NS_NEVER)


cdef void release(void *arg) noexcept nogil:
    cdef driver *d = <driver *>arg
    if atomic_swap32(&d.lock, 0) == 2:
        sys_futex_wake(&d.lock, 1)
    if d.work_pending:          # somebody relied on whoever held the lock: hand it on
        driver_notify_kick(d)


cdef int have_owner(driver *d) except -1:
    if d.cow == NULL:
        d.cow = owner_create(hold, release, d, &d.eng.ctx.book, &d.eng.ctx.n)
        if d.cow == NULL:
            raise MemoryError
    return 0


# --- sending --------------------------------------------------------------------------------------------------------
cdef struct sharing:
    driver *d
    sock *s
    uint8_t *at                 # the next page
    size_t left                 # bytes, whole pages
    cow_file *f                 # the file that they lie in; NULL: plain memory
    mblk *keeper                # that holds plain memory
    bint more                   # something follows behind the last page
    bint held                   # what was queued last is held back for more
    ns_t deadline
    bint main_thread


cdef inline void bump(driver *d, int counter, int64_t n) noexcept nogil:
    # Not under the lock: these are counted here only.
    atomic_add64(<int64_t *>&d.eng.ctx.n.n[counter], n)


cdef bint lets_go(const tcb *c) noexcept nogil:
    """Whether the link has read a packet when its transmit returns: so blocks may be moved under the engine's lock."""
    cdef iface *i
    if every_link:
        return True
    if c.way.ifp == NULL or c.way.ifp.layer == 0:
        return False
    i = <iface *>c.way.ifp.owner
    if i == NULL or i.dev == NULL:
        return False
    return strcmp(i.dev.ops.kind, b"tap") == 0 or strcmp(i.dev.ops.kind, b"packet_ring") == 0


cdef int share_some(sharing *x, uint32_t *pages) noexcept nogil:
    """Wait for room, share what fits a chunk, queue it. 0: *pages were, none of them if they have to be copied."""
    cdef driver *d = x.d
    cdef sock *s = x.s
    cdef size_t page = page_size()
    cdef uint32_t wanted = <uint32_t>((x.left if x.left < CHUNK else CHUNK) // page)
    cdef uint32_t n = wanted, nested = 0
    cdef int64_t sent
    cdef mblk *m
    cdef bint kept
    cdef int r
    pages[0] = 0
    driver_lock(d)
    r = wait_for_room(d, s, x.deadline, x.main_thread)
    kept = r == 0 and x.f == NULL and not lets_go(s.tcp)
    driver_unlock(d)
    if r != 0:
        return r
    if kept:
        bump(d, C_COW_KEPT, 1)
        return 0
    if x.f != NULL:
        m = cow_file_share(x.f, d.cow, d.eng.ctx.mem, <uint32_t>((x.at - x.f.user) // page), &n, &nested, &r)
    else:
        m = cow_plain_share(d.cow, d.eng.ctx.mem, x.at, &n, &nested, x.keeper, &r)
        if m != NULL:
            x.keeper = NULL
    if m == NULL:
        bump(d, C_COW_FULL if r == 0 else C_COW_REFUSED, 1)
        return 0
    bump(d, C_COW_PAGES, n)
    bump(d, C_COW_NESTED, nested)
    driver_lock(d)
    if s.closed:
        freemsg(m)
        sent = -EBADF
    else:
        m.pkt_len = <uint32_t>(n * page)
        x.held = x.more or n * page < x.left
        sent = tcp_send(s.tcp, m, TCP_SEND_MORE if x.held else 0)
        s.chunk = tcp_send_hint(s.tcp, &s.csum_stride, &s.csum_phase)
        if s.note_fd >= 0:
            sock_note(s)
        driver_attend(d, n * page)
    driver_flush_unlock(d)
    if sent < 0:
        return <int>sent
    pages[0] = n
    return 0


cdef void let_go(driver *d, sock *s) noexcept nogil:
    """What was held back for more is to leave."""
    driver_lock(d)
    if not s.closed:
        s.tcp.flags &= ~<uint32_t>TF_MORE
        mark(s.tcp)
    driver_flush_unlock(d)


@cython.final
cdef class _Call:
    """One send(cow=True) of a buffer."""

    cdef Socket socket
    cdef sharing x
    cdef Py_buffer b
    cdef object view            # of bytes
    cdef int flags
    cdef bint partial
    cdef size_t done

    cdef bint patient(self):
        """Whether to wait for room: a send that may be partial does so for its first piece alone."""
        return not (self.partial and self.done)

    cdef int copy(self, size_t until, bint more) except -1:
        """Send a part as send() does. 1: not all of it went."""
        cdef size_t n
        cdef int flags = self.flags | (MSG_MORE if more else 0)
        while self.done < until:
            n = self.socket._send_bytes(<const char *>self.b.buf + self.done, until - self.done,
                                        flags if self.patient() else flags | MSG_DONTWAIT, self.partial)
            self.done += n
            self.x.held = more
            if self.partial and self.done < until:
                return 1
        return self.done < until

    cdef int share(self, size_t until) except -1:
        """Send whole pages; what cannot be shared is copied. 1: not all of it went."""
        cdef uint32_t pages = 0
        cdef size_t page = page_size(), chunk
        cdef int r
        while self.done < until:
            if not self.patient():
                self.x.deadline = NO_WAIT
            self.x.at = <uint8_t *>self.b.buf + self.done
            self.x.left = until - self.done
            if self.x.f == NULL and self.x.keeper == NULL:
                chunk = self.x.left if self.x.left < CHUNK else CHUNK
                self.x.keeper = lend_buffer(self.x.d.eng.ctx.mem, self.view[self.done:self.done + chunk], None)
            with nogil:
                r = share_some(&self.x, &pages)
            if r == -EINTR:
                PyErr_CheckSignals()
                continue
            if r == -EAGAIN:
                if self.x.deadline == NO_WAIT:
                    raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")
                raise TimeoutError("timed out")
            if r != 0:
                fail(r)
            if pages == 0:
                return self.copy(until, self.x.more)
            self.done += pages * page
        return self.done < until

    cdef size_t run(self, size_t first, size_t last) except? 0:
        """The pages lie between the two offsets."""
        cdef bint more = self.flags & MSG_MORE != 0
        cdef size_t n = self.b.len
        try:
            if self.copy(first, True) == 0:
                self.x.more = more or last < n
                if self.share(last) == 0:
                    self.copy(n, more)
        except (BlockingIOError, TimeoutError):
            if not (self.partial and self.done):
                raise
        finally:
            if self.x.keeper != NULL:
                release_block(self.x.keeper)
                self.x.keeper = NULL
            if self.x.held and not more and self.done < n:
                with nogil:
                    let_go(self.x.d, self.x.s)
        return self.done


def send_cow(Socket s not None, data, int flags, bint partial) -> int:
    """send(cow=True) of ustack.socket: the bytes taken. partial: of a socket that is non-blocking or has a timeout."""
    cdef _Call c = _Call.__new__(_Call)
    cdef size_t page = page_size()
    cdef size_t first, last, n
    cdef driver *d = s.d
    s.enter()
    try:
        s._need(SOCK_TCP, "send(cow=True)")
        PyObject_GetBuffer(data, &c.b, PyBUF_SIMPLE)
        try:
            n = c.b.len
            first = (page - <size_t>c.b.buf % page) % page
            last = n - (<size_t>c.b.buf + n) % page if first < n else 0
            if may_vanish(data, c.b.buf, n):
                bump(d, C_COW_REFUSED, 1)
                return s._send_mapping(data, flags, partial)
            if n == 0 or first + page > last or last > n:
                if n:
                    bump(d, C_COW_SMALL, 1)
                return s._send_bytes(<const char *>c.b.buf, n, flags, partial)
            c.x.f = cow_file_find(<uint8_t *>c.b.buf + first, last - first)
            # What somebody may only read they may not protect either; but nobody writes to bytes.
            if cow_start(FAULT_NONE) < 0 or (c.x.f == NULL and c.b.readonly and type(data) is not bytes):
                if c.x.f != NULL:
                    cow_file_unref(c.x.f)
                bump(d, C_COW_REFUSED, 1)
                return s._send_bytes(<const char *>c.b.buf, n, flags, partial)
            have_owner(d)
            c.socket = s
            c.view = memoryview(data).cast("B")
            c.flags = flags
            c.partial = partial
            c.x.d = d
            c.x.s = s.s
            c.x.deadline = NO_WAIT if flags & MSG_DONTWAIT else s.deadline()
            c.x.main_thread = threading.get_ident() == _main_thread
            try:
                return c.run(first, last)
            finally:
                c.view = None
                if c.x.f != NULL:
                    cow_file_unref(c.x.f)
        finally:
            PyBuffer_Release(&c.b)
    finally:
        s.leave()
        drain()
