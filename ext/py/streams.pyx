"""The STREAMS functions on message blocks, and what goes beyond them: see ustack.buffers.

Each enters the library by ``drain``; where the C side frees blocks of a message, the handles are told.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uintptr_t

cimport ustack._core.mem.mblk as mb
from ustack._core.base.checksum cimport csum_fold
from ustack._core.base.ledger cimport LR_APPEND, LR_CSUM_TX, LR_RX_COPY, LR_TX_COPY
from ustack._core.mem.mblk cimport dblk, mblk, mblk_len
from ustack._core.py.buffers cimport (
    Arena, Mblk, after_frees, alive, attach, chosen, drain, forget, handle, handles, head_of_message, lend,
    new_message, owners, release_block, sync, unhold,
)

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t v)


def allocb(size: int, arena: Arena | None = None) -> Mblk:
    """An empty block with room for at least ``size`` bytes: rptr == wptr == 0. MemoryError at the budget."""
    drain()
    if size < 0:
        raise ValueError("a size is at least 0")
    return new_message(mb.allocb(chosen(arena).a, size), f"a block of {size} bytes")


def alloc_header(arena: Arena | None = None) -> Mblk:
    """An empty block with headroom for the headers of all layers."""
    drain()
    return new_message(mb.alloc_header(chosen(arena).a), "a header block")


def esballoc(buffer: object, free: object = None, arena: Arena | None = None) -> Mblk:
    """An empty block on the memory of ``buffer`` (any contiguous exporter), which is held as long as needed.

    ``free()`` is called once after the last reference is gone: in the next call into the library by any
    thread, or by the interpreter soon after; never with a lock held. What it raises goes to
    sys.unraisablehook.
    """
    drain()
    return handle(lend(chosen(arena).a, buffer, free, False))


def desballoc(buffer: object, free: object = None, arena: Arena | None = None) -> Mblk:
    """As esballoc, but ``free()`` runs inside the call that drops the last reference, in that thread.

    Where a thread without Python drops it (a poller), it runs as with esballoc.
    """
    drain()
    return handle(lend(chosen(arena).a, buffer, free, True))


def freeb(b: Mblk) -> None:
    """Free one block; what followed it in its message stays. A second time raises ValueError."""
    cdef mblk *m
    drain()
    m = head_of_message(b)
    if b.follower is not None:
        b.follower.linked = False
        b.follower = None
    b.m = NULL
    b.exports = 0
    release_block(m)


def freemsg(b: Mblk) -> None:
    """Free all blocks of a message."""
    cdef Mblk following
    head_of_message(b)
    while b is not None:
        following = b.follower
        freeb(b)
        b = following


def dupb(b: Mblk) -> Mblk:
    """Another block on the same storage. BufferError at the storage's reference limit: use copyb then."""
    cdef mblk *m
    cdef mblk *twin
    cdef Mblk result
    drain()
    m = alive(b)
    twin = mb.dupb(m.home, m)
    if twin == NULL and m.dp.ref_limit and m.dp.refs >= m.dp.ref_limit:
        raise BufferError(f"the storage has its {m.dp.ref_limit} references: use copyb")
    result = new_message(twin, "a block")
    result.lent = b.lent
    return result


def dupmsg(b: Mblk) -> Mblk:
    """dupb of every block of the message."""
    cdef Mblk first = dupb(b)
    cdef Mblk last = first
    while b.follower is not None:
        b = b.follower
        attach(last, dupb(b))
        last = last.follower
    return first


def copyb(b: Mblk) -> Mblk:
    """A block of its own with the same bytes at the same offset, of the same type."""
    drain()
    return new_message(mb.copyb(alive(b).home, b.m), "a copy")


def copymsg(b: Mblk) -> Mblk:
    """copyb of every block of the message."""
    drain()
    return new_message(mb.copymsg(alive(b).home, b.m), "a copy")


def linkb(b: Mblk, tail: Mblk) -> None:
    """Append the message ``tail`` to the message ``b``."""
    cdef Mblk last = b
    drain()
    alive(b)
    head_of_message(tail)
    while last.follower is not None:
        last = last.follower
    if tail is b or b.linked and <uintptr_t>last.m in handles(tail):
        raise ValueError("a message cannot follow itself")
    attach(last, tail)


def unlinkb(b: Mblk) -> Mblk | None:
    """Take the block off what follows it; returns that, or None."""
    cdef Mblk rest
    drain()
    mb.unlinkb(alive(b))
    rest = b.follower
    b.follower = None
    if rest is not None:
        rest.linked = False
    return rest


def rmvb(b: Mblk, block: Mblk) -> Mblk | None:
    """Take ``block`` out of the message ``b``; returns the message that is left, or None. ValueError: not in
    it."""
    cdef dict known
    drain()
    alive(block)
    head_of_message(b)
    known = handles(b)
    if <uintptr_t>block.m not in known:
        raise ValueError("the block is not in this message")
    rest = mb.rmvb(b.m, block.m)
    sync(block.m, {<uintptr_t>block.m: known.pop(<uintptr_t>block.m)})
    return sync(rest, known)


def pullupmsg(b: Mblk, n: int = -1) -> bool:
    """Make the first n bytes (-1: all) of the message contiguous in its first block.

    False, and nothing changed, if the leading blocks of its type have fewer bytes. What is contiguous
    already stays where it is; other holders of the storage see no change.
    """
    cdef dict known
    cdef dblk *before
    cdef bint done
    drain()
    alive(b)
    known = handles(b)
    before = b.m.dp
    held = owners(known)
    # Storage with views counts as shared, so that they do not see their bytes move.
    done = mb.pullupmsg(b.m.home, b.m, n)
    if b.m.dp != before:
        b.exports = 0
        b.lent = False
    after_frees(b, known, held)
    return done


def msgpullup(b: Mblk, n: int = -1) -> Mblk:
    """A new message with the first n bytes (-1: all) contiguous, and windows on the rest. The original stays.

    ValueError if the leading blocks of its type have fewer bytes.
    """
    cdef mblk *m
    drain()
    m = mb.msgpullup(alive(b).home, b.m, n)
    if m == NULL and not has_leading(b, n):
        raise ValueError(f"the message does not begin with {n} bytes of one type")
    return new_message(m, "a message")


cdef bint has_leading(Mblk b, Py_ssize_t n):
    cdef Py_ssize_t have = 0
    cdef uint8_t kind = b.m.dp.type
    while b is not None and b.m.dp.type == kind:
        have += mblk_len(b.m)
        b = b.follower
    return have >= n


def adjmsg(b: Mblk, n: int) -> bool:
    """Trim n bytes from the head (n > 0) or -n from the tail of the message's leading run of one type.

    False, and nothing changed, if the run is shorter. Blocks behind the first that become empty are freed.
    """
    cdef dict known
    cdef bint done
    drain()
    alive(b)
    known = handles(b)
    held = owners(known)
    done = mb.adjmsg(b.m, n)
    after_frees(b, known, held)
    return done


def msgdsize(b: Mblk) -> int:
    """Bytes in the message's blocks of type M_DATA."""
    return mb.msgdsize(alive(b))


def msgbytes(b: Mblk) -> int:
    """Bytes in all blocks of the message."""
    return mb.msgbytes(alive(b))


# --- beyond STREAMS ---------------------------------------------------------------------------------------
def splitmsg(b: Mblk, n: int) -> Mblk | None:
    """Cut the message behind n bytes; returns the rest, None if there is none. No copy."""
    cdef dict known
    cdef mblk *rest
    drain()
    if n < 0:
        raise ValueError("a message is cut behind 0 bytes or more")
    alive(b)
    if n >= <Py_ssize_t>mb.msgbytes(b.m) and n > 0:
        return None
    known = handles(b)
    rest = mb.splitmsg(b.m.home, b.m, n)
    cdef bint linked = b.linked
    sync(b.m, known)
    b.linked = linked
    return sync(rest, known)


def dup_range(b: Mblk, offset: int, n: int) -> Mblk:
    """A new message of windows on bytes [offset, offset + n). No copy. ValueError if it has fewer."""
    drain()
    alive(b)
    if offset < 0 or n < 0 or offset + n > <Py_ssize_t>mb.msgbytes(b.m):
        raise ValueError(f"bytes [{offset}, {offset + n}) are not all in the message")
    return new_message(mb.dup_range(b.m.home, b.m, offset, n), "windows")


def msgconsume(b: Mblk, n: int) -> Mblk | None:
    """Drop n bytes from the front, freeing the blocks that become empty; returns the new first block."""
    cdef dict known
    cdef mblk *m
    cdef Mblk first
    drain()
    if n < 0:
        raise ValueError("0 bytes or more are consumed")
    head_of_message(b)
    known = handles(b)
    held = owners(known)
    m = mb.msgconsume(b.m, n)
    first = sync(m, known)
    forget(known)
    unhold(held)
    return first


def msgappend(b: Mblk, data: object) -> int:
    """Copy bytes behind the message's last block as far as it has room and is writable; returns how many."""
    cdef Py_buffer view
    cdef Mblk last = b
    drain()
    alive(b)
    while last.follower is not None:
        last = last.follower
    if last.lent:
        return 0
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return mb.msgappend(b.m.home.book, LR_APPEND, b.m, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


def msgcopyin(data: object, stride: int = 0, arena: Arena | None = None, *, phase: int = 0) -> Mblk:
    """A message with a copy of ``data``, 64 KB to a block. With a stride, it is summed on the way: one
    partial sum per ``stride`` bytes is kept, and ``msgsum`` uses them. The first covers ``phase`` bytes less,
    for data that go on where others have begun a stride."""
    cdef Py_buffer view
    cdef mblk *m
    cdef Arena a = chosen(arena)
    drain()
    if not 0 <= stride <= 0xFFFF:
        raise ValueError("a stride is 0 (no sums) or a number of bytes up to 65535")
    if phase and not 0 <= phase < stride:
        raise ValueError("a phase is a number of bytes below the stride")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        m = mb.msgcopyin_csum(a.a, &a.book, LR_TX_COPY, view.buf, view.len, stride, phase)
    finally:
        PyBuffer_Release(&view)
    return new_message(m, "a copy")


def msgcopyout(b: Mblk, offset: int = 0, n: int | None = None) -> bytes:
    """A copy of bytes [offset, offset + n) of the message, as many as there are."""
    cdef size_t have, want
    drain()
    have = mb.msgbytes(alive(b))
    if offset < 0 or (n is not None and n < 0):
        raise ValueError("offset and n are at least 0")
    want = 0 if offset >= <Py_ssize_t>have else have - <size_t>offset
    if n is not None and <size_t>n < want:
        want = n
    result = PyBytes_FromStringAndSize(NULL, want)
    mb.msgcopyout(b.m.home.book, LR_RX_COPY, b.m, offset, PyBytes_AsString(result), want)
    return result


def msgsum(b: Mblk, offset: int = 0, n: int | None = None) -> int:
    """The sum (as checksum_partial gives it) of bytes [offset, offset + n) of the message, from partial sums
    where it has them."""
    cdef size_t have
    drain()
    have = mb.msgbytes(alive(b))
    if n is None:
        n = max(<Py_ssize_t>have - offset, 0)
    if offset < 0 or n < 0 or offset + n > <Py_ssize_t>have:
        raise ValueError(f"bytes [{offset}, {offset + n}) are not all in the message")
    return htons(csum_fold(mb.msgcsum(b.m.home.book, LR_CSUM_TX, b.m, offset, n)))
