"""For tests and measurements: the leaf facts of the room base (kernels, timers, hashes, lists of names)."""

cimport cython
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ustack._core.base.checksum cimport copy_csum, csum_kernel, csum_partial, csum_select
from ustack._core.base.counters cimport C_COUNT, counter_meaning, counter_name
from ustack._core.base.ledger cimport LR_COUNT, ledger_meaning, ledger_name
from ustack._core.base.rng cimport rng, rng_below, rng_next, rng_seed, rng_unit, siphash
from ustack._core.base.seq cimport seq_diff, seq_geq, seq_gt, seq_leq, seq_lt, seq_max, seq_min
from ustack._core.base.types cimport NS_NEVER, ns_t
from ustack._core.base.wheel cimport (
    timer, timer_arm, timer_armed, timer_init, timer_stop, wheel, wheel_deadline, wheel_init, wheel_run,
)


# --- checksum ---------------------------------------------------------------------------------------------
def kernel() -> str:
    """Name of the checksum kernel in use."""
    return csum_kernel().decode()


def select_kernel(name: str) -> bool:
    """Use the kernel of that name for this process; False if this CPU lacks it."""
    return csum_select(name.encode()) == 0


def partial_sum(data: bytes, Py_ssize_t begin, Py_ssize_t end) -> int:
    """The folded sum of data[begin:end], read in place at that alignment, as two bytes in memory order."""
    cdef const char *p = PyBytes_AsString(data)
    assert 0 <= begin <= end <= len(data)
    cdef uint32_t sum = csum_partial(p + begin, end - begin)
    assert sum <= 0xFFFF
    return int.from_bytes(PyBytes_FromStringAndSize(<char *>&sum, 2), "big")


def copy_sum(data: bytes, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t at) -> tuple[int, bytes]:
    """Copy data[begin:end] to a buffer of 0xA5 bytes at offset ``at`` while summing: (sum, buffer)."""
    cdef Py_ssize_t n = end - begin
    cdef const char *p = PyBytes_AsString(data)
    cdef char *dst = <char *>malloc(n + at + 128)
    cdef uint32_t sum
    assert 0 <= begin <= end <= len(data) and at >= 0
    if dst == NULL:
        raise MemoryError
    memset(dst, 0xA5, n + at + 128)
    sum = copy_csum(dst + at, p + begin, n)
    result = PyBytes_FromStringAndSize(dst, n + at + 128)
    free(dst)
    assert sum <= 0xFFFF
    return int.from_bytes(PyBytes_FromStringAndSize(<char *>&sum, 2), "big"), result


# --- names ------------------------------------------------------------------------------------------------
def counter_list() -> list[tuple[str, str]]:
    """(name, meaning) of every counter, in order."""
    return [(counter_name(i).decode(), counter_meaning(i).decode()) for i in range(C_COUNT)]


def ledger_list() -> list[tuple[str, str]]:
    """(name, meaning) of every reason of the ledger, in order."""
    return [(ledger_name(i).decode(), ledger_meaning(i).decode()) for i in range(LR_COUNT)]


# --- sequence numbers, randomness -------------------------------------------------------------------------
def seq_compare(uint32_t a, uint32_t b) -> tuple[bool, bool, bool, bool, int, int, int]:
    """(lt, leq, gt, geq, diff, max, min) of two sequence numbers."""
    return (seq_lt(a, b), seq_leq(a, b), seq_gt(a, b), seq_geq(a, b),
            seq_diff(a, b), seq_max(a, b), seq_min(a, b))


def sip(key: bytes, data: bytes) -> int:
    """SipHash-2-4 under a 16-byte key."""
    cdef uint64_t words[2]
    assert len(key) == 16
    memcpy(words, PyBytes_AsString(key), 16)
    return siphash(words, PyBytes_AsString(data), len(data))


def dice(seed: list[int], int n, uint32_t below) -> tuple[list[int], list[int], list[float], tuple[int, int]]:
    """n raw numbers, n below a bound, n in [0, 1), and the SipHash key, of a generator with this seed."""
    cdef uint64_t words[8]
    cdef rng r
    cdef int i
    assert len(seed) <= 8
    for i in range(len(seed)):
        words[i] = seed[i]
    rng_seed(&r, words, len(seed))
    return ([rng_next(&r) for _ in range(n)], [rng_below(&r, below) for _ in range(n)],
            [rng_unit(&r) for _ in range(n)], (r.key[0], r.key[1]))


# --- the timer wheel --------------------------------------------------------------------------------------
cdef enum:
    DO_NOTHING = 0
    DO_ARM = 1
    DO_STOP = 2
    LOG_SIZE = 100000

cdef struct entry:
    timer t
    int index
    int act
    int other
    ns_t delta
    rig *home

cdef struct rig:
    wheel w
    entry *entries
    int *log
    int logged


cdef void fire(void *arg, ns_t now) noexcept nogil:
    cdef entry *e = <entry *>arg
    cdef rig *r = e.home
    if r.logged < LOG_SIZE:
        r.log[r.logged] = e.index
        r.logged += 1
    if e.act == DO_ARM:
        timer_arm(&r.w, &r.entries[e.other].t, now + e.delta)
    elif e.act == DO_STOP:
        timer_stop(&r.w, &r.entries[e.other].t)
    e.act = DO_NOTHING


@cython.final
cdef class Wheel:
    """A timer wheel with ``n`` timers that write down when they fire."""

    cdef rig r
    cdef int n

    def __cinit__(self, now: int, n: int):
        cdef int i
        self.n = n
        self.r.logged = 0
        self.r.entries = <entry *>malloc(n * sizeof(entry))
        self.r.log = <int *>malloc(LOG_SIZE * sizeof(int))
        if self.r.entries == NULL or self.r.log == NULL:
            raise MemoryError
        wheel_init(&self.r.w, now)
        for i in range(n):
            timer_init(&self.r.entries[i].t, fire, &self.r.entries[i])
            self.r.entries[i].index = i
            self.r.entries[i].act = DO_NOTHING
            self.r.entries[i].home = &self.r

    def __dealloc__(self):
        free(self.r.entries)
        free(self.r.log)

    cdef entry *entry(self, int i) except NULL:
        if not 0 <= i < self.n:
            raise IndexError(i)
        return &self.r.entries[i]

    def arm(self, i: int, expires: int) -> None:
        """(Re)arm timer i."""
        timer_arm(&self.r.w, &self.entry(i).t, expires)

    def stop(self, i: int) -> None:
        """Stop timer i."""
        timer_stop(&self.r.w, &self.entry(i).t)

    def script(self, i: int, other: int, delta: int | None) -> None:
        """When timer i fires next, arm ``other`` for now + delta, or stop it (None)."""
        cdef entry *e = self.entry(i)
        self.entry(other)
        e.act = DO_STOP if delta is None else DO_ARM
        e.other = other
        e.delta = delta or 0

    def run(self, now: int) -> list[int]:
        """Run the wheel at ``now``; the timers that fired, in order."""
        cdef int fired
        cdef ns_t t = now
        self.r.logged = 0
        with nogil:
            fired = wheel_run(&self.r.w, t)
        assert fired == self.r.logged
        return [self.r.log[i] for i in range(self.r.logged)]

    def deadline(self) -> int | None:
        """When the wheel wants to be run; None if no timer is armed."""
        cdef ns_t t = wheel_deadline(&self.r.w)
        return None if t == NS_NEVER else t

    def armed(self, i: int) -> bool:
        """Whether timer i is armed."""
        return timer_armed(&self.entry(i).t)

    @property
    def count(self) -> int:
        """How many timers the wheel counts as armed."""
        return self.r.w.armed
