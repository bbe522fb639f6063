"""The memory of one engine: its pools by size, its mblk slab, its budget, and the list of storage to reap.

An arena outlives its engine for as long as blocks of it are in other hands (a view that Python lent, a
packet that another engine holds): it is freed with the last of them.

Budget: it bounds ``held``, the storage of all blocks that are out, each counted with its whole buffer. A
pool grows only when a block is asked for that it does not have, so ``reserved`` follows: it is the sum of
the classes' peaks, each rounded up to the pool's growth (64 KB to 1 MB at first, at most 16 times that).
External storage is not counted: it is not the arena's. An allocation beyond the budget returns NULL and
counts in ``failures``.

Threads: every function may be called from any thread. One spin lock covers the slab, the pools' free lists
and the numbers; it is never held over a system call.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.types cimport (
    ARENA_CLASSES, CELL, HEADER_SIZE, JUMBO_SIZE, LARGE_SIZE, arena, dblk, mblk, pool,
)

# budget in bytes (0: none). NULL without memory.
cdef arena *arena_create(int64_t budget, ledger *book) noexcept nogil
# Keep so many bytes of the budget for alloc_header: whoever holds much can still be told to let go.
cdef void arena_reserve(arena *a, int64_t nbytes) noexcept nogil
# The owner lets go; memory goes when the last block and the last arena_ref do. `book` is not touched
# afterwards. External storage that is still out then has nobody who would reap it: unless on_reap is set,
# its free function runs in the thread that drops its last reference.
cdef void arena_release(arena *a) noexcept nogil
cdef void arena_ref(arena *a) noexcept nogil
cdef void arena_unref(arena *a) noexcept nogil
# Run the free functions of external storage whose last reference is gone. With no lock held. Returns how
# many ran.
cdef int arena_reap(arena *a) noexcept nogil
cdef bint arena_has_reap(arena *a) noexcept nogil
# Outstanding mblk plus dblk: 0 when nothing is leaked.
cdef int64_t arena_live(arena *a) noexcept nogil
# A dblk of at least `size` bytes, refs == 1; NULL at the budget. The raw form that links draw receive
# buffers with.
cdef dblk *arena_take(arena *a, size_t size) noexcept nogil
# The same, out of what is kept for headers as well.
cdef dblk *arena_take_reserved(arena *a, size_t size) noexcept nogil

# --- for the other modules of this room -------------------------------------------------------------------
cdef bint arena_refill(arena *a) noexcept nogil
cdef void *cell_take(arena *a) noexcept nogil
# Back to the slab, and the arena with it when that was the last of them and nobody holds the arena.
cdef void cell_give(arena *a, void *cell) noexcept nogil
cdef void arena_push_reap(arena *a, dblk *d) noexcept nogil
cdef void arena_destroy(arena *a) noexcept nogil


cdef enum:
    # What queues may hold, in sixteenths of the budget less the reserve for headers and two large receive buffers.
    # Data to send and what is kept for applications have shares of their own: neither can starve the other, though
    # an application does not read, or a peer does not acknowledge. What is left lets acknowledgements come in;
    # alloc_header has a reserve for those that go out.
    SEND_SHARE = 6              # data to send, of all connections
    SEND_LAST = 8               # the same, for a connection that has none queued
    KEEP_SHARE = 6              # data, datagrams, fragments received, and everything else that is held
    KEEP_LAST = 7               # the same, for a connection or socket for which nothing is kept


cdef inline bint arena_may_send(const arena *a, size_t more, int share) noexcept nogil:
    """Whether `more` bytes of storage may be queued to be sent. Without a budget: always."""
    return a.budget == 0 or ((a.sending + <int64_t>more) * 16 <= (a.common - 2 * LARGE_SIZE) * share
                             and a.held + <int64_t>more <= a.common)


cdef inline bint arena_may_keep(const arena *a, size_t storage, int share) noexcept nogil:
    """Whether what was received, in so much storage that is held already, may be kept beside the rest. Without a
    budget: always."""
    return a.budget == 0 or (a.held - a.sending - <int64_t>storage) * 16 <= (a.common - 2 * LARGE_SIZE) * share


cdef inline pool *class_for(arena *a, size_t size) noexcept nogil:
    """The pool whose buffers fit; NULL if the size needs a region of its own."""
    if size <= HEADER_SIZE:
        return a.classes[0]
    if size <= 2048:
        return a.classes[1]
    if size <= 16384:
        return a.classes[2]
    if size <= LARGE_SIZE:
        return a.classes[3]
    return a.classes[4] if size <= JUMBO_SIZE else NULL
