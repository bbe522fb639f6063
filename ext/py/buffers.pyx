"""Regions, arenas and message blocks for Python: handles on the structures of the room ``mem``.

A ``Mblk`` owns one block. The blocks of a message hold each other: the handle of a block keeps the handle of
the next. The C functions see the same chain; where they free blocks, ``sync`` tells the handles.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uintptr_t
from libc.stdlib cimport free as c_free
from libc.stdlib cimport malloc
from libc.string cimport memset

from typing import NamedTuple

from ustack._core.base.ledger cimport LR_COUNT, ledger, ledger_name
from ustack._core.base.types cimport (
    atomic_casp, atomic_load32, atomic_loadp, atomic_store32, atomic_swap32, atomic_swapp,
)
cimport ustack._core.mem.mblk as mb
from ustack._core.mem.arena cimport arena as c_arena
from ustack._core.mem.arena cimport (
    ARENA_CLASSES, arena_create, arena_live, arena_reap, arena_ref, arena_release, arena_unref,
)
from ustack._core.mem.mblk cimport DB_EXTERNAL, M_DATA, M_PROTO, dblk, mblk, mblk_len
from ustack._core.mem.pool cimport pool, pool_region_of
from ustack._core.mem.region cimport REGION_HUGE, REGION_LOCKED, region, region_create
from ustack._core.mem.share cimport REGION_PEERS, region_publish, region_retire

cdef extern from "Python.h":
    # Here with plain pointers: Cython is to add no exception handling of its own around them.
    PyObject *PyObject_CallNoArgs(PyObject *callback) noexcept
    void PyErr_WriteUnraisable(PyObject *where) noexcept
    void PyErr_Fetch(PyObject **kind, PyObject **value, PyObject **trace) noexcept
    void PyErr_Restore(PyObject *kind, PyObject *value, PyObject *trace) noexcept
    void Py_XDECREF(PyObject *o) noexcept
    int Py_AddPendingCall(int (*func)(void *) noexcept, void *arg) noexcept nogil
    int Py_IsInitialized() noexcept nogil

M_DATA_ = M_DATA
M_PROTO_ = M_PROTO

cdef char *BYTES_FORMAT = b"B"


# --- what waits for the GIL -------------------------------------------------------------------------------
cdef struct loan:
    loan *following
    Py_buffer view
    PyObject *callback
    bint at_once                # desballoc: in the call that dropped the last reference

cdef loan *waiting = NULL       # atomic stack
cdef loan *waiting_at_once = NULL
cdef int32_t scheduled = 0      # a pending call is on its way
cdef int32_t reap_wanted = 0    # some arena of ours has external storage to reap
cdef set arenas = set()         # addresses of the arenas that Python owns


cdef int run_pending(void *arg) noexcept:
    atomic_store32(&scheduled, 0)
    try:
        drain_slowly()
    except BaseException:
        return -1
    return 0


cdef void schedule() noexcept nogil:
    """Have the interpreter call drain soon; many requests make one call."""
    if atomic_swap32(&scheduled, 1):
        return
    if not Py_IsInitialized() or Py_AddPendingCall(run_pending, NULL) < 0:
        # The interpreter's queue is full: the next call into the library drains.
        atomic_store32(&scheduled, 0)


cdef void push(loan **head, loan *one) noexcept nogil:
    cdef void *old
    while True:
        old = atomic_loadp(head)
        one.following = <loan *>old
        if atomic_casp(head, old, one):
            return


cdef void loan_over(void *arg) noexcept nogil:
    """The free function of lent Python memory: any thread, no GIL."""
    cdef loan *one = <loan *>arg
    push(&waiting_at_once if one.at_once else &waiting, one)
    schedule()


cdef void given_back(void *arg) noexcept nogil:
    """What is left to do of a loan that release_block has given back."""


cdef void wants_reap(void *arg) noexcept nogil:
    atomic_store32(&reap_wanted, 1)
    schedule()


cdef void give_back(loan *one) noexcept:
    """Release the exporter, call the user's function. Its exceptions go to sys.unraisablehook."""
    cdef PyObject *callback = one.callback
    cdef PyObject *result
    PyBuffer_Release(&one.view)
    c_free(one)
    if callback != NULL:
        result = PyObject_CallNoArgs(callback)
        if result == NULL:
            PyErr_WriteUnraisable(callback)
        Py_XDECREF(result)
        Py_XDECREF(callback)


cdef void run_loans(loan **head) noexcept:
    """Also with an exception on its way, which it leaves alone: it runs when views and blocks are dropped."""
    cdef loan *one = <loan *>atomic_swapp(head, NULL)
    cdef loan *first = NULL
    cdef loan *following
    cdef PyObject *kind
    cdef PyObject *value
    cdef PyObject *trace
    if one == NULL:
        return
    while one != NULL:
        following = one.following
        one.following = first
        first = one
        one = following
    PyErr_Fetch(&kind, &value, &trace)
    while first != NULL:
        following = first.following
        give_back(first)
        first = following
    PyErr_Restore(kind, value, trace)


cdef int drain_slowly() except -1:
    if atomic_swap32(&reap_wanted, 0):
        for address in list(arenas):
            reap_now(<c_arena *><uintptr_t>address)
    run_loans(&waiting_at_once)
    run_loans(&waiting)
    return 0


cdef int drain() except -1:
    if waiting != NULL or waiting_at_once != NULL or reap_wanted:
        drain_slowly()
    return 0


cdef void reap_now(c_arena *a) noexcept nogil:
    arena_ref(a)
    arena_reap(a)
    arena_unref(a)


cdef mblk *lend_buffer(c_arena *a, object exporter, object free) except NULL:
    return lend(a, exporter, free, False)


cdef mblk *lend(c_arena *a, object exporter, object free, bint at_once) except NULL:
    cdef loan *one = <loan *>malloc(sizeof(loan))
    cdef mblk *m
    if one == NULL:
        raise MemoryError
    try:
        try:
            PyObject_GetBuffer(exporter, &one.view, PyBUF_WRITABLE)
        except (BufferError, TypeError):
            PyObject_GetBuffer(exporter, &one.view, PyBUF_SIMPLE)
    except BaseException:
        c_free(one)
        raise
    m = mb.esballoc(a, one.view.buf, one.view.len, loan_over, one)
    if m == NULL:
        PyBuffer_Release(&one.view)
        c_free(one)
        raise MemoryError("no memory for a block on external storage (at most 4 GiB - 1 each)")
    if one.view.readonly:
        m.dp.flags |= mb.DB_READONLY
    one.callback = NULL
    one.at_once = at_once
    if free is not None:
        Py_INCREF(free)
        one.callback = <PyObject *>free
    return m


# --- regions ----------------------------------------------------------------------------------------------
@cython.final
cdef class Region:
    """Contiguous memory of its own, in a memory file where the system has them: to be shared, pinned, and
    lent.

    ``length`` is in bytes and rounded up to whole pages. ``locked`` and ``huge`` are wishes: without the
    right or the pages, ordinary memory is given, and the attributes say so. ``peers``: whoever is at the other side of
    a ``SharedMemory`` link may write to all of it, and read it, from the first posted receive into it on, and for as
    long as it exists: what a receive needs whose payload the device puts in its place. A writable buffer; views on it
    keep it.
    """

    cdef region *r

    def __cinit__(self, length: int, *, locked: bool = False, huge: bool = False, peers: bool = False):
        cdef int err = 0
        cdef uint32_t flags = (REGION_LOCKED if locked else 0) | (REGION_HUGE if huge else 0)
        if length <= 0:
            raise ValueError("a region has at least one byte")
        self.r = region_create(length, flags, &err)
        if self.r == NULL:
            raise OSError(-err, f"no region of {length} bytes")
        if peers:
            self.r.flags |= REGION_PEERS
        region_publish(self.r)      # so that a device can be told of it; not so where it has no memory file

    def __dealloc__(self):
        if self.r != NULL:
            region_retire(self.r)

    def __getbuffer__(self, Py_buffer *view, int flags):
        fill(view, self, self.r.base, self.r.length, False, flags, <Py_ssize_t *>&self.r.length)

    def __len__(self) -> int:
        return self.r.length

    def fileno(self) -> int:
        """The memory file's descriptor, owned by the region; OSError where it has none."""
        if self.r.fd < 0:
            raise OSError("this region is anonymous memory: the system gave no memory file")
        return self.r.fd

    @property
    def id(self) -> int:
        """A number that no other region of this process has or had."""
        return self.r.id

    @property
    def address(self) -> int:
        """Where it begins in this process."""
        return <uintptr_t>self.r.base

    @property
    def locked(self) -> bool:
        """Whether its pages are pinned."""
        return self.r.flags & REGION_LOCKED != 0

    @property
    def huge(self) -> bool:
        """Whether it was given huge pages, or the advice to use them."""
        return self.r.flags & REGION_HUGE != 0

    @property
    def peers(self) -> bool:
        """Whether the other sides of links may write to it."""
        return self.r.flags & REGION_PEERS != 0


cdef void fill(Py_buffer *view, object owner, void *at, Py_ssize_t n, bint readonly, int flags,
               Py_ssize_t *shape):
    view.buf = at
    view.obj = owner
    view.len = n
    view.itemsize = 1
    view.readonly = readonly
    view.ndim = 1
    view.format = BYTES_FORMAT if flags & PyBUF_FORMAT == PyBUF_FORMAT else NULL
    view.shape = shape if flags & PyBUF_ND == PyBUF_ND else NULL
    view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
    view.suboffsets = NULL
    view.internal = NULL


# --- arenas -----------------------------------------------------------------------------------------------
class PoolStats(NamedTuple):
    """Equal buffers of one size: bytes of each, how many there are, how many are free, and how it was
    used."""

    size: int
    total: int
    free: int
    takes: int
    misses: int
    regions: int


cdef class Arena:
    """The memory of one owner: pools of buffers by size, and a budget in bytes (0: none) for what is handed
    out.

    Blocks keep their arena's memory: it may be dropped before them.
    """

    def __cinit__(self, budget: int = 0):
        if budget < 0:
            raise ValueError("the budget is a number of bytes; 0 means no bound")
        memset(&self.book, 0, sizeof(ledger))
        self.a = arena_create(budget, &self.book)
        if self.a == NULL:
            raise MemoryError
        self.a.on_reap = wants_reap
        arenas.add(<uintptr_t>self.a)

    def __dealloc__(self):
        if self.a != NULL:
            arenas.discard(<uintptr_t>self.a)
            self.a.on_reap = NULL
            arena_reap(self.a)
            arena_release(self.a)

    @property
    def budget(self) -> int:
        """Bytes of storage that may be out at once; 0: no bound."""
        return self.a.budget

    @budget.setter
    def budget(self, value: int) -> None:
        if value < 0:
            raise ValueError("the budget is a number of bytes; 0 means no bound")
        self.a.budget = value

    @property
    def held(self) -> int:
        """Bytes of storage that are out, each block counted with its whole buffer."""
        return self.a.held

    @property
    def reserved(self) -> int:
        """Bytes obtained from the system for buffers."""
        return self.a.reserved

    @property
    def failures(self) -> int:
        """Allocations refused, at the budget or without memory."""
        return self.a.failures

    @property
    def live(self) -> int:
        """Blocks and storage that are out or wait for their free function: 0 when nothing leaks."""
        return arena_live(self.a)

    def pools(self) -> list[PoolStats]:
        """The pools, smallest buffers first."""
        cdef pool *p
        cdef int i
        result = []
        for i in range(ARENA_CLASSES):
            p = self.a.classes[i]
            result.append(PoolStats(p.size, p.total, p.free, p.takes, p.misses, p.nregions))
        return result

    def ledger(self) -> dict[str, tuple[int, int]]:
        """Payload bytes that were copied or summed so far: reason -> (bytes, calls), where there were any."""
        cdef int i
        return {ledger_name(i).decode(): (self.book.nbytes[i], self.book.ncalls[i])
                for i in range(LR_COUNT) if self.book.ncalls[i]}

    def reap(self) -> int:
        """Give back external storage whose last reference is gone, now. Returns how many blocks' worth."""
        cdef int n = arena_reap(self.a)
        drain_slowly()
        return n


cdef Arena common = Arena()


def default_arena() -> Arena:
    """The arena that the functions of this module use when none is given."""
    return common


cdef Arena chosen(object a):
    return common if a is None else <Arena?>a


# --- blocks -----------------------------------------------------------------------------------------------
@cython.no_gc_clear
@cython.trashcan(True)
@cython.freelist(64)
cdef class Mblk:
    """A message block: the window [rptr, wptr) on storage that other blocks may share (STREAMS' mblk).

    Made by ``allocb``, ``esballoc``, ``msgcopyin`` and by sockets that lend what they received. A buffer: its
    bytes are the window, writable while nobody else holds the storage. Views keep the storage, also after
    ``freeb``; each counts as a reference in ``db_ref``. Iterating gives the blocks of the message.
    Threads: one message is used by one thread at a time; blocks that share storage may be used by many.
    """

    def __init__(self):
        raise TypeError("blocks are made by allocb, esballoc and msgcopyin")

    def __dealloc__(self):
        cdef mblk *m = self.m
        if m != NULL:
            self.m = NULL
            release_block(m)

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef mblk *m = alive(self)
        cdef bint readonly = not exclusive(self)
        if readonly and flags & PyBUF_WRITABLE:
            raise BufferError("the block's storage is shared or read-only: copyb gives a writable block")
        if not readonly:
            m.dp.stride = 0         # who holds a writable view may make the cached sums wrong
        self.shape[0] = mblk_len(m)
        fill(view, self, m.rptr, mblk_len(m), readonly, flags, NULL)
        # The window may move while views exist: each view has its own shape.
        view.shape = &view.len if flags & PyBUF_ND == PyBUF_ND else NULL
        view.internal = m.dp
        mb.dblk_ref(m.dp)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        cdef dblk *d = <dblk *>view.internal
        cdef c_arena *a = d.owner
        if self.m != NULL and self.m.dp == d:
            self.exports -= 1
        arena_ref(a)
        mb.dblk_unref(d)
        arena_reap(a)
        arena_unref(a)
        run_loans(&waiting_at_once)

    def __len__(self) -> int:
        return mblk_len(alive(self))

    def __iter__(self):
        cdef Mblk b = self
        while b is not None:
            alive(b)
            yield b
            b = b.follower

    def __repr__(self) -> str:
        if self.m == NULL:
            return "<Mblk, freed>"
        return (f"<Mblk [{self.rptr}, {self.wptr}) of {self.size} bytes, {self.db_ref} reference(s)"
                f"{', and more blocks' if self.follower is not None else ''}>")

    @property
    def freed(self) -> bool:
        """Whether the block was freed; then every other use raises ValueError."""
        return self.m == NULL

    @property
    def rptr(self) -> int:
        """Where the data begins, in bytes from the beginning of the storage."""
        return alive(self).rptr - self.m.dp.base

    @rptr.setter
    def rptr(self, value: int) -> None:
        if not 0 <= value <= self.wptr:
            raise ValueError(f"rptr lies between 0 and wptr ({self.wptr})")
        self.m.rptr = self.m.dp.base + <size_t>value

    @property
    def wptr(self) -> int:
        """Where the data ends, in bytes from the beginning of the storage."""
        return alive(self).wptr - self.m.dp.base

    @wptr.setter
    def wptr(self, value: int) -> None:
        if not self.rptr <= value <= self.size:
            raise ValueError(f"wptr lies between rptr ({self.rptr}) and the storage's size ({self.size})")
        self.m.wptr = self.m.dp.base + <size_t>value

    @property
    def size(self) -> int:
        """Bytes of the storage (db_lim - db_base)."""
        return alive(self).dp.lim - self.m.dp.base

    @property
    def headroom(self) -> int:
        """Bytes of the storage in front of the data."""
        return self.rptr

    @property
    def tailroom(self) -> int:
        """Bytes of the storage behind the data."""
        return alive(self).dp.lim - self.m.wptr

    @property
    def truesize(self) -> int:
        """Bytes of memory that are held for this block: what queues charge."""
        return alive(self).dp.truesize

    @property
    def cont(self) -> Mblk | None:
        """The next block of the message."""
        alive(self)
        return self.follower

    @property
    def db_ref(self) -> int:
        """How many blocks and views hold the storage."""
        return atomic_load32(&alive(self).dp.refs)

    @property
    def ref_limit(self) -> int:
        """References beyond which dupb refuses; 0: no limit. STREAMS has 255."""
        return alive(self).dp.ref_limit

    @ref_limit.setter
    def ref_limit(self, value: int) -> None:
        if not 0 <= value <= 65535:
            raise ValueError("a reference limit lies between 0 (none) and 65535")
        alive(self).dp.ref_limit = value

    @property
    def db_type(self) -> int:
        """M_DATA or M_PROTO; other numbers up to 255 are the user's."""
        return alive(self).dp.type

    @db_type.setter
    def db_type(self, value: int) -> None:
        if not 0 <= value <= 255:
            raise ValueError("a block's type lies between 0 and 255")
        alive(self).dp.type = value

    @property
    def writable(self) -> bool:
        """Whether views are writable: nobody else holds the storage, and it is not read-only."""
        alive(self)
        return exclusive(self)

    @property
    def external(self) -> bool:
        """Whether the storage is somebody else's (esballoc)."""
        return alive(self).dp.flags & DB_EXTERNAL != 0

    @property
    def address(self) -> int:
        """Address of the first data byte in this process."""
        return <uintptr_t>alive(self).rptr

    @property
    def region_id(self) -> int | None:
        """The region that the storage lies in; None for external storage."""
        cdef dblk *d = alive(self).dp
        cdef region *r = NULL
        if d.home != NULL:
            r = pool_region_of(d.home, d.base)
        elif not d.flags & DB_EXTERNAL:
            r = <region *>d.arg
        return None if r == NULL else r.id


cdef bint exclusive(Mblk b) noexcept:
    return not b.lent and b.m.dp.refs == 1 + b.exports and not b.m.dp.flags & mb.DB_READONLY


cdef mblk *alive(Mblk b) except NULL:
    if b is None:
        raise TypeError("a block is needed, not None")
    if b.m == NULL:
        raise ValueError("this block was freed")
    return b.m


cdef mblk *head_of_message(Mblk b) except NULL:
    alive(b)
    if b.linked:
        raise ValueError("the block is inside a message: use its first block, or rmvb this one first")
    return b.m


cdef void release_block(mblk *m) noexcept:
    """Free one block, and give back what that sets free. Memory that was lent at once, and that nobody else has, is
    given back when this returns, whoever is reaping at the moment."""
    cdef c_arena *a = m.dp.owner
    cdef dblk *d = m.dp
    cdef loan *ours = NULL
    if d.flags & DB_EXTERNAL and d.fn == loan_over and (<loan *>d.arg).at_once and atomic_load32(&d.refs) == 1:
        ours = <loan *>d.arg
        d.fn = given_back
    arena_ref(a)
    mb.freeb(m)
    arena_reap(a)
    arena_unref(a)
    if ours != NULL:
        push(&waiting_at_once, ours)
    run_loans(&waiting_at_once)


cdef Mblk handle(mblk *m):
    cdef Mblk b = Mblk.__new__(Mblk)
    b.m = m
    return b


cdef Mblk sync(mblk *m, dict known):
    """Handles for the chain m: those in ``known`` (address -> handle) again where they exist. The first one.

    If it raises, no new handle owns anything yet.
    The handles in ``known`` that were met are taken out; the others' blocks are elsewhere or freed.
    """
    cdef Mblk first = None
    cdef Mblk before = None
    cdef Mblk b
    cdef mblk *at = m
    cdef list new = []
    while at != NULL:
        if <uintptr_t>at not in known:
            new.append(Mblk.__new__(Mblk))
        at = at.cont
    while m != NULL:
        b = known.pop(<uintptr_t>m, None)
        if b is None:
            b = new.pop()
            b.m = m
        b.follower = None
        b.linked = before is not None
        if before is None:
            first = b
        else:
            before.follower = b
        before = b
        m = m.cont
    return first


cdef dict handles(Mblk b):
    cdef dict known = {}
    while b is not None:
        known[<uintptr_t>alive(b)] = b
        b = b.follower
    return known


cdef void forget(dict known):
    """The C side has freed the blocks of these handles."""
    cdef Mblk b
    for b in known.values():
        b.m = NULL
        b.follower = None
        b.linked = False
        b.exports = 0


cdef Mblk new_message(mblk *m, str what):
    """The handle of a message that the C side has made, or has not for want of memory."""
    if m == NULL:
        raise MemoryError(f"no memory for {what}: the arena's budget is used up, or the system's memory")
    return own_message(m)


cdef Mblk own_message(mblk *taken):
    cdef Mblk first = None
    try:
        first = sync(taken, {})
    finally:
        if first is None:
            mb.freemsg(taken)
    return first


cdef Mblk wrap_mblk(mblk *taken, c_arena *a):
    cdef Mblk first = own_message(taken)
    cdef Mblk b = first
    while b is not None:
        b.lent = True
        b = b.follower
    return first


cdef void attach(Mblk last, Mblk tail):
    last.m.cont = tail.m
    last.follower = tail
    tail.linked = True


cdef list owners(dict known):
    """Hold the arenas whose storage a call may set free."""
    cdef Mblk b
    cdef set found = set()
    for b in known.values():
        found.add(<uintptr_t>b.m.dp.owner)
    for address in found:
        arena_ref(<c_arena *><uintptr_t>address)
    return list(found)


cdef void unhold(list addresses):
    cdef c_arena *a
    for address in addresses:
        a = <c_arena *><uintptr_t>address
        arena_reap(a)
        arena_unref(a)
    run_loans(&waiting_at_once)


cdef void after_frees(Mblk b, dict known, list held):
    """The C side may have freed blocks behind b, but not b."""
    cdef bint linked = b.linked
    sync(b.m, known)
    b.linked = linked
    forget(known)
    unhold(held)
