"""For tests: what a shared-memory link can be given that no call of the library gives it yet."""

from libc.stdint cimport int64_t

from ustack._core.mem.mblk cimport esballoc, mblk
from ustack._core.py.driver cimport driver_flush_unlock, driver_lock
from ustack._core.py.socket cimport Socket
from ustack._core.sys.memory cimport PROT_READ, PROT_WRITE, mem_protect
from ustack._core.tcp.tcp cimport tcp_send
from ustack._core.zerocopy.window cimport windows_darken, windows_drop

PROTECTIONS = {"none": 0, "read": PROT_READ, "write": PROT_READ | PROT_WRITE}

cdef int ended = 0


cdef void count(void *arg) noexcept nogil:
    global ended
    ended += 1


def protect(size_t address, size_t length, what) -> None:
    """mprotect whole pages: "none", "read" or "write"."""
    if mem_protect(<void *>address, length, PROTECTIONS[what]) < 0:
        raise OSError("mprotect")


def darken_files(bint dark) -> None:
    """From here on files are mapped without access for this process; unused windows are unmapped first."""
    windows_drop()
    windows_darken(dark)


def queue_external(Socket sock, size_t address, size_t length) -> int:
    """Queue memory of the caller's on a stream as it lies there: nothing reads it here. It stays until completed() says
    so. The bytes taken, or -errno."""
    cdef mblk *m
    cdef int64_t r
    with nogil:
        driver_lock(sock.d)
        m = esballoc(sock.d.eng.ctx.mem, <void *>address, length, count, NULL)
        if m != NULL:
            m.wptr += length
            m.pkt_len = length
        r = tcp_send(sock.s.tcp, m, 0) if m != NULL else -105
        driver_flush_unlock(sock.d)
    return r


def completed() -> int:
    """How many blocks of external memory were let go so far."""
    return ended
