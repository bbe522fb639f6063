"""A wire between two links: see bridge.pxd."""

from libc.errno cimport ENODEV
from libc.stdint cimport uint64_t

from ustack._core.base.codes cimport CAP_TX_CSUM, CSUM_PARTIAL
from ustack._core.base.types cimport NS_MS, NS_NEVER, atomic_load32, atomic_store32, ns_t
from ustack._core.link.link cimport link
from ustack._core.mem.arena cimport arena_reap
from ustack._core.mem.mblk cimport freemsg, mblk
from ustack._core.sys.eventfd cimport sys_eventfd_signal, sys_eventfd_take
from ustack._core.sys.poll cimport POLLIN, pollfd, sys_ppoll

cdef enum:
    BURST = 32
    FDS = 8


cdef int carry(bridge *b, int direction, ns_t now) noexcept nogil:
    """One burst from end[direction] to the other; how many packets, or the error of a device that vanished."""
    cdef link *source = b.end[direction]
    cdef link *sink = b.end[1 - direction]
    cdef mblk *burst[BURST]
    cdef int i, n, taken
    n = source.ops.rx(source, burst, BURST, now)
    if n <= 0:
        return -ENODEV if n == -ENODEV else 0
    for i in range(n):
        if burst[i].csum == CSUM_PARTIAL and not sink.caps & CAP_TX_CSUM:
            b.know.complete(b.know.arg, sink, burst[i])
    taken = sink.ops.tx(sink, burst, n, now)
    for i in range(taken if taken > 0 else 0, n):
        b.n.dropped += 1
        freemsg(burst[i])
    if taken == -ENODEV:
        return taken
    b.n.packets[direction] += taken if taken > 0 else 0
    return n


cdef ns_t patience(bridge *b, ns_t now) noexcept nogil:
    """How long nothing needs to be done."""
    cdef ns_t t, best = NS_NEVER
    cdef int i
    for i in range(2):
        if b.end[i].ops.deadline != NULL:
            t = b.end[i].ops.deadline(b.end[i])
            best = t if t < best else best
    return NS_NEVER if best == NS_NEVER else best - now if best > now else 0


cdef void rest(bridge *b, ns_t now) noexcept nogil:
    """Sleep until a packet comes or is due."""
    cdef pollfd p[FDS]
    cdef int fds[FDS]
    cdef uint64_t count
    cdef int i, n = 0, k
    for i in range(2):
        if b.end[i].ops.fds != NULL:
            n += b.end[i].ops.fds(b.end[i], fds + n, FDS - 1 - n)
    for k in range(n):
        p[k].fd = fds[k]
        p[k].events = POLLIN
    p[n].fd = b.stop_fd
    p[n].events = POLLIN
    b.n.sleeps += 1
    sys_ppoll(p, n + 1, patience(b, now))
    for k in range(n):
        if p[k].revents & ~POLLIN:
            # A device that is down may report an error for long: do not spin on it.
            sys_ppoll(&p[n], 1, NS_MS)
            break
    if p[n].revents & POLLIN:
        sys_eventfd_take(b.stop_fd, &count)


cdef void bridge_run(bridge *b) noexcept nogil:
    cdef int r, moved, direction
    cdef ns_t now
    b.error = 0
    while not atomic_load32(&b.stopping):
        now = b.clock()
        moved = 0
        for direction in range(2):
            r = carry(b, direction, now)
            if r < 0:
                b.error = r
                return
            moved += r
        arena_reap(b.mem)
        if moved == 0:
            rest(b, now)


cdef void bridge_stop(bridge *b) noexcept nogil:
    atomic_store32(&b.stopping, 1)
    sys_eventfd_signal(b.stop_fd)
