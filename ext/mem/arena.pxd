"""The memory of one engine: its pools by size, its mblk slab, its budget, and the list of storage to reap.

An arena outlives its engine for as long as blocks of it are in other hands (a view that Python lent, a packet that
another engine holds): it is freed with the last of them.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.mblk cimport dblk, mblk
from ustack._core.mem.pool cimport pool

cdef enum:
    ARENA_CLASSES = 5           # 256 B (headers), 2 KB, 16 KB, 64 KB + head, and what links ask for

cdef struct arena:
    pool *classes[ARENA_CLASSES]
    int64_t budget              # bytes of storage that may be held; 0: no bound
    int64_t held                # bytes of storage handed out (atomic)
    int64_t reserved            # bytes of storage obtained from the system (atomic)
    int64_t failures            # allocations refused for want of budget or memory (atomic)
    mblk *free_mblks            # slab of mblk structures
    int32_t lock                # of the slab
    int64_t live                # mblk and dblk outstanding (atomic): what a leak test looks at
    int32_t refs                # engine plus everything outstanding
    void *chunks                # system memory behind the slab
    dblk *reap                  # external storage whose last reference is gone (atomic stack)
    void (*on_reap)(void *arg) noexcept nogil   # told when the reap list becomes non-empty; may be NULL
    void *on_reap_arg
    ledger *book                # the engine's ledger (copyb, pullup book here)
    uint32_t flags

# budget in bytes (0: none). NULL without memory.
cdef arena *arena_create(int64_t budget, ledger *book) noexcept nogil
# The owner lets go; memory goes when the last block does. `book` is not touched afterwards.
cdef void arena_release(arena *a) noexcept nogil
# Run the free functions of external storage whose last reference is gone. With no lock held. Returns how many ran.
cdef int arena_reap(arena *a) noexcept nogil
cdef bint arena_has_reap(arena *a) noexcept nogil
# Outstanding mblk plus dblk: 0 when nothing is leaked.
cdef int64_t arena_live(arena *a) noexcept nogil
# A dblk of at least `size` bytes, refs == 1; NULL at the budget. The raw form that links draw receive buffers with.
cdef dblk *arena_take(arena *a, size_t size) noexcept nogil
