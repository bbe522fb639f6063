"""For tests and measurements: the memory model's internals that ustack.buffers does not show."""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ustack._core.base.checksum cimport csum_fold, csum_partial
from ustack._core.base.ledger cimport LR_CSUM_FUSED, LR_CSUM_TX, LR_RX_COPY, LR_TX_COPY, ledger
from ustack._core.mem.arena cimport arena, arena_create, arena_live, arena_reap, arena_release, arena_take
from ustack._core.mem.mblk cimport (
    allocb, dblk_unref, dup_range, dupb, esballoc, freeb, freemsg, mblk, msgblocks, msgbytes, msgconsume,
    msgcopyin_csum, msgcopyout, msgcsum, splitmsg,
)


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * <int64_t>1000000000 + t.tv_nsec


cdef int runs = 0


cdef void count_run(void *arg) noexcept nogil:
    global runs
    runs += 1


def smoke() -> dict[str, int]:
    """Allocate, share, cut and free once through each path; returns what should be checked."""
    cdef ledger book
    cdef arena *a
    cdef uint8_t src[70000]
    cdef uint8_t dst[70000]
    cdef mblk *m
    cdef mblk *d
    cdef mblk *rest
    cdef int i
    memset(&book, 0, sizeof(book))
    for i in range(70000):
        src[i] = <uint8_t>(i * 7 + (i >> 8))
    a = arena_create(0, &book)
    out = {}
    m = msgcopyin_csum(a, &book, LR_TX_COPY, src, 65536, 1448)
    out["blocks"] = msgblocks(m)
    out["sum"] = csum_fold(msgcsum(&book, LR_CSUM_TX, m, 0, 65536))
    out["expected"] = csum_fold(csum_partial(src, 65536))
    out["summed"] = book.nbytes[<int>LR_CSUM_TX]
    out["fused"] = book.nbytes[<int>LR_CSUM_FUSED]
    d = dup_range(a, m, 1448, 2896)
    out["shared"] = d.rptr == m.rptr + 1448 and m.dp.refs == 2
    freemsg(d)
    rest = splitmsg(a, m, 30000)
    out["rest"] = msgbytes(rest)
    m.cont = rest
    rest = msgconsume(m, 1000)
    memset(dst, 0, sizeof(dst))
    out["out"] = msgcopyout(&book, LR_RX_COPY, rest, 0, dst, 70000)
    out["same"] = memcmp(dst, &src[1000], 64536) == 0
    freemsg(rest)
    m = esballoc(a, src, 100, count_run, NULL)
    m.wptr += 100
    freeb(m)
    out["early"] = runs
    out["reaped"] = arena_reap(a)
    out["ran"] = runs
    dblk_unref(arena_take(a, 1 << 20))
    out["live"] = arena_live(a)
    out["held"] = a.held
    arena_release(a)
    return out


def time_alloc(size_t size, int rounds) -> float:
    """ns for allocb + freeb."""
    cdef arena *a = arena_create(0, NULL)
    cdef int64_t start, took
    cdef int _i
    freeb(allocb(a, size))
    with nogil:
        start = now()
        for _i in range(rounds):
            freeb(allocb(a, size))
        took = now() - start
    arena_release(a)
    return took / <double>rounds


def time_dupb(int rounds) -> float:
    """ns for dupb + freeb."""
    cdef arena *a = arena_create(0, NULL)
    cdef mblk *m = allocb(a, 2000)
    cdef int64_t start, took
    cdef int _i
    with nogil:
        start = now()
        for _i in range(rounds):
            freeb(dupb(a, m))
        took = now() - start
    freeb(m)
    arena_release(a)
    return took / <double>rounds
