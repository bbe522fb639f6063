"""``PagePipe``: references to memory in a pipe, what goes into it from the program, and what comes out. See
docs/techniques/pagepipe.md; ``ustack.splice`` and ``ustack.tee`` move the rest."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EFAULT, EINTR, EINVAL, EIO, ENOBUFS, EPIPE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.string cimport memset

from ustack._core.base.ledger cimport LR_RX_COPY
from ustack._core.base.types cimport NS_MS, NS_NEVER, ns_t
from ustack._core.mem.guarded cimport msgcopyout_guarded
from ustack._core.mem.mblk cimport DB_READONLY, freemsg, mblk, msg_intact, msgbytes, msgcopyout
from ustack._core.py.buffers cimport Arena, drain, lend, release_block, wrap_mblk
from ustack._core.py.calls cimport NO_WAIT
from ustack._core.py.direct cimport may_vanish
from ustack._core.py.driver cimport clock_now
from ustack._core.py.errors cimport check, fail
from ustack._core.sys.fault cimport FAULT_NONE
from ustack._core.sys.guard cimport guard_install
from ustack._core.sys.memory cimport page_size
from ustack._core.zerocopy.cow cimport cow_start
from ustack._core.zerocopy.direct cimport MEMORY_PINNED, direct_bring_in, memory_known
from ustack._core.zerocopy.gift cimport gift_log_create, gift_log_unref, gift_watch
from ustack._core.zerocopy.pagepipe cimport (
    PAGEPIPE_BUFFERS, PAGEPIPE_READ, PAGEPIPE_WRITE, pagepipe, pagepipe_begin, pagepipe_close,
    pagepipe_end, pagepipe_fini, pagepipe_init, pagepipe_look, pagepipe_put, pagepipe_resize, pagepipe_room,
    pagepipe_wait)

cdef enum:
    F_MOVE = 1
    F_NONBLOCK = 2
    F_MORE = 4
    F_GIFT = 8
    STORAGE = 256               # what a queue is charged for a block on the program's memory: its structures

SPLICE_F_MOVE = F_MOVE
SPLICE_F_NONBLOCK = F_NONBLOCK
SPLICE_F_MORE = F_MORE
SPLICE_F_GIFT = F_GIFT

cdef ns_t SLICE = 50 * NS_MS    # a wait looks that often whether there are signals


cpdef int check_flags(int flags) except -1:
    """OSError (EINVAL) for flags other than SPLICE_F_*."""
    if flags & ~(F_MOVE | F_NONBLOCK | F_MORE | F_GIFT):
        fail(-EINVAL, "an unknown flag")
    return 0


cdef int wait_for(pagepipe *p, int what, size_t least, ns_t deadline) except -1:
    """A while at most, with a look at signals. BlockingIOError, TimeoutError."""
    cdef ns_t left = 0
    cdef int r
    if deadline != NO_WAIT:
        left = deadline - clock_now()
    if left <= 0:
        if deadline == NO_WAIT:
            raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")
        raise TimeoutError("timed out")
    with nogil:
        r = pagepipe_wait(p, what, least, left if left < SLICE else SLICE)
    PyErr_CheckSignals()
    if r != 0 and r != -EAGAIN and r != -EINTR:
        fail(r)
    return 0


@cython.final
cdef class _GivenBack:
    """Calls a function when the last of what one vmsplice took is given back."""

    def __cinit__(self, callback):
        self.callback = callback
        self.out = 1            # the call itself

    def __call__(self):
        self.out -= 1
        if self.out == 0 and self.callback is not None:
            callback, self.callback = self.callback, None
            callback()


cdef void give(_GivenBack one) noexcept:
    """What its function raises goes to sys.unraisablehook."""
    one()


@cython.final
cdef class PagePipe:
    """A pipe of references to memory: at most ``buffers`` of them, to at most ``size`` bytes in all.

    What goes in stays where it lies: memory of the program (``vmsplice``), pages of files and received packets
    (``ustack.splice``). What comes out goes on as it lies, or is copied to memory of the program (``vmsplice_into``,
    ``read``) or lent to it (``take``). ``ustack.tee`` makes a second reference.

    size: a multiple of the page size (OSError, EINVAL). arena: of what is read into the pipe, and of its ledger; by
    default one of its own. debug: memory that was given away (SPLICE_F_GIFT) is write-protected until it is given
    back: who writes to it all the same is counted (``touched``), and the next call on the pipe raises RuntimeError;
    OSError where the system has no means for that.

    Threads: any number at either end. Calls that wait do so for ``settimeout`` seconds at most. A context manager.
    """

    def __cinit__(self, buffers: int = 16, size: int = 65536, *, arena: Arena | None = None, debug: bool = False):
        self.timeout_ns = -1
        memset(&self.p, 0, sizeof(pagepipe))
        self.arena = Arena() if arena is None else arena
        check_bounds(buffers, size)
        check(pagepipe_init(&self.p, self.arena.a, buffers, size))
        if not debug:
            return
        check(min(0, cow_start(FAULT_NONE)), "no means to notice writes")
        self.log = gift_log_create()
        if self.log == NULL:
            raise MemoryError

    def __dealloc__(self):
        pagepipe_fini(&self.p)
        if self.log != NULL:
            gift_log_unref(self.log)
        drain()

    # --- what it has

    @property
    def buffers(self) -> int:
        """References that it has room for."""
        return self.p.capacity

    @property
    def size(self) -> int:
        """Bytes that it has room for."""
        return self.p.limit

    @property
    def used(self) -> int:
        """References that are in it."""
        return self.p.count

    def __len__(self) -> int:
        """Bytes that are in it."""
        return self.p.bytes

    def __bool__(self) -> bool:
        """Always true, though empty."""
        return True

    @property
    def debug(self) -> bool:
        """Whether gifts are watched."""
        return self.log != NULL

    @property
    def touched(self) -> int:
        """With ``debug``: pages that were written to after they had been given away."""
        return self.log.pages if self.log != NULL else 0

    @property
    def closed(self) -> bool:
        """Whether both ends are closed."""
        return self.p.no_readers and self.p.no_writers

    def ledger(self) -> dict[str, tuple[int, int]]:
        """Bytes copied, by the reasons of ``ustack.ledger_meanings()``: (bytes, calls), since its arena was made."""
        return self.arena.ledger()

    def resize(self, buffers: int | None = None, size: int | None = None) -> None:
        """Other bounds. OSError: EBUSY when more is in it, EINVAL."""
        cdef long long n = self.p.limit if size is None else size
        cdef long long k = self.p.capacity if buffers is None else buffers
        check_bounds(k, n)
        check(pagepipe_resize(&self.p, k, n), "more than that is in the pipe")

    def gettimeout(self) -> float | None:
        """Seconds that a call may wait; None: no limit."""
        return None if self.timeout_ns < 0 else self.timeout_ns / 1e9

    def settimeout(self, value: float | None) -> None:
        """Set it. Who waited so long gets TimeoutError; with 0, who would wait gets BlockingIOError."""
        if value is not None and not value >= 0:
            raise ValueError("a time-out is a number of seconds from 0 on, or None")
        self.timeout_ns = -1 if value is None else <long long>min(value * 1e9, 9e18)

    cdef ns_t deadline(self, int flags):
        if flags & F_NONBLOCK or self.timeout_ns == 0:
            return NO_WAIT
        return NS_NEVER if self.timeout_ns < 0 else min(NS_NEVER - clock_now(), self.timeout_ns) + clock_now()

    cdef int enter(self, int flags) except -1:
        check_flags(flags)
        drain()
        return self.tell()

    cdef int tell(self) except -1:
        cdef int pages = self.log.pages if self.log != NULL else 0
        if pages == self.told:
            return 0
        self.told = pages
        raise RuntimeError(f"{pages} page(s) were written to after they had been given away, the first of them at "
                           f"{<uintptr_t>self.log.first:#x}")

    # --- in

    def vmsplice(self, buffers, int flags=0, given_back=None) -> int:
        """Put references to memory into the pipe: a buffer, or several. Returns how many bytes of them are in it.

        Waits for room for the first; what more has room goes with it, so the number may be less than all. The memory
        is not to be written to, and is held (a bytearray cannot be resized), until nobody needs it any more; then
        ``given_back()`` is called once, as the free functions of ``ustack.buffers`` are, if anything was taken.

        flags: SPLICE_F_GIFT gives whole pages away for good (EINVAL if a buffer does not begin and end at pages);
        SPLICE_F_NONBLOCK raises BlockingIOError instead of waiting; SPLICE_F_MORE and SPLICE_F_MOVE do nothing.
        Mappings of files are copied: somebody may cut the file. OSError: EPIPE if the reading end is closed, EFAULT.
        """
        self.enter(flags)
        return self.map_all(parts_of(buffers), flags, self.deadline(flags), given_back)

    cdef Py_ssize_t map_all(self, list parts, int flags, ns_t deadline, given_back) except -1:
        """Wait for the first of them."""
        cdef _GivenBack whole = None if given_back is None else _GivenBack(given_back)
        cdef Py_ssize_t moved = 0, got, n
        lengths = [check_part(part, flags) for part in parts]
        try:
            for part, n in zip(parts, lengths):
                got = self.map_in(part, n, flags, deadline, whole) if n else 0
                moved += got
                if got < n:
                    break
                if moved:
                    deadline = NO_WAIT
        except OSError:
            if not moved:
                raise
        finally:
            if whole is not None:
                if not moved:
                    whole.callback = None
                give(whole)
        return moved

    cdef Py_ssize_t wait_for_room(self, size_t least, ns_t deadline) except -1:
        cdef int64_t room
        while True:
            room = pagepipe_room(&self.p, least)
            if room < 0:
                fail(<int>room, "nobody reads from the pipe" if room == -EPIPE else "the writing end is closed")
            if room > 0:
                return room
            wait_for(&self.p, PAGEPIPE_WRITE, least, deadline)

    cdef Py_ssize_t map_in(self, part, Py_ssize_t n, int flags, ns_t deadline, _GivenBack whole) except -1:
        """As much of a buffer as there is room for, at least a byte or a page."""
        cdef bint gift = flags & F_GIFT != 0
        cdef size_t least = page_size() if gift else 1
        cdef int64_t got = 0
        cdef mblk *m
        cdef Py_ssize_t room
        while got == 0:
            room = self.wait_for_room(least, deadline)
            if room > n:
                room = n
            room -= room % <Py_ssize_t>least
            m = self.refer(part, room, gift, whole)
            if m == NULL:
                return self.copy_in(part, n, deadline)
            got = pagepipe_put(&self.p, &m, gift)
            if m != NULL:
                release_block(m)
        if got < 0:
            fail(<int>got)
        return got

    cdef mblk *refer(self, part, Py_ssize_t n, bint gift, _GivenBack whole) except? NULL:
        """A block on the first n bytes, with its pages at hand. NULL: memory that may go, to be copied."""
        cdef mblk *m
        cdef bint frozen
        cdef int r = 0
        if whole is not None:
            whole.out += 1
        try:
            m = lend(self.arena.a, part, whole, True)
        except BaseException:
            if whole is not None:
                whole.out -= 1
            raise
        frozen = m.dp.flags & DB_READONLY
        m.wptr = m.rptr + n
        m.pkt_len = n
        m.dp.flags |= DB_READONLY
        m.dp.truesize = STORAGE
        if memory_known(m.rptr, n) != MEMORY_PINNED:
            if may_vanish(part, m.rptr, n):
                release_block(m)
                return NULL
            with nogil:
                r = direct_bring_in(m.rptr, n)
        if r == 0 and gift and self.log != NULL and not frozen:
            return self.watch(m, n)
        if r != 0:
            release_block(m)
            fail(r, "this memory cannot be read" if r == -EFAULT else None)
        return m

    cdef mblk *watch(self, mblk *keeper, Py_ssize_t n) except NULL:
        """A block on given memory that keeps an eye on it. keeper is taken."""
        cdef int r = cow_start(FAULT_NONE)
        cdef mblk *m = NULL
        if r > 0:
            with nogil:
                m = gift_watch(self.log, self.arena.a, keeper.rptr, n, keeper, &r)
        if m == NULL:
            release_block(keeper)
            fail(r, "the memory cannot be watched")
        m.dp.truesize = STORAGE
        return m

    cdef Py_ssize_t copy_in(self, part, Py_ssize_t n, ns_t deadline) except -1:
        from ustack._core.py.transfers import Transfer
        wait = -1 if deadline == NS_NEVER else 0 if deadline == NO_WAIT else max(0, deadline - clock_now())
        return Transfer(None, self, data=part, guarded=True, timeout_ns=wait, brief=True).run()

    # --- out

    cdef mblk *look(self, Py_ssize_t n, ns_t deadline) except? NULL:
        """Begin to read: windows on at most n bytes; NULL at the end. After anything else, end."""
        cdef int64_t there
        cdef mblk *m
        while True:
            there = pagepipe_begin(&self.p)
            if there == 0:
                return NULL
            if there != -EAGAIN:
                break
            wait_for(&self.p, PAGEPIPE_READ, 0, deadline)
        if there < 0:
            fail(<int>there, "the reading end is closed")
        m = pagepipe_look(&self.p, n)
        if m == NULL:
            pagepipe_end(&self.p, 0)
            fail(-ENOBUFS)
        return m

    cdef Py_ssize_t copy_out(self, mblk *m, uint8_t *to, Py_ssize_t n, bint guarded, bint peek) except -1:
        """The n bytes that were looked at, which are gone then unless it is to peek. EIO: a file has lost them."""
        cdef Py_ssize_t got
        cdef bint intact
        with nogil:
            if guarded:
                got = msgcopyout_guarded(&self.arena.book, LR_RX_COPY, m, 0, to, n)
            else:
                got = msgcopyout(&self.arena.book, LR_RX_COPY, m, 0, to, n)
            intact = msg_intact(m)
            freemsg(m)
            pagepipe_end(&self.p, got if intact and not peek else 0)
        if not intact:
            fail(-EIO, "a file was cut whose pages are in the pipe")
        if got == 0:
            fail(-EFAULT, "a mapped file was cut")
        return got

    def vmsplice_into(self, buffers, int flags=0) -> int:
        """Copy bytes out of the pipe into memory, a buffer or several (rx.copy); how many, 0 at the end.

        Waits for the first bytes, and takes what there is. flags: SPLICE_F_NONBLOCK as for ``vmsplice``; others do
        nothing. OSError: EIO if a file was cut whose pages are in the pipe, EFAULT if the target is such a file.
        """
        cdef Py_ssize_t moved = 0, got
        cdef ns_t deadline
        cdef Py_buffer b
        self.enter(flags)
        deadline = self.deadline(flags)
        for part in parts_of(buffers):
            PyObject_GetBuffer(part, &b, PyBUF_SIMPLE | PyBUF_WRITABLE)
            try:
                got = self.fill(part, &b, NO_WAIT if moved else deadline, False) if b.len else 0
            except OSError:
                if not moved:
                    raise
                break
            finally:
                PyBuffer_Release(&b)
            moved += got
            if got < b.len:
                break
        drain()
        return moved

    cdef Py_ssize_t fill(self, part, Py_buffer *b, ns_t deadline, bint peek) except -1:
        """As much of a buffer as the pipe has bytes, or (peek) as the first references have; 0 at its end."""
        cdef bint guarded = may_vanish(part, b.buf, b.len)
        cdef Py_ssize_t done = 0, got, n
        cdef mblk *m
        if guarded:
            check(guard_install())
        while done < b.len and (done == 0 or self.p.bytes):
            try:
                m = self.look(b.len - done, deadline)
                if m == NULL:
                    break
                n = msgbytes(m)
                got = self.copy_out(m, <uint8_t *>b.buf + done, n, guarded, peek)
            except OSError:
                if not done:
                    raise
                break
            done += got
            if peek or got < n:
                break
            deadline = NO_WAIT
        return done

    def read(self, Py_ssize_t n=-1) -> bytes:
        """At most n bytes (-1: what there is), copied (rx.copy); b"" at the end. Waits for the first."""
        cdef mblk *m
        cdef Py_ssize_t there
        self.enter(0)
        m = self.look(<Py_ssize_t>self.p.limit if n < 0 else n, self.deadline(0)) if n else NULL
        if m == NULL:
            return b""
        there = msgbytes(m)
        try:
            got = PyBytes_FromStringAndSize(NULL, there)
        except MemoryError:
            freemsg(m)
            pagepipe_end(&self.p, 0)
            raise
        self.copy_out(m, <uint8_t *>PyBytes_AS_STRING(got), there, False, False)
        drain()
        return got

    def take(self, Py_ssize_t n=-1, int flags=0) -> list:
        """References to at most n bytes (-1: all), out of the pipe: a list of ``ustack.buffers.Mblk``, read-only and
        not copied; empty at the end. Waits for the first."""
        cdef mblk *m
        cdef mblk *rest
        self.enter(flags)
        if n == 0:
            return []
        m = self.look(<Py_ssize_t>self.p.limit if n < 0 else n, self.deadline(flags))
        if m != NULL:
            pagepipe_end(&self.p, msgbytes(m))
        blocks = []
        while m != NULL:
            rest = m.cont
            m.cont = NULL
            blocks.append(wrap_mblk(m, self.arena.a))
            m = rest
        return blocks

    # --- ends

    def close_write(self) -> None:
        """Nothing more goes in (EBADF); who reads gets what is in it, then the end."""
        pagepipe_close(&self.p, True, False)

    def close_read(self) -> None:
        """Nothing more comes out (EBADF), what is in it is given back; who writes gets EPIPE."""
        self.end(False)

    def close(self) -> None:
        """Both ends. What is in it is given back at once. May be called twice."""
        self.end(True)
        self.tell()

    cdef int end(self, bint writers) except -1:
        pagepipe_close(&self.p, writers, True)
        return drain()

    def __enter__(self) -> PagePipe:
        return self

    def __exit__(self, *exc) -> None:
        self.end(True)
        if exc[0] is None:
            self.tell()

    def __repr__(self) -> str:
        return (f"<ustack.PagePipe {self.p.count} of {self.p.capacity} references, {self.p.bytes} of {self.p.limit} "
                f"bytes{', closed' if self.closed else ''}>")


cdef list parts_of(buffers):
    return [buffers] if PyObject_CheckBuffer(buffers) else list(buffers)


cdef int check_bounds(long long buffers, long long size) except -1:
    if not 1 <= buffers <= PAGEPIPE_BUFFERS or size < 1 or size > 0x7FFFFFFF or size % <long long>page_size():
        fail(-EINVAL, f"a pipe has 1 to {PAGEPIPE_BUFFERS} buffers, and whole pages of bytes")
    return 0


cdef Py_ssize_t check_part(part, int flags) except -1:
    """Its length; EINVAL for a gift that is not whole pages."""
    cdef Py_buffer b
    cdef Py_ssize_t n
    PyObject_GetBuffer(part, &b, PyBUF_SIMPLE)
    n = b.len
    PyBuffer_Release(&b)
    if flags & F_GIFT and (n % <Py_ssize_t>page_size() or <uintptr_t>b.buf % page_size()):
        fail(-EINVAL, "what is given away are whole pages")
    return n


# --- for splices to and from what only Python knows -----------------------------------------------------------------
cdef ns_t within(long long timeout_ns) noexcept:
    return NO_WAIT if timeout_ns <= 0 else clock_now() + timeout_ns


def pull_into(PagePipe pipe not None, target, long long timeout_ns, bint peek=False) -> int:
    """As ``vmsplice_into``, whatever the pipe's own time-out: TimeoutError after so many nanoseconds, of 0
    BlockingIOError. peek: what was copied stays in the pipe."""
    cdef Py_buffer b
    pipe.enter(0)
    PyObject_GetBuffer(target, &b, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        return pipe.fill(target, &b, within(timeout_ns), peek)
    finally:
        PyBuffer_Release(&b)
        drain()


def push_from(PagePipe pipe not None, data, long long timeout_ns, given_back) -> int:
    """As ``vmsplice`` of one buffer, with a time-out as above."""
    pipe.enter(0)
    return pipe.map_all([data], 0, within(timeout_ns), given_back)
