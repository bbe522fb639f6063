"""Fbufs and aggregates of them: handles on the room ``zerocopy``. Channels and pools: ``fbchannels``.

A handle is a window on a buffer: several may share one, and the buffer is free when the last is. What was sent is lost:
every further use raises.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.string cimport memcpy

from ustack._core.base.ledger cimport LR_COUNT, LR_RX_COPY, LR_TX_COPY, ledger_book, ledger_name
from ustack._core.mem.mblk cimport mblk
from ustack._core.py.buffers cimport Arena, chosen, lend_buffer, wrap_mblk
from ustack._core.sys.memory cimport PROT_READ
from ustack._core.zerocopy.fbchannel cimport fbchannel, fbchannel_drop, fbchannel_ref, fbchannel_unref
from ustack._core.zerocopy.fbpool cimport (
    FB_OWNED, FB_VOLATILE, fbpool, fbpool_at, fbpool_drop, fbpool_ref, fbpool_unref)

cdef char *BYTES_FORMAT = b"B"


class FbufLost(ValueError):
    """The fbuf was sent, freed or moved: it is not this program's any more."""


def fbuf_ledger() -> dict[str, tuple[int, int]]:
    """Bytes that this process copied into fbufs and out of them, by reason: (bytes, times). Handing over books
    nothing."""
    return {ledger_name(i).decode(): (book.nbytes[i], book.ncalls[i]) for i in range(LR_COUNT) if book.ncalls[i]}


@cython.final
@cython.freelist(64)
cdef class Hold:
    def __dealloc__(self):
        if self.p != NULL:
            fbpool_drop(self.p, self.id)
            fbpool_unref(self.p)
        elif self.c != NULL:
            fbchannel_drop(self.c, self.n, self.id)
            fbchannel_unref(self.c)

    cdef uint8_t *base(self) noexcept:
        if self.c != NULL:
            return self.c.got[self.n].mem.base + <size_t>self.id * self.c.got[self.n].size
        return fbpool_at(self.p, self.id) if self.p.mem.base != NULL else NULL

    cdef uint32_t size(self) noexcept:
        return <uint32_t>(self.p.size if self.p != NULL else self.c.got[self.n].size)


cdef Fbuf own_fbuf(fbpool *p, uint32_t id, uint32_t offset, uint32_t length):
    cdef Hold h = Hold.__new__(Hold)
    h.p = p
    h.id = id
    fbpool_ref(p)
    return window(h, offset, length)


cdef Fbuf received_fbuf(fbchannel *c, uint32_t n, uint32_t id, uint32_t offset, uint32_t length):
    cdef Hold h = Hold.__new__(Hold)
    h.c = c
    h.n = n
    h.id = id
    fbchannel_ref(c)
    return window(h, offset, length)


cdef Fbuf window(Hold h, uint32_t offset, Py_ssize_t length):
    cdef Fbuf f = Fbuf.__new__(Fbuf)
    h.windows += 1
    f.hold = h
    f.offset = offset
    f.length = length
    return f


@cython.final
@cython.freelist(64)
cdef class Fbuf:
    """A window on a buffer that two processes map. Made by ``Pool.alloc`` and by ``Channel.recv``.

    It exports its bytes (``memoryview(f)``, ``f.data``, numpy.frombuffer): writable while it is only ours, else for
    reading. Sending it takes it away: ``f.data`` is released, and other exports that are still alive make the sending
    raise BufferError.
    """

    def __init__(self):
        raise TypeError("an fbuf comes from Pool.alloc() or Channel.recv()")

    def __dealloc__(self):
        if self.hold is not None:
            self.hold.windows -= 1

    cdef Hold alive(self):
        if self.hold is None:
            raise FbufLost("this fbuf was sent or freed: it belongs to somebody else now")
        return self.hold

    cdef bint writable(self) noexcept:
        cdef fbpool *p = self.hold.p
        return p != NULL and (p.state[self.hold.id] == FB_OWNED or p.flags & FB_VOLATILE != 0)

    cdef int settle(self) except -1:
        """Nobody may look through this handle any more."""
        cdef object view = self.view
        if view is not None:
            self.view = None
            view.release()
        if self.exports:
            raise BufferError(
                "the fbuf has exports that are still alive (memoryview, numpy array): release them before sending it")
        return 0

    cdef void lose(self) noexcept:
        if self.hold is not None:
            self.hold.windows -= 1
            self.hold = None

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef Hold h = self.alive()
        cdef uint8_t *base = h.base()
        cdef bint readonly = not self.writable()
        if base == NULL or (h.p != NULL and not h.p.prot[h.id] & PROT_READ):
            raise FbufLost("the pool is strict, or used once: nobody can look at the buffer until it comes back")
        if readonly and flags & PyBUF_WRITABLE:
            raise BufferError("others see this fbuf: it can only be read")
        view.buf = base + self.offset
        view.obj = self
        view.len = self.length
        view.itemsize = 1
        view.readonly = readonly
        view.ndim = 1
        view.format = BYTES_FORMAT if flags & PyBUF_FORMAT == PyBUF_FORMAT else NULL
        view.shape = &self.length if flags & PyBUF_ND == PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        if self.hold is None:
            return "<Fbuf, lost>"
        whose = "ours" if self.hold.p != NULL else "received"
        return f"<Fbuf {whose}, buffer {self.hold.id}, [{self.offset}, {self.offset + self.length})>"

    @property
    def data(self) -> memoryview:
        """Its bytes. The view is released when the fbuf is sent or freed."""
        self.alive()
        if self.view is None:
            self.view = memoryview(self)
        return self.view

    @property
    def lost(self) -> bool:
        """Whether it was sent or freed."""
        return self.hold is None

    @property
    def received(self) -> bool:
        """Whether it came over a channel; False: it is of a pool of this process."""
        return self.alive().c != NULL

    @property
    def secured(self) -> bool:
        """Whether nobody can change what a received fbuf shows: sealed by the kernel, or given up by its producer's
        process at our request (``Channel.secure``)."""
        cdef Hold h = self.alive()
        return h.c != NULL and h.c.got[h.n].secured[h.id] != 0

    @property
    def sealed(self) -> bool:
        """Whether the kernel lets nobody write to it, not even a producer that wants to."""
        cdef Hold h = self.alive()
        return h.c.got[h.n].sealed if h.c != NULL else h.p.sealed

    @property
    def address(self) -> int:
        """Where its bytes are mapped in this process; 0 if they are not."""
        cdef uint8_t *base = self.alive().base()
        return <uintptr_t>(base + self.offset) if base != NULL else 0

    @property
    def place(self) -> tuple[int, int]:
        """The buffer's number in its pool and the window's offset in the buffer: the same in every process."""
        return self.alive().id, self.offset

    def write(self, data: object, at: int = 0) -> int:
        """Copy bytes into the window at an offset, booked as ``tx.copy``; how many. ValueError if they do not fit."""
        cdef Py_buffer view
        cdef Hold h = self.alive()
        if not self.writable():
            raise BufferError("others see this fbuf: it can only be read")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if at < 0 or at + view.len > self.length:
                raise ValueError(f"{view.len} bytes at {at} do not fit into a window of {self.length}")
            memcpy(h.base() + self.offset + <Py_ssize_t>at, view.buf, view.len)
            ledger_book(&book, LR_TX_COPY, view.len)
            return view.len
        finally:
            PyBuffer_Release(&view)

    def copy_out(self) -> bytes:
        """Its bytes as an object of this process, booked as ``rx.copy``."""
        cdef bytes b = bytes(self.data)
        ledger_book(&book, LR_RX_COPY, self.length)
        return b

    def trim(self, start: int, stop: int) -> None:
        """Narrow the window to bytes [start, stop) of it. Views taken before show what they showed."""
        self.alive()
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"[{start}, {stop}) is not within a window of {self.length} bytes")
        if self.view is not None or self.exports:
            self.settle()
        self.offset += <uint32_t>start
        self.length = stop - start

    def window(self, start: int, stop: int) -> Fbuf:
        """A further window on the same buffer, on bytes [start, stop) of this one: no byte moves."""
        cdef Hold h = self.alive()
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"[{start}, {stop}) is not within a window of {self.length} bytes")
        return window(h, self.offset + <uint32_t>start, stop - start)

    def mblk(self, arena: object = None) -> object:
        """The fbuf as a message block (``ustack.buffers.Mblk``) for what works on those; this handle is lost, and the
        buffer is let go when the last block on it is."""
        cdef Arena from_ = chosen(arena)
        cdef Hold h = self.alive()
        cdef mblk *m
        self.settle()
        m = lend_buffer(from_.a, window(h, self.offset, self.length), None)
        m.wptr = m.rptr + self.length
        self.lose()
        return wrap_mblk(m, from_.a)

    def free(self) -> None:
        """Let it go: a received one returns to its producer with the last window, one of ours to its pool."""
        self.alive()
        self.settle()
        self.lose()

    def __enter__(self) -> Fbuf:
        self.alive()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.hold is not None:
            self.free()


class Aggregate:
    """A message of several windows, edited by reference: no operation moves a byte, but ``contiguous``.

    Its parts belong to it: sending it, or freeing it, loses them all.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: object = ()) -> None:
        self._parts = []
        for part in parts:
            self.append(part)

    @property
    def parts(self) -> tuple[Fbuf, ...]:
        """Its windows, in order."""
        return tuple(self._parts)

    def append(self, more: object) -> None:
        """Put a window, or all of another aggregate (which is empty then), at the end."""
        self._parts.extend(_taken(more))

    def prepend(self, more: object) -> None:
        """Put it in front: headers, say."""
        self._parts[:0] = _taken(more)

    def split(self, at: int) -> object:
        """Cut it in two: this one keeps the first ``at`` bytes, and the aggregate of the others is returned."""
        if not 0 <= at <= len(self):
            raise ValueError(f"{at} is not within an aggregate of {len(self)} bytes")
        rest = Aggregate()
        keep = []
        for part in self._parts:
            n = len(part)
            if at >= n:
                keep.append(part)
                at -= n
            elif at > 0:
                rest._parts.append(part.window(at, n))
                part.trim(0, at)
                keep.append(part)
                at = 0
            else:
                rest._parts.append(part)
        self._parts = keep
        return rest

    def views(self) -> list[memoryview]:
        """The bytes in place: one view for each window, as for readv and writev."""
        return [part.data for part in self._parts]

    def contiguous(self) -> object:
        """The bytes in one piece: the only window's view, or else a copy, booked as ``rx.copy``."""
        if len(self._parts) == 1:
            return self._parts[0].data
        joined = b"".join(self.views())
        ledger_book(&book, LR_RX_COPY, len(joined))
        return joined

    def free(self) -> None:
        """Let all windows go."""
        for part in self._parts:
            part.free()
        self._parts = []

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> object:
        return iter(self._parts)

    def __enter__(self) -> Aggregate:
        return self

    def __exit__(self, *exc: object) -> None:
        for part in self._parts:
            if not part.lost:
                part.free()


cdef list _taken(object more):
    if isinstance(more, Fbuf):
        (<Fbuf>more).alive()
        return [more]
    if isinstance(more, Aggregate):
        parts, more._parts = more._parts, []
        return parts
    raise TypeError(f"an aggregate is made of fbufs, not of {type(more).__name__}")
