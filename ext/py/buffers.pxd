"""What other modules of the room need of Python's handles on message blocks."""

cimport cython

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk


@cython.final
cdef class Arena:
    cdef arena *a
    cdef ledger book


@cython.final
cdef class Mblk:
    cdef mblk *m                # NULL once it was freed
    cdef Mblk follower          # the handle of m.cont
    cdef bint linked            # some other block's cont leads here
    cdef bint lent              # never writable: storage that a stack has lent
    cdef Py_ssize_t exports     # buffers exported of the storage that m has now
    cdef Py_ssize_t shape[1]


# A handle for every block of a message, the first of them returned: read-only views for Python. `taken` is
# owned, also when it raises. `a`: the arena that its further blocks would come from.
cdef Mblk wrap_mblk(mblk *taken, arena *a)
# An external block on the memory of a buffer exporter, which is held until the block's last reference is
# gone; then `free` (a callable or None) is called once, with the GIL and no lock held.
cdef mblk *lend_buffer(arena *a, object exporter, object free) except NULL
# Run what waits for the GIL: release exporters, call free functions. Every entry into the library does this
# first; it costs two loads when nothing waits.
cdef int drain() except -1

# --- for streams.pyx -----------------------------------------------------------------------------------------
cdef Arena chosen(object a)
cdef mblk *lend(arena *a, object exporter, object free, bint at_once) except NULL
# The block, or ValueError if it was freed; the same, and it must head its message.
cdef mblk *alive(Mblk b) except NULL
cdef mblk *head_of_message(Mblk b) except NULL
cdef void release_block(mblk *m) noexcept
cdef Mblk handle(mblk *m)
cdef Mblk new_message(mblk *m, str what)
cdef void attach(Mblk last, Mblk tail)
# Handles of a message by the address of their blocks; handles for a chain, known ones first; and those that are left
# over when the C side has freed their blocks.
cdef dict handles(Mblk b)
cdef Mblk sync(mblk *m, dict known)
cdef void forget(dict known)
# Arenas to hold while storage may go; after a call that may have freed blocks behind b.
cdef list owners(dict known)
cdef void unhold(list addresses)
cdef void after_frees(Mblk b, dict known, list held)
