"""File windows: the page cache as message blocks. No file is read here; pages are mapped, shared by all who send them.

A window is 2 MB of a file, at a multiple of that, mapped read-only and shared. Blocks are cut from it; it stays mapped
while any of them lives, and the ones used last stay longer, for the next transfer of the same file. What a window
shows is the file as it is now: whoever changes the file changes what has not been sent yet, and what is sent again.
A file that is truncated leaves holes, which sys/guard watches, and zeros in the page that its new end lies in: so
blocks are `watched`, and whoever sends them asks before (mem/mblk: msg_intact).

Windows belong to the process, not to a stack. All functions may be called from any thread, with no lock held.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk, watched
from ustack._core.mem.region cimport region
from ustack._core.sys.file cimport file_facts

cdef enum:
    WINDOW = 2 * 1024 * 1024    # bytes of address space; what the file has of them is mapped
    WINDOWS_MAX = 448           # at a time; beyond it files are copied
    WINDOWS_KEPT = 32           # that stay mapped unused

# A file that has windows: a descriptor of our own, to ask how long it is.
cdef struct mapped_file:
    mapped_file *next
    uint64_t device
    uint64_t inode
    int fd
    int32_t refs                # windows; under the list's lock

cdef struct window:
    watched guard               # first: blocks point here
    mapped_file *file
    window *next                # in the list, the one used last in front
    window *prev
    int64_t offset              # in the file
    uint8_t *base
    int32_t refs                # users and blocks; under the list's lock
    int32_t broken              # a page is gone: nobody new gets this window
    int slot                    # with the guard
    bint dark                   # for tests: mapped without access
    region *shared              # while a device of another process can be told of it, else NULL: it has the mapping

# The window on the byte at `offset`, with a reference for the caller; NULL: *err (-errno: the file cannot be mapped,
# -ENOSPC: too many windows).
cdef window *window_get(int fd, const file_facts *facts, int64_t offset, int *err) noexcept nogil
cdef void window_put(window *w) noexcept nogil
# A block on bytes [offset, offset + n) of the file, all inside the window; it keeps the window. NULL without memory.
cdef mblk *window_block(arena *a, window *w, int64_t offset, size_t n) noexcept nogil
# Unmap those that nobody uses; how many were.
cdef int windows_drop() noexcept nogil
# For tests: from here on windows are mapped without access for this process, which then cannot bring pages in either.
cdef void windows_darken(bint dark) noexcept nogil
cdef void windows_count(int *mapped, int *unused) noexcept nogil
