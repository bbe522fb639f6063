"""For ``ustack lab``: copies, sums, page tables, pins and the kernel's own ways of sending a file, timed in C.

Functions return nanoseconds of one operation. What they were made of is in bench_lab.h. They look at no signals
while they run; who calls them keeps them short. Raises OSError, ValueError, MemoryError.
"""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

import mmap
import os

from ustack._core.base.checksum cimport copy_csum, csum_kernel, csum_partial, csum_select
from ustack._core.base.types cimport NS_NEVER
from ustack._core.mem.mblk cimport freemsg, mblk
from ustack._core.py.calls cimport call_send
from ustack._core.py.errors cimport fail
from ustack._core.py.socket cimport Socket

cdef extern from "bench_lab.h" nogil:
    int64_t lab_now()
    int64_t lab_cpu()
    void *lab_memcpy(void *d, const void *p, size_t n)
    uint32_t lab_csum16(const uint8_t *p, size_t n)
    uint32_t lab_copy_csum16(uint8_t *d, const uint8_t *p, size_t n)
    int64_t lab_cow(uint8_t *p, uint8_t *spare, size_t size, long writes, long count, int uffd)
    int lab_uffd(uint8_t *p, size_t size)
    int64_t lab_protect(uint8_t *p, size_t size, long count)
    int64_t lab_lock(uint8_t *p, size_t size, long count)
    int64_t lab_unmap(size_t size, int huge, long count)
    int64_t lab_private(int fd, size_t size, long count)
    int64_t lab_move(size_t size, long count)
    int64_t lab_flip(int fd, size_t size, long count)
    int lab_uring()
    int64_t lab_register(int ring, uint8_t *p, size_t size, long count)
    struct lab_way:
        int how
        int file
        int out
        int again
        size_t size
        size_t piece
        uint8_t *room
        const uint8_t *kept
        int pipe[2]
    int64_t lab_send(lab_way *w, uint64_t total, int64_t *cpu)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *data, size_t n, int flags)

PAGE = 4096
COPYING = {"copy": 0, "csum": 1, "separate": 2, "fused": 3}
SENDING = {"read": 0, "map": 1, "sendfile": 2, "splice": 3, "mapped": 4}

cdef volatile uint32_t sink = 0


cdef double each(int64_t ns, long count) except -1:
    if ns < 0:
        fail(<int>ns)
    return ns / <double>count


# --- copying and summing ----------------------------------------------------------------------------------------------

cdef uint32_t copy_or_sum(int what, bint words, uint8_t *d, uint8_t *p, size_t n) noexcept nogil:
    """One of COPYING; words: 16 bits at a time, else as the core does it."""
    if what == 0:
        lab_memcpy(d, p, n)
        return 0
    if what == 1:
        return lab_csum16(p, n) if words else csum_partial(p, n)
    if what == 2:
        lab_memcpy(d, p, n)
        return lab_csum16(d, n) if words else csum_partial(d, n)
    return lab_copy_csum16(d, p, n) if words else copy_csum(d, p, n)


cdef int64_t copy_at(int what, bint words, uint8_t *room, size_t to, size_t half, size_t n, long count) noexcept nogil:
    """Copy blocks of n bytes to `to` bytes behind them, walking through the first `half` bytes; returns ns."""
    global sink
    cdef size_t step = (n + 63) & ~<size_t>63
    cdef size_t at = 0
    cdef long _k
    cdef uint32_t total = 0
    cdef int64_t began = lab_now()
    for _k in range(count):
        total += copy_or_sum(what, words, room + to + at, room + at, n)
        at += step
        if at + n > half:
            at = 0
    sink = total
    return lab_now() - began


@cython.final
cdef class Room:
    """Memory to copy in: two halves of ``size`` bytes each (at least). Pages are there, of 4 KiB or, if asked, huge."""

    cdef object map
    cdef uint8_t *at
    cdef readonly size_t half

    def __cinit__(self, size_t size, *, bint huge=False):
        cdef uint8_t[::1] view
        self.half = (size + 4095) & ~<size_t>4095
        self.map = mmap.mmap(-1, 2 * self.half + 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        view = self.map
        self.at = &view[0]
        with nogil:
            memset(self.at, 0x5A, 2 * self.half + 4096)

    def copying(self, what: str, kernel: str, size: int, count: int, cold: bool = False) -> float:
        """ns to copy, sum, copy and then sum ("separate"), or do both in one pass ("fused"), ``size`` bytes.

        kernel: "words" (16 bits at a time), or one of the core's: "scalar", "avx2", "avx512", "" for the one in use.
        Source and destination lie at different offsets in their pages: else loads would wait for stores to addresses
        that look the same. The same block again and again; cold: another one each time, through all of the room.
        """
        cdef int which = COPYING[what]
        cdef bint words = kernel == "words"
        cdef size_t n = size
        cdef size_t half = self.half if cold else min(self.half, (n + 63) & ~<size_t>63)
        cdef long turns = count
        cdef int64_t spent
        before = csum_kernel()
        if not 0 < n <= self.half:
            raise ValueError("a block must fit into the room")
        if kernel and not words and csum_select(kernel.encode()) < 0:
            raise ValueError(f"this CPU has no {kernel}")
        with nogil:
            copy_at(which, words, self.at, self.half + 2048, half, n, 1 if n > 65536 else 16)
            spent = copy_at(which, words, self.at, self.half + 2048, half, n, turns)
        csum_select(before)
        return spent / <double>turns

    def consume(self, size: int, count: int, *, copied: bool, used: bool = True) -> float:
        """ns to read all of a block that no cache has: in place, or after copying it to a buffer that stays the same.

        used: False: only the copy.
        """
        cdef size_t n = size
        cdef size_t at = 0
        cdef bint copy = copied
        cdef bint look = used
        cdef long turns = count
        cdef long _k
        cdef int64_t began
        cdef uint8_t *own = self.at + self.half + 2048
        cdef uint32_t total = 0
        global sink
        if not 0 < n <= self.half:
            raise ValueError("a block must fit into the room")
        with nogil:
            began = lab_now()
            for _k in range(turns):
                if copy:
                    lab_memcpy(own, self.at + at, n)
                if look:
                    total += csum_partial(own if copy else self.at + at, n)
                at += (n + 63) & ~<size_t>63
                if at + n > self.half:
                    at = 0
            began = lab_now() - began
        sink = total
        return began / <double>turns

    def protect(self, size: int, count: int) -> float:
        """ns to make ``size`` bytes read-only and writable again (mprotect, twice)."""
        return each(lab_protect_released(self.at, self.checked(size), count), count)

    def lock(self, size: int, count: int) -> float:
        """ns to mlock and munlock ``size`` bytes."""
        cdef size_t n = self.checked(size)
        cdef long turns = count
        cdef int64_t spent
        with nogil:
            spent = lab_lock(self.at, n, turns)
        return each(spent, turns)

    def cow(self, size: int, writes: int, count: int, *, uffd: int = -1) -> float:
        """ns to protect ``size`` bytes, write to the first ``writes`` pages, and unprotect.

        Each write faults; the handler copies the page and lifts its protection. uffd: of ``write_protected``.
        """
        cdef size_t n = self.checked(size)
        cdef long turns = count
        cdef long pages = writes
        cdef int fd = uffd
        cdef int64_t spent
        if not 0 <= pages * 4096 <= size:
            raise ValueError("that many pages are not there")
        with nogil:
            spent = lab_cow(self.at, self.at + self.half, n, pages, turns, fd)
        return each(spent, turns)

    def write_protected(self, size: int) -> int:
        """A userfaultfd for the first ``size`` bytes, whose faults come as SIGBUS; close it with os.close."""
        cdef int fd = lab_uffd(self.at, self.checked(size))
        return fd if fd >= 0 else fail(fd)

    def register(self, ring: int, size: int, count: int) -> float:
        """ns to register ``size`` bytes with an io_uring (``uring()``), which pins them, and to give them back."""
        cdef size_t n = self.checked(size)
        cdef long turns = count
        cdef int fd = ring
        cdef int64_t spent
        with nogil:
            spent = lab_register(fd, self.at, n, turns)
        return each(spent, turns)

    cdef size_t checked(self, size) except 0:
        if not 0 < size <= self.half or size % 4096:
            raise ValueError("whole pages of the room")
        return size


cdef int64_t lab_protect_released(uint8_t *p, size_t n, long count) noexcept:
    cdef int64_t spent
    with nogil:
        spent = lab_protect(p, n, count)
    return spent


def checksum_kernels() -> list[str]:
    """The core's checksum kernels that this CPU has."""
    before = csum_kernel()
    found = [name for name in (b"scalar", b"avx2", b"avx512") if csum_select(name) >= 0]
    csum_select(before)
    return [name.decode() for name in found]


def use_checksum_kernel(name: str) -> str:
    """Have the whole core use that kernel; returns the name of the one before. Raises ValueError."""
    before = csum_kernel().decode()
    if csum_select(name.encode()) < 0:
        raise ValueError(f"this CPU has no {name}")
    return before


# --- pages ------------------------------------------------------------------------------------------------------------

def unmap(size: int, count: int, *, huge: bool = False) -> float:
    """ns to unmap ``size`` bytes that were written to."""
    cdef size_t n = size
    cdef long turns = count
    cdef int large = huge
    cdef int64_t spent
    with nogil:
        spent = lab_unmap(n, large, turns)
    return each(spent, turns)


def private_write(fd: int, size: int, count: int) -> float:
    """ns of the first write to every page of a private mapping of a file: the kernel's copy on write."""
    cdef size_t n = size
    cdef long turns = count
    cdef int file = fd
    cdef int64_t spent
    with nogil:
        spent = lab_private(file, n, turns)
    return each(spent, turns)


def move(size: int, count: int) -> float:
    """ns to move ``size`` bytes to another address with mremap and to write to each page there."""
    cdef size_t n = size
    cdef long turns = count
    cdef int64_t spent
    with nogil:
        spent = lab_move(n, turns)
    return each(spent, turns)


def flip(fd: int, size: int, count: int) -> float:
    """ns to map another ``size`` bytes of a file (of twice that) over an address and to read each page."""
    cdef size_t n = size
    cdef long turns = count
    cdef int file = fd
    cdef int64_t spent
    with nogil:
        spent = lab_flip(file, n, turns)
    return each(spent, turns)


def uring() -> int:
    """A descriptor of a new io_uring."""
    cdef int fd = lab_uring()
    return fd if fd >= 0 else fail(fd)


# --- what else goes on ------------------------------------------------------------------------------------------------

@cython.final
cdef class Companion:
    """A loop for another thread: ``run`` computes and touches memory until ``stop``; ``count`` says how far it is."""

    cdef volatile int32_t over
    cdef volatile int64_t rounds
    cdef uint8_t page[4096]

    def run(self) -> None:
        """Until ``stop``; without the GIL."""
        cdef uint32_t x = 1
        cdef int _k
        with nogil:
            while not self.over:
                for _k in range(256):
                    x = x * 1664525 + 1013904223
                    self.page[x >> 20] += 1
                self.rounds += 1

    def stop(self) -> None:
        """Let ``run`` return."""
        self.over = 1

    @property
    def count(self) -> int:
        """Rounds so far."""
        return self.rounds


@cython.final
cdef class Chase:
    """A chain of loads, each of which needs the one before: cache lines in random order, over ``size`` bytes."""

    cdef object map
    cdef uint32_t *at
    cdef uint32_t lines

    def __cinit__(self, size_t size, uint32_t seed=1):
        cdef uint8_t[::1] view
        cdef uint32_t k, j, t
        self.lines = <uint32_t>(size // 64)
        if self.lines < 2:
            raise ValueError("at least two cache lines")
        self.map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = self.map
        self.at = <uint32_t *>&view[0]
        for k in range(self.lines):
            self.at[k * 16] = k
        k = self.lines - 1
        while k > 0:            # Sattolo: one cycle through all
            seed = seed * 1664525 + 1013904223
            j = (seed >> 8) % k
            t = self.at[k * 16]
            self.at[k * 16] = self.at[j * 16]
            self.at[j * 16] = t
            k -= 1

    def run(self, rounds: int = 1) -> float:
        """ns of a load, over so many rounds through all lines."""
        global sink
        cdef uint32_t at = 0
        cdef int64_t steps = <int64_t>self.lines * rounds
        cdef int64_t _k, began
        with nogil:
            began = lab_now()
            for _k in range(steps):
                at = self.at[at * 16]
            sink = at
            began = lab_now() - began
        return began / <double>steps


# --- files, the kernel's ways -----------------------------------------------------------------------------------------

def send_file(how: str, file: int, size: int, out: int, piece: int, total: int, *,
              again: bool = False) -> tuple[float, float]:
    """(wall, CPU of this thread) in ns, for ``total`` bytes of a file to a blocking descriptor of the kernel.

    how: "read" (pread and write), "map" (the file mapped, written, unmapped), "mapped" (mapped once), "sendfile",
    "splice" (through a pipe). The file's ``size`` bytes are sent again and again, in pieces of whole pages; again: the
    output is a file, and each piece written to its beginning ("read" and the mapped ones only).
    """
    cdef lab_way w
    cdef uint64_t all = total
    cdef uint8_t[::1] room_view
    cdef const uint8_t[::1] kept_view
    cdef int64_t spent
    cdef int64_t cpu = 0
    w.how, w.file, w.out, w.again, w.size, w.piece = SENDING[how], file, out, again, size, piece
    w.room = NULL
    w.kept = NULL
    if how == "read":
        room_view = bytearray(piece)
        w.room = &room_view[0]
    elif how == "mapped":
        kept_map = mmap.mmap(file, size, mmap.MAP_SHARED, mmap.PROT_READ)
        kept_view = kept_map
        w.kept = &kept_view[0]
    elif how == "splice":
        w.pipe[0], w.pipe[1] = os.pipe2(os.O_CLOEXEC)
    with nogil:
        spent = lab_send(&w, all, &cpu)
    if how == "splice":
        os.close(w.pipe[0])
        os.close(w.pipe[1])
    if spent < 0:
        fail(<int>spent)
    return float(spent), float(cpu)


def drain(fd: int, size: int = 1 << 18) -> tuple[int, float]:
    """(bytes, CPU ns of this thread): read a blocking socket of the kernel to its end."""
    cdef uint8_t[::1] room = bytearray(size)
    cdef size_t n = size
    cdef int s = fd
    cdef ssize_t r
    cdef int64_t total = 0
    cdef int64_t used
    with nogil:
        used = lab_cpu()
        while True:
            r = recv(s, &room[0], n, 0)
            if r <= 0:
                break
            total += r
        used = lab_cpu() - used
    return total, float(used)


def send_calls(socket: Socket, size: int, count: int) -> tuple[float, float]:
    """(wall, CPU of this thread) in ns of one blocking send of ``size`` bytes on a stack's socket, in C."""
    cdef Socket s = socket
    cdef size_t n = size
    cdef long turns = count
    cdef long _k
    cdef size_t done
    cdef mblk *kept = NULL
    cdef uint8_t[::1] room = bytearray(max(size, 1))
    cdef const char *p = <const char *>&room[0]
    cdef int64_t began, used
    cdef int r = 0
    s.stack.enter()
    try:
        with nogil:
            began = lab_now()
            used = lab_cpu()
            for _k in range(turns):
                done = 0
                r = call_send(s.d, s.s, p, n, False, False, NS_NEVER, False, &done, &kept)
                if r != 0:
                    break
            used = lab_cpu() - used
            began = lab_now() - began
    finally:
        s.stack.leave()
    if kept != NULL:
        freemsg(kept)
    if r != 0:
        fail(r)
    return began / <double>turns, used / <double>turns


def cpu_ns() -> int:
    """CPU time of this thread."""
    return lab_cpu()
