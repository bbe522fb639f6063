"""For ``ustack bench``: sockets without the cost of their Python objects, in great numbers."""

from cpython.buffer cimport PyBUF_CONTIG_RO, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ustack._core.base.types cimport NS_NEVER
from ustack._core.mem.mblk cimport freemsg, mblk
from ustack._core.py.calls cimport NO_WAIT, call_accept, call_recv_now, call_send
from ustack._core.py.driver cimport driver, driver_advance, driver_flush_unlock, driver_lock, driver_unlock, poll_locked
from ustack._core.py.errors cimport fail
from ustack._core.py.socket cimport Socket
from ustack._core.py.stack cimport Stack
from ustack._core.stack.sockets cimport sock, sock_close, sock_free

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/socket.h>
    """
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int MSG_WAITFORONE
    int sendmmsg(int fd, mmsghdr *headers, unsigned int n, int flags) nogil
    int recvmmsg(int fd, mmsghdr *headers, unsigned int n, int flags, timespec *timeout) nogil

cdef enum:
    TICK = 20000                # ns of virtual time from one burst to the next


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef class KernelBatch:
    """``n`` datagrams of ``size`` bytes a call over a connected, blocking socket of the kernel: sendmmsg, recvmmsg(2).

    As good a program as C has; Python's own socket module cannot do it. Raises OSError.
    """

    cdef int fd
    cdef unsigned int n
    cdef mmsghdr *headers
    cdef iovec *parts
    cdef char *room

    def __cinit__(self, int fd, unsigned int n, unsigned int size):
        cdef unsigned int i
        self.fd, self.n = fd, n
        self.headers = <mmsghdr *>calloc(n, sizeof(mmsghdr))
        self.parts = <iovec *>calloc(n, sizeof(iovec))
        self.room = <char *>calloc(n, size)
        if self.headers == NULL or self.parts == NULL or self.room == NULL:
            raise MemoryError("no memory for a batch")
        for i in range(n):
            self.parts[i].iov_base = self.room + i * size
            self.parts[i].iov_len = size
            self.headers[i].msg_hdr.msg_iov = &self.parts[i]
            self.headers[i].msg_hdr.msg_iovlen = 1

    def __dealloc__(self):
        free(self.headers)
        free(self.parts)
        free(self.room)

    def send(self) -> int:
        """Send all of them; returns how many went."""
        cdef int r
        with nogil:
            r = sendmmsg(self.fd, self.headers, self.n, 0)
        return r if r >= 0 else fail(-errno)

    def receive(self) -> tuple[int, bool]:
        """Wait for one, take what there is: how many came before an empty one, and whether there was such a one."""
        cdef int r, i
        with nogil:
            r = recvmmsg(self.fd, self.headers, self.n, MSG_WAITFORONE, NULL)
        if r < 0:
            fail(-errno)
        for i in range(r):
            if self.headers[i].msg_len == 0:
                return i, True
        return r, False


cdef class Accepted:
    """The next ``n`` connections of a listener, accepted by the core alone: no Python object for each of them.

    Waits for them; raises OSError when accepting fails. ``close()`` closes them.
    """

    cdef Stack stack
    cdef driver *d
    cdef sock **socks
    cdef size_t n

    def __cinit__(self, Socket listener not None, int n):
        cdef int r = 0
        self.stack = listener.stack
        self.d = listener.d
        self.socks = <sock **>calloc(max(n, 1), sizeof(sock *))
        if self.socks == NULL:
            raise MemoryError("no memory for the connections")
        self.stack.enter()
        try:
            with nogil:
                while self.n < <size_t>n and r == 0:
                    r = call_accept(self.d, listener.s, NS_NEVER, False, &self.socks[self.n])
                    if r == 0:
                        self.n += 1
        finally:
            self.stack.leave()
        if r != 0:
            self.close()
            fail(r, "cannot accept")

    def __len__(self):
        return self.n

    def close(self):
        """Close all of them; idempotent. Their stack must be open."""
        cdef size_t i
        self.stack.enter()
        try:
            with nogil:
                for i in range(self.n):
                    driver_lock(self.d)
                    sock_close(self.socks[i], False)
                    driver_flush_unlock(self.d)
                    sock_free(self.socks[i])
        finally:
            self.stack.leave()
        self.n = 0

    def __dealloc__(self):
        free(self.socks)        # what close() was not called for ends with the stack


cdef class Crowd:
    """Connections between two stacks on a VirtualClock that are joined by a link in this process.

    ``near[i]`` is connected with ``far[i]``; both lists hold sockets of one stack each.
    """

    cdef list near, far         # they keep the sockets alive
    cdef driver *a
    cdef driver *b
    cdef sock **senders
    cdef sock **receivers
    cdef size_t n
    cdef int64_t at             # virtual time

    def __cinit__(self, list near not None, list far not None, int64_t at):
        cdef size_t i
        cdef Socket one
        if not near or len(near) != len(far):
            raise ValueError("as many sockets on the one side as on the other")
        self.near, self.far, self.n, self.at = near, far, len(near), at
        self.senders = <sock **>calloc(self.n, sizeof(sock *))
        self.receivers = <sock **>calloc(self.n, sizeof(sock *))
        if self.senders == NULL or self.receivers == NULL:
            raise MemoryError("no memory for the connections")
        for i in range(self.n):
            one = near[i]
            self.senders[i], self.a = one.s, one.d
            one = far[i]
            self.receivers[i], self.b = one.s, one.d
        if not self.a.manual or not self.b.manual:
            raise ValueError("the stacks need a VirtualClock: otherwise their housekeepers take part")

    def __dealloc__(self):
        free(self.senders)
        free(self.receivers)

    def ingress(self, order, int burst) -> float:
        """ns that the far stack needs for a packet of 1 byte, from the link to the socket's queue, with the answer.

        ``order``: an array of 4-byte integers, the connections that packets come on, in turn; ``burst`` of them are
        sent, then taken in by one poll, which is what is timed. Afterwards they are read, and acknowledgements are
        carried. Raises OSError when a socket fails.
        """
        cdef Py_buffer o
        cdef const uint32_t *which
        cdef size_t i, count
        cdef int64_t ns = 0
        cdef int r = 0
        PyObject_GetBuffer(order, &o, PyBUF_CONTIG_RO)
        try:
            which = <const uint32_t *>o.buf
            count = o.len // 4 // burst * burst
            for i in range(count):
                if which[i] >= self.n:
                    raise ValueError(f"there are {self.n} connections, not {which[i]}")
            if o.itemsize != 4 or count == 0:
                raise ValueError("order is an array of 4-byte integers, a burst at least")
            with nogil:
                i = 0
                while i < count and r == 0:
                    r = self.one_burst(which + i, burst, &ns)
                    i += burst
        finally:
            PyBuffer_Release(&o)
        if r != 0:
            fail(r, "a connection of the crowd")
        return ns / <double>count

    cdef int one_burst(self, const uint32_t *which, int burst, int64_t *ns) noexcept nogil:
        cdef size_t done
        cdef mblk *m = NULL
        cdef int64_t began
        cdef int k, r
        self.at += TICK
        driver_advance(self.a, self.at)
        driver_advance(self.b, self.at)
        for k in range(burst):
            done = 0
            m = NULL
            r = call_send(self.a, self.senders[which[k]], b"x", 1, False, True, NO_WAIT, False, &done, &m)
            if r != 0:
                return r
        driver_lock(self.b)
        began = now()
        poll_locked(self.b, self.at)
        driver_flush_unlock(self.b)
        ns[0] += now() - began
        for k in range(burst):
            r = call_recv_now(self.b, self.receivers[which[k]], burst, False, &m)
            if r == 0:
                freemsg(m)
            elif r != -11:      # EAGAIN: it was read with an earlier one of the burst
                return r
        driver_lock(self.a)
        poll_locked(self.a, self.at)
        driver_unlock(self.a)
        return 0
