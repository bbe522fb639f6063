"""For tests and measurements: the memory model's internals that ustack.buffers does not show."""

cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ustack._core.base.checksum cimport copy_csum, csum_fold, csum_partial
from ustack._core.base.ledger cimport LR_CSUM_FUSED, LR_CSUM_TX, LR_RX_COPY, LR_TX_COPY, ledger
from ustack._core.base.rng cimport rng, rng_next, rng_seed
from ustack._core.base.types cimport atomic_inc32, atomic_swapp
from ustack._core.mem.arena cimport arena, arena_create, arena_live, arena_reap, arena_release, arena_take
from ustack._core.mem.mblk cimport (
    allocb, copyb, dblk_unref, dup_range, dupb, esballoc, freeb, freemsg, mblk, msgblocks, msgbytes,
    msgconsume, msgcopyin, msgcopyin_csum, msgcopyout, msgcsum, splitmsg,
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


cdef enum:
    SHARED = 8
    OWN = 16

cdef struct playground:
    arena *a
    mblk *shared[SHARED]        # blocks on their way from thread to thread
    int32_t runs                # free functions that ran


cdef void count_atomically(void *arg) noexcept nogil:
    atomic_inc32(<int32_t *>arg)


cdef bint sound(mblk *m) noexcept nogil:
    """A block of ours begins with its own storage's address: nobody else was given the storage."""
    return (<void **>m.dp.base)[0] == <void *>m.dp.base


cdef mblk *another(playground *p, mblk *of, uint64_t dice, int *lent, void **memory) noexcept nogil:
    """A new block in one of the ways there are, on new storage or on the storage of ``of``."""
    cdef mblk *m
    if of != NULL and dice & 3 == 1:
        return dupb(p.a, of)
    if of != NULL and dice & 3 == 3:
        m = copyb(p.a, of)
        if m != NULL:
            (<void **>m.dp.base)[0] = m.dp.base     # the copy names the original's storage
        return m
    if dice & 12 == 0:
        lent[0] += 1
        m = esballoc(p.a, memory[0], 64, count_atomically, &p.runs)
        memory[0] = <char *>memory[0] + 64
    else:
        m = allocb(p.a, 64 << (dice >> 8 & 7))
    if m != NULL:
        (<void **>m.dp.base)[0] = m.dp.base
        m.wptr = m.rptr + 64
    return m


cdef int play(playground *p, int rounds, uint64_t seed, void *memory, int *bad) noexcept nogil:
    """Make, share, hand over and free blocks; returns how many external ones there were."""
    cdef mblk *own[OWN]
    cdef rng r
    cdef uint64_t dice
    cdef int _i, k
    cdef int lent = 0
    memset(own, 0, sizeof(own))
    rng_seed(&r, &seed, 1)
    for _i in range(rounds):
        dice = rng_next(&r)
        k = dice >> 32 & (OWN - 1)
        if own[k] == NULL:
            own[k] = another(p, own[dice >> 40 & (OWN - 1)], dice, &lent, &memory)
        elif dice & 1:
            bad[0] += not sound(own[k])
            freeb(own[k])
            own[k] = NULL
        else:
            own[k] = <mblk *>atomic_swapp(&p.shared[dice >> 48 & (SHARED - 1)], own[k])
        if dice >> 52 & 63 == 0:
            arena_reap(p.a)
    for k in range(OWN):
        freeb(own[k])
    arena_reap(p.a)
    return lent


cdef void release_memory(object capsule) noexcept:
    free(PyCapsule_GetPointer(capsule, NULL))


@cython.final
cdef class Playground:
    """An arena that several threads use at once, without the GIL."""

    cdef playground p
    cdef list keep

    def __cinit__(self, budget: int = 0):
        self.keep = []
        memset(&self.p, 0, sizeof(playground))
        self.p.a = arena_create(budget, NULL)
        if self.p.a == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.p.a != NULL:
            arena_release(self.p.a)

    def play(self, int rounds, uint64_t seed) -> tuple[int, int]:
        """Run one thread's part: (external blocks made, blocks found damaged)."""
        cdef void *memory = malloc(rounds * 64)
        cdef int lent
        cdef int bad = 0
        if memory == NULL:
            raise MemoryError
        self.keep.append(PyCapsule_New(memory, NULL, release_memory))
        with nogil:
            lent = play(&self.p, rounds, seed, memory, &bad)
        return lent, bad

    def finish(self) -> tuple[int, int, int]:
        """Free what is under way: (free functions that ran, structures alive, bytes held)."""
        cdef int i
        for i in range(SHARED):
            freeb(self.p.shared[i])
            self.p.shared[i] = NULL
        arena_reap(self.p.a)
        return self.p.runs, arena_live(self.p.a), self.p.a.held


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


def time_copies(size_t size, int rounds, uint32_t stride) -> tuple[float, float, float, float]:
    """ns to move ``size`` warm bytes: (memcpy, copy_csum, msgcopyin + freemsg, msgcopyin_csum + freemsg)."""
    cdef arena *a = arena_create(0, NULL)
    cdef uint8_t *src = <uint8_t *>malloc(size + 4096)
    cdef mblk *target = allocb(a, size)
    cdef int64_t took[4]
    cdef int64_t start
    cdef int _i
    cdef int k
    if a == NULL or src == NULL or target == NULL:
        raise MemoryError
    memset(src, 1, size)
    with nogil:
        for k in range(4):
            start = now()
            for _i in range(rounds):
                if k == 0:
                    memcpy(target.dp.base, src, size)
                elif k == 1:
                    copy_csum(target.dp.base, src, size)
                elif k == 2:
                    freemsg(msgcopyin(a, NULL, LR_TX_COPY, src, size))
                else:
                    freemsg(msgcopyin_csum(a, NULL, LR_TX_COPY, src, size, stride))
            took[k] = now() - start
        freemsg(target)
        arena_release(a)
        free(src)
    return (took[0] / <double>rounds, took[1] / <double>rounds,
            took[2] / <double>rounds, took[3] / <double>rounds)
