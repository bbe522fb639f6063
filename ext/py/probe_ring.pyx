"""For tests: one side of a ring in shared memory, over any writable buffer."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ustack._core.mem.ring cimport (
    RING_CONSUMER, RING_PRODUCER, ring, ring_arm, ring_arm_for, ring_attach, ring_disarm, ring_extent, ring_owes_kick,
    ring_put, ring_ready, ring_take,
)
from ustack._core.sys.eventfd cimport sys_eventfd_signal, sys_eventfd_take
from ustack._core.sys.poll cimport POLLIN, pollfd, sys_ppoll

PRODUCER = RING_PRODUCER
CONSUMER = RING_CONSUMER


def extent(uint32_t capacity, uint32_t entry) -> int:
    """Bytes that a ring takes; 0 if there is no such ring."""
    return ring_extent(capacity, entry)


cdef class Ring:
    """One side of a ring at ``offset`` in a writable buffer. Results are those of the core: numbers or -errno."""

    cdef ring r
    cdef Py_buffer view
    cdef bint held

    def __init__(self, memory, int side, uint32_t capacity, uint32_t entry, size_t offset=0):
        PyObject_GetBuffer(memory, &self.view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        size = <size_t>self.view.len
        e = ring_attach(&self.r, <uint8_t *>self.view.buf + offset, size - offset if offset <= size else 0, capacity,
                        entry, side)
        if e < 0:
            PyBuffer_Release(&self.view)
            raise OSError(-e, "no such ring")
        self.held = True

    def close(self):
        """Let go of the buffer."""
        if self.held:
            self.held = False
            self.r.broken = True
            PyBuffer_Release(&self.view)

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    def put(self, bytes entries) -> int:
        """Produce the entries in ``entries``."""
        return ring_put(&self.r, PyBytes_AS_STRING(entries), len(entries) // self.r.entry)

    def take(self, int most):
        """Consume up to ``most`` entries: their bytes, or -errno."""
        cdef bytes out = PyBytes_FromStringAndSize(NULL, max(most, 0) * self.r.entry)
        n = ring_take(&self.r, PyBytes_AS_STRING(out), most)
        return out[:n * self.r.entry] if n >= 0 else n

    def ready(self) -> int:
        return ring_ready(&self.r)

    def arm(self, int least=1) -> int:
        return ring_arm(&self.r) if least == 1 else ring_arm_for(&self.r, least)

    def disarm(self) -> None:
        ring_disarm(&self.r)

    def owes_kick(self) -> bool:
        return ring_owes_kick(&self.r)

    @property
    def broken(self) -> bool:
        return self.r.broken

    @property
    def kicks(self) -> int:
        return self.r.kicks

    def run(self, int bell, int other, uint32_t count, int burst):
        """Move ``count`` entries whose first word counts up, sleeping on eventfd ``bell`` and kicking ``other``.

        Returns (entries moved, times slept, first entry that was wrong or -1).
        """
        cdef uint32_t done = 0, i, word, sleeps = 0
        cdef int n, wrong = -1
        cdef uint8_t buffer[65536]
        if burst * self.r.entry > sizeof(buffer):
            raise ValueError("too long a burst")
        with nogil:
            while done < count and wrong < 0:
                if self.r.side == RING_PRODUCER:
                    for i in range(<uint32_t>burst):
                        (<uint32_t *>(buffer + i * self.r.entry))[0] = done + i
                        (<uint32_t *>(buffer + i * self.r.entry))[1] = ~(done + i)
                    n = ring_put(&self.r, buffer, burst if burst < <int>(count - done) else <int>(count - done))
                else:
                    n = ring_take(&self.r, buffer, burst)
                    for i in range(<uint32_t>(n if n > 0 else 0)):
                        word = (<uint32_t *>(buffer + i * self.r.entry))[0]
                        if word != done + i or (<uint32_t *>(buffer + i * self.r.entry))[1] != ~word:
                            wrong = done + i
                if n < 0:
                    break
                done += n
                if n and ring_owes_kick(&self.r):
                    sys_eventfd_signal(other)
                if n == 0 and done < count and self.sleep(bell):
                    sleeps += 1
        return done, sleeps, wrong

    cdef bint sleep(self, int bell) noexcept nogil:
        cdef pollfd p
        cdef uint64_t taken = 0
        if ring_arm(&self.r) != 0:
            return False
        p.fd = bell
        p.events = POLLIN
        p.revents = 0
        sys_ppoll(&p, 1, <int64_t>10_000_000_000)
        sys_eventfd_take(bell, &taken)
        ring_disarm(&self.r)
        return True
