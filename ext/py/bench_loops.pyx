"""For ``ustack bench``: the work of ``ustack._bench.work`` in C, over a socket of ours or of the kernel's.

Ours goes through the calls under the socket handle (``calls``), the kernel's through send(2) and recv(2). Nothing here
looks at signals: who starts the worker ends it.
"""

from array import array

from libc.errno cimport EAGAIN, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, realloc
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ustack._core.base.ledger cimport LR_RX_COPY, LR_TX_COPY
from ustack._core.base.types cimport NS_NEVER
from ustack._core.mem.mblk cimport freemsg, mblk, msgcopyin, msgcopyout
from ustack._core.py.calls cimport (
    NO_WAIT, call_recv, call_recv_now, call_recvfrom, call_send, call_sendto)
from ustack._core.py.driver cimport driver
from ustack._core.py.errors cimport fail
from ustack._core.py.socket cimport Socket
from ustack._core.stack.sockets cimport sock
from ustack._core.udp.udp cimport udp_meta

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t n, int flags)
    ssize_t recv(int fd, void *data, size_t n, int flags)

cdef enum:
    ENOMEM = 12
    FAREWELLS = 8


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef struct end:
    driver *d                   # NULL: the kernel's socket fd
    sock *s
    int fd


cdef int put(end *e, const char *p, size_t n) noexcept nogil:
    """Send all n bytes of a stream. 0 or -errno."""
    cdef size_t done = 0
    cdef mblk *kept = NULL
    cdef ssize_t r
    if e.d != NULL:
        return call_send(e.d, e.s, p, n, False, False, NS_NEVER, False, &done, &kept)
    while done < n:
        r = send(e.fd, p + done, n - done, 0)
        if r >= 0:
            done += r
        elif errno != EAGAIN:   # EAGAIN: it is a socket that spins
            return -errno
    return 0


cdef ssize_t get(end *e, char *p, size_t n) noexcept nogil:
    """At most n bytes; 0 at the end of the stream; -errno."""
    cdef mblk *m = NULL
    cdef ssize_t r
    if e.d == NULL:
        while True:
            r = recv(e.fd, p, n, 0)
            if r >= 0:
                return r
            if errno != EAGAIN:
                return -errno
    r = call_recv_now(e.d, e.s, n, False, &m)
    if r == -EAGAIN:
        r = call_recv(e.d, e.s, n, False, NS_NEVER, False, &m)
    if r != 0 or m == NULL:
        return r
    n = msgcopyout(&e.d.eng.ctx.book, LR_RX_COPY, m, 0, p, n)
    freemsg(m)
    return n


cdef int64_t forward(end *source, end *sink, char *room, size_t size, bint wait, int *err) noexcept nogil:
    """What a proxy does: receive into a buffer, send it; to the end of the stream, or as far as it goes at once."""
    cdef int64_t total = 0
    cdef size_t done
    cdef mblk *m
    cdef ssize_t n
    while True:
        m = NULL
        n = call_recv(source.d, source.s, size, False, NS_NEVER if wait else NO_WAIT, False, &m)
        if n == 0 and m != NULL:
            n = msgcopyout(&source.d.eng.ctx.book, LR_RX_COPY, m, 0, room, size)
            freemsg(m)
            m = NULL
            done = 0
            err[0] = call_send(sink.d, sink.s, room, n, False, False, NS_NEVER if wait else NO_WAIT, False, &done, &m)
            total += done
            if err[0] == 0:
                continue
        elif n != -EAGAIN:
            err[0] = <int>n
        return total


cdef int put_datagram(end *e, const char *p, size_t n) noexcept nogil:
    cdef mblk *m
    if e.d == NULL:
        return 0 if send(e.fd, p, n, 0) >= 0 else -errno
    m = msgcopyin(e.d.eng.ctx.mem, &e.d.eng.ctx.book, LR_TX_COPY, p, n)
    return call_sendto(e.d, e.s, m, NULL, 0, 0, NO_WAIT, False) if m != NULL else -ENOMEM


cdef ssize_t get_datagram(end *e, char *p, size_t n) noexcept nogil:
    cdef udp_meta meta
    cdef mblk *m = NULL
    cdef ssize_t r
    if e.d == NULL:
        r = recv(e.fd, p, n, 0)
        return r if r >= 0 else -errno
    r = call_recvfrom(e.d, e.s, False, NS_NEVER, False, &m, &meta)
    if r != 0:
        return r
    n = msgcopyout(&e.d.eng.ctx.book, LR_RX_COPY, m, 0, p, n)
    freemsg(m)
    return n


cdef class Loops:
    """Loops over one connected socket: a ``ustack.socket``, or anything of the kernel's with ``fileno()``.

    A socket of the kernel's that does not block is tried again and again. Times are in seconds, sizes in bytes.
    Raises OSError.
    """

    cdef object socket
    cdef end e
    cdef char *room
    cdef size_t size

    def __cinit__(self, socket, size_t size):
        self.socket = socket
        self.size = size
        self.room = <char *>calloc(1, max(size, 64))
        if self.room == NULL:
            raise MemoryError("no memory for a buffer")
        if isinstance(socket, Socket):
            self.e.d, self.e.s = (<Socket>socket).d, (<Socket>socket).s
        else:
            self.e.fd = socket.fileno()

    def __dealloc__(self):
        free(self.room)

    def send_for(self, double seconds) -> int:
        """Send buffers of ``size`` for so long; how many bytes."""
        cdef int64_t total = 0
        cdef int64_t until = now() + <int64_t>(seconds * 1e9)
        cdef int r = 0
        with nogil:
            while r == 0 and now() < until:
                r = put(&self.e, self.room, self.size)
                total += self.size
        if r < 0:
            fail(r)
        return total

    def receive_all(self) -> tuple[int, int, float]:
        """Read to the end of the stream: bytes of the first read, bytes of the others, seconds that these took."""
        cdef ssize_t first, n = 0
        cdef int64_t total = 0
        cdef int64_t began
        with nogil:
            first = get(&self.e, self.room, self.size)
            began = now()
            if first > 0:
                n = get(&self.e, self.room, self.size)
            while n > 0:
                total += n
                n = get(&self.e, self.room, self.size)
            began = now() - began
        if first < 0 or n < 0:
            fail(<int>min(first, n))
        return first, total, began / 1e9

    def exchange_for(self, Loops other not None, double seconds) -> tuple[int, float]:
        """Send a buffer, read it at the other end, and so on: bytes and seconds."""
        cdef int64_t total = 0
        cdef int64_t began = now()
        cdef int64_t until = began + <int64_t>(seconds * 1e9)
        cdef size_t left
        cdef ssize_t r = 0
        with nogil:
            while r >= 0 and now() < until:
                r = put(&self.e, self.room, self.size)
                left = self.size
                while left and r >= 0:
                    r = get(&other.e, other.room, left)
                    left -= r if r > 0 else 0
                    if r == 0:
                        r = -104        # ECONNRESET: it ended
                total += self.size
        if r < 0:
            fail(<int>r)
        return total, (now() - began) / 1e9

    def forward_to(self, Loops other not None, bint wait) -> int:
        """Receive into a buffer and send from it on another socket, both of stacks of ours; how many bytes went.

        To the end of the stream; or, without ``wait``, as many as can be had and sent at once.
        """
        cdef int64_t total
        cdef int r = 0
        if self.e.d == NULL or other.e.d == NULL:
            raise TypeError("sockets of our stacks")
        with nogil:
            total = forward(&self.e, &other.e, self.room, self.size, wait, &r)
        return total if r == 0 else fail(r)

    def ping_pong(self, double seconds) -> array:
        """Send ``size`` bytes, read as many, and so on: ns of each, as array("q")."""
        cdef size_t n = 0
        cdef size_t room = 1 << 16
        cdef int64_t *times = <int64_t *>calloc(room, sizeof(int64_t))
        cdef int64_t *more
        cdef int64_t t, began = now()
        cdef int64_t until = began + <int64_t>(seconds * 1e9)
        cdef ssize_t r = -ENOMEM
        with nogil:
            while times != NULL and began < until:
                r = put(&self.e, self.room, self.size)
                if r == 0:
                    r = get(&self.e, self.room, self.size)
                if r <= 0:
                    break
                t = now()
                if n == room:
                    more = <int64_t *>realloc(times, 2 * room * sizeof(int64_t))
                    if more == NULL:
                        r = -ENOMEM
                        break
                    times = more
                    room *= 2
                times[n] = t - began
                n += 1
                began = t
        try:
            if r <= 0:
                fail(<int>r if r else -104)
            return array("q", (<char *>times)[:n * sizeof(int64_t)])
        finally:
            free(times)

    def echo(self):
        """Send back what comes until the end of the stream."""
        cdef ssize_t r
        with nogil:
            while True:
                r = get(&self.e, self.room, self.size)
                if r <= 0:
                    break
                r = put(&self.e, self.room, r)
                if r < 0:
                    break
        if r < 0:
            fail(<int>r)

    def send_datagrams_for(self, double seconds, int64_t ahead) -> int:
        """Send as fast as the receiver's credits allow, at most ``ahead`` more than those; how many went."""
        cdef int64_t sent = 0
        cdef int64_t credit = 0
        cdef int64_t until = now() + <int64_t>(seconds * 1e9)
        cdef ssize_t r = 0
        cdef int _k
        with nogil:
            while r >= 0 and now() < until:
                while r >= 0 and sent < credit + ahead:
                    r = put_datagram(&self.e, self.room, self.size)
                    sent += 1
                if r >= 0:
                    r = get_datagram(&self.e, <char *>&credit, sizeof(credit))
            if r >= 0:
                for _k in range(FAREWELLS):
                    put_datagram(&self.e, self.room, 0)
                while get_datagram(&self.e, <char *>&credit, sizeof(credit)) > 0:
                    pass
        if r < 0:
            fail(<int>r)
        return sent

    def receive_datagrams(self, int64_t every) -> tuple[int, float]:
        """Count until an empty one, telling the sender after every so many: how many, and seconds from the first."""
        cdef int64_t got = 1
        cdef int64_t began, last
        cdef ssize_t r
        cdef int _k
        with nogil:
            r = get_datagram(&self.e, self.room, self.size)
            began = last = now()
            while r > 0:
                r = get_datagram(&self.e, self.room, self.size)
                if r > 0:
                    got += 1
                    if got % every == 0:
                        put_datagram(&self.e, <char *>&got, sizeof(got))
                        last = now()
            if r == 0:
                for _k in range(FAREWELLS):
                    put_datagram(&self.e, self.room, 0)
        if r < 0:
            fail(<int>r)
        return got, (last - began) / 1e9
