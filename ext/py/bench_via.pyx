"""For ``ustack bench`` and tests: loops over the message layer in C, and the same over a UNIX socket of the kernel's.

They poll and never sleep, and look at no signals: who starts such a loop knows that it ends.
"""

from array import array

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ustack._core.base.ledger cimport LR_RX_COPY, ledger_book
from ustack._core.base.types cimport atomic_swap32, cpu_relax
from ustack._core.py.via cimport Buffer, Vi
from ustack._core.py.via_nic cimport Nic, has_entries, has_work, progress, release
from ustack._core.via.queue cimport queue_has_done, queue_take
from ustack._core.via.types cimport VIP_SUCCESS, via_slot
from ustack._core.via.vi cimport vi_post_recv, vi_post_send
from ustack._core.wire.via cimport STATUS_ERRORS

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t n, int flags)
    ssize_t recv(int fd, void *data, size_t n, int flags)
    enum:
        MSG_DONTWAIT

cdef enum:
    LOST = -1                   # the connection is over, or a descriptor failed


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline void hold(Nic nic) noexcept nogil:
    while atomic_swap32(&nic.n.lock, 1):
        cpu_relax()


cdef struct spot:               # a buffer, for loops that have no GIL
    uint8_t *at
    uint8_t *data
    uint32_t handle


cdef inline spot spot_of(Buffer b) noexcept nogil:
    cdef spot s
    s.at = b.at
    s.data = b.bytes_at
    s.handle = b.memory.handle
    return s


cdef int post_at(Vi vi, spot s, bint is_recv) noexcept nogil:
    cdef uint32_t position
    cdef int r
    hold(vi.nic)
    if is_recv:
        r = vi_post_recv(vi.v, s.at, s.handle, &position)
    else:
        r = vi_post_send(vi.v, s.at, s.handle, &position)
    release(vi.nic)
    return 0 if r == VIP_SUCCESS else LOST


cdef inline int post(Vi vi, Buffer b, bint is_recv) noexcept nogil:
    return post_at(vi, spot_of(b), is_recv)


cdef int reap(Vi vi, bint is_recv) noexcept nogil:
    """Poll until the oldest descriptor is done, and take it back. The bytes that it moved, or LOST."""
    cdef via_slot slot
    cdef int r
    while not queue_has_done(&vi.v.recv if is_recv else &vi.v.send):
        if has_entries(vi.nic) if is_recv else has_work(vi.nic):
            progress(vi.nic)
        else:
            cpu_relax()
        if vi.nic.wants_control:
            return LOST
    hold(vi.nic)
    r = queue_take(&vi.v.recv if is_recv else &vi.v.send, &slot)
    release(vi.nic)
    return <int>slot.length if r == VIP_SUCCESS and not slot.status & STATUS_ERRORS else LOST


cdef int once(Vi vi, Buffer out, Buffer into, bint serve) noexcept nogil:
    """A round trip: send and receive, or the other way round. One more receive descriptor is always posted."""
    if serve:
        if reap(vi, True) < 0 or post(vi, into, True) < 0 or post(vi, out, False) < 0:
            return LOST
        return reap(vi, False)
    if post(vi, out, False) < 0 or reap(vi, True) < 0 or post(vi, into, True) < 0:
        return LOST
    return reap(vi, False)


def ping_pong(vi: Vi, out: Buffer, into: list[Buffer], turns: int, each: int, serve: bool) -> array:
    """``turns`` times ``each`` (an even number) round trips; nanoseconds of a round trip, one number a turn.

    The two buffers ``into`` must have been posted for receiving, in this order; they are again afterwards. Both ends
    must have been shown each other's memory, by messages that went before. Raises OSError.
    """
    cdef int64_t[::1] times
    cdef Py_ssize_t k, i
    cdef Py_ssize_t nturns = turns
    cdef Py_ssize_t neach = each
    cdef int64_t began
    cdef int r = 0
    cdef Buffer a = into[0]
    cdef Buffer b = into[1]
    cdef bint serving = serve
    found = array("q", bytes(8 * turns))
    times = found
    with nogil:
        for k in range(nturns):
            began = now()
            for i in range(neach):
                if i & 1:
                    r = once(vi, out, b, serving)
                else:
                    r = once(vi, out, a, serving)
                if r < 0:
                    break
            times[k] = (now() - began) / neach
            if r < 0:
                break
    if r < 0:
        raise OSError("a message was lost, or memory has to be shown first")
    return found


cdef int relay_all(Vi a, Vi b, spot *ring, Py_ssize_t n, spot out, uint8_t *own, uint32_t size,
                   Py_ssize_t count) noexcept nogil:
    """Each message into the next buffer of the ring; then, if there is `own`, from there to it."""
    cdef Py_ssize_t k
    for k in range(count):
        # A descriptor that was given back tells how much was moved: it is what is to be moved again.
        if post_at(b, ring[k % n], True) < 0 or post_at(a, out, False) < 0:
            return LOST
        if reap(b, True) < 0 or reap(a, False) < 0:
            return LOST
        if own != NULL:
            memcpy(own, ring[k % n].data, size)
            ledger_book(&b.nic.n.book, LR_RX_COPY, size)
    return 0


def relay(a: Vi, b: Vi, out: Buffer, ring: list[Buffer], own: bytearray | None, size: int, count: int) -> float:
    """ns of a message of ``size`` bytes from VI ``a`` to VI ``b`` of one NIC, received into the ring's buffers in turn.

    It is then copied to ``own``, if given. Raises OSError.
    """
    cdef Py_ssize_t n = len(ring)
    cdef Py_ssize_t turns = count
    cdef uint32_t length = size
    cdef uint8_t *to = NULL
    cdef uint8_t[::1] view
    cdef spot *spots = <spot *>malloc(n * sizeof(spot))
    cdef spot source
    cdef int64_t began
    cdef Py_ssize_t k
    cdef int r
    if spots == NULL:
        raise MemoryError
    out.prepare(size)
    source = spot_of(out)
    for k in range(n):
        spots[k] = spot_of(<Buffer>ring[k])
    if own is not None:
        view = own
        to = &view[0]
    with nogil:
        began = now()
        r = relay_all(a, b, spots, n, source, to, length, turns)
        began = now() - began
    free(spots)
    if r < 0:
        raise OSError("a message was lost")
    return began / <double>turns


cdef int all_of(int fd, char *p, size_t n, bint out) noexcept nogil:
    cdef ssize_t r
    while n:
        r = send(fd, p, n, MSG_DONTWAIT) if out else recv(fd, p, n, MSG_DONTWAIT)
        if r > 0:
            p += r
            n -= r
        elif r == 0 or errno != EAGAIN:
            return LOST
    return 0


def socket_ping_pong(fd: int, size: int, turns: int, each: int, serve: bool) -> array:
    """The same over a UNIX stream socket of the kernel's, polled without sleeping."""
    cdef int64_t[::1] times
    cdef char data[4096]
    cdef Py_ssize_t k, _i
    cdef Py_ssize_t nturns = turns
    cdef Py_ssize_t neach = each
    cdef int64_t began
    cdef int r = 0
    cdef bint serving = serve
    cdef int s = fd
    cdef size_t n = size
    if not 0 < size <= 4096:
        raise ValueError("1 to 4096 bytes")
    found = array("q", bytes(8 * turns))
    times = found
    with nogil:
        for k in range(nturns):
            began = now()
            for _i in range(neach):
                r = all_of(s, data, n, not serving)
                if r == 0:
                    r = all_of(s, data, n, serving)
                if r < 0:
                    break
            times[k] = (now() - began) / neach
            if r < 0:
                break
    if r < 0:
        raise OSError("the socket was closed")
    return found
