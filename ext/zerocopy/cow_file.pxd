"""Copy on write of memory that ustack has allocated: a memory file, mapped for the application and, as an alias, for
the stack.

    what the application sees:          page 0    page 1    page 2
                                          |         |              '.
    the memory file:                    slot 0    slot 1    slot 2   slot 3
                                                              |
    blocks of the stack, by the alias:                      held: page 2 was written to, and is seen in slot 3 since

A shared page is write-protected for the application. A write makes a copy *for the application*, in a spare slot that
is mapped in the page's place; the blocks in the stack, and what devices or receivers hold of them, stay where they are.
So nothing waits, whoever holds what for however long. A slot that nobody sees or holds is spare again.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t

from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk
from ustack._core.mem.region cimport region
from ustack._core.zerocopy.cow_owner cimport cow_owner

cdef enum:
    COW_FILE_PAGES = 16384      # pages of all such buffers: each may become a mapping of its own (vm.max_map_count)
    COW_RUN = 16                # pages of a block, at most: they are let go together

cdef struct cow_file:
    region *r                   # the alias
    uint8_t *user               # NULL: closed by the application
    uint32_t pages
    uint32_t slots
    uint32_t *slot              # of each user page
    uint32_t *page_of           # of each slot; NOBODY: not seen
    uint32_t *held              # of each slot: blocks on it
    uint8_t *guarded            # user pages that are write-protected
    uint32_t nguarded
    uint32_t *spare             # slots, nspare of them
    uint32_t nspare
    int32_t refs                # the application's, and each block's; under fault_lock
    bint foreign                # of the parent process: plain memory here
    cow_owner *last             # who shared last
    cow_file *next              # in the list of those that the application has open

# So many pages and spare slots. NULL, the reason in *err: -ENOSPC (COW_FILE_PAGES), -ENOTSUP (no memory file), -errno.
cdef cow_file *cow_file_create(uint32_t pages, uint32_t spares, int *err) noexcept nogil
# The application lets go: its mapping is unmapped.
cdef void cow_file_close(cow_file *f) noexcept nogil
# The open one that n bytes lie in, with a reference; NULL: none.
cdef cow_file *cow_file_find(const void *addr, size_t n) noexcept nogil
cdef void cow_file_unref(cow_file *f) noexcept nogil
# Blocks on at most *n pages from `first`; *n becomes how many there are (fewer: no spare slots, *err 0; or *err says
# what cannot be done), *nested how many of them were shared already.
cdef mblk *cow_file_share(cow_file *f, cow_owner *o, arena *a, uint32_t first, uint32_t *n, uint32_t *nested,
                          int *err) noexcept nogil
# Under fault_lock. As fault_fn; 0: not here.
cdef int cow_file_fault(uint8_t *page) noexcept nogil
cdef void cow_file_moved(uint8_t *before, uint8_t *now, size_t n) noexcept nogil
cdef bint cow_file_any() noexcept nogil     # whether anything is protected
cdef void cow_file_forked() noexcept nogil  # in the child
