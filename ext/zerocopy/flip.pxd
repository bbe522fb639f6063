"""Received pages that change hands: windows that links receive into, and buffers of applications, over one memory file.

    application's page i ──> slot 7          application's page i ──> slot 30   (what was received)
    window's page j      ──> slot 30         window's page j      ──> slot 7    (to be received into again)
                    before                                    after a flip

A window is 68 KB of address space that a link fills; which slots of the file its pages show is entered page by page,
and so it is for the application's buffers. To flip is to swap two entries and to map both anew: no byte is moved, and
the number of pages on each side stays the same. All slots belong to this process.

A link that is to be read into windows needs its payload at page boundaries: see header_split of Tap and Pipe.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk
from ustack._core.mem.source cimport source

cdef enum:
    FLIP_SLOTS = 32768          # pages of the file: 128 MiB, taken from the system as they are used
    FLIP_WINDOWS = 1024         # of 17 pages each
    WINDOW_PAGES = 17
    FLIP_PAGE = 4096

cdef struct flip_window:
    uint8_t *base
    uint32_t slot[17]
    bint lost                   # the system refused to map it as it was to be: never used again
    flip_window *next           # in the list of free ones

cdef struct flip_buffer:
    uint8_t *base
    uint32_t pages
    uint32_t *slot

# Memory of an application; zeros. NULL, the reason in *err: -ENOSPC (FLIP_SLOTS), -errno.
cdef flip_buffer *flip_buffer_create(uint32_t pages, int *err) noexcept nogil
cdef void flip_buffer_free(flip_buffer *f) noexcept nogil
# In the child after fork(2): private memory.
cdef void flip_buffer_forked(flip_buffer *f) noexcept nogil

# A source that gives windows for large buffers of link reads, and what `under` gives for the others. NULL without
# memory. It is freed by free(), when nobody draws from it any more.
cdef source *flip_source_over(source *under, arena *a) noexcept nogil
# The window that a block is on; NULL: it is on something else.
cdef flip_window *flip_window_of(const mblk *m) noexcept nogil

# Put the n bytes of a chain into a buffer from page `first` on: whole pages by flipping, the rest by copying.
# `rest_shares`: the storage of its last block is also that of what is still queued behind it. zero: clear the pages
# that are given back.
cdef struct flip_result:
    uint32_t flipped            # pages
    uint32_t held               # pages that could have been, but for others who hold their storage, or its kind
    uint32_t partial            # pieces copied for where they lie
cdef void flip_into(flip_buffer *f, uint32_t first, const mblk *m, size_t n, bint rest_shares, bint zero, ledger *book,
                    flip_result *result) noexcept nogil

# How much of a chain could be mapped: whole pages in windows from its beginning. Then how much follows that cannot.
cdef size_t flip_mappable(const mblk *m) noexcept nogil
cdef size_t flip_unmappable(const mblk *m, size_t skip) noexcept nogil
# Show so many bytes of a chain, read-only, at `at`; they stay mapped until flip_unmap. 0 or -errno.
cdef int flip_map(uint8_t *at, const mblk *m, size_t n) noexcept nogil
# The same in memory of its own, by a copy, where that failed.
cdef bint flip_copy(uint8_t *at, const mblk *m, size_t n, ledger *book) noexcept nogil
cdef int flip_unmap(uint8_t *at, size_t n) noexcept nogil       # it reads as zeros then
cdef uint8_t *flip_reserve(size_t n, int *err) noexcept nogil   # address space that reads as zeros
cdef int32_t flip_slots_used() noexcept nogil
