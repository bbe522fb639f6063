"""File windows: see window.pxd."""

from libc.errno cimport ENOMEM, ENOSPC
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.types cimport atomic_load32, spin_lock, spin_unlock
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport DB_READONLY, DB_WATCHED, esballoc, mblk, watched
from ustack._core.mem.share cimport files_shared, region_of_file, region_publish, region_retire
from ustack._core.sys.file cimport file_facts, sys_file_length
from ustack._core.sys.guard cimport guard_forget, guard_watch
from ustack._core.sys.io cimport sys_close, sys_dup
from ustack._core.sys.memory cimport MAP_SHARED, PROT_READ, mem_map, mem_unmap

cdef enum:
    BLOCK_STORAGE = 256         # what a queue is charged for a block on a window: its structures

cdef mapped_file *files = NULL
cdef window *newest = NULL
cdef window *oldest = NULL
cdef int mapped_now = 0
cdef int unused_now = 0
cdef int32_t lock = 0
cdef int protection = PROT_READ


# --- the list, under its lock -------------------------------------------------------------------------------------
cdef void unlink(window *w) noexcept nogil:
    global newest, oldest
    if w.prev != NULL:
        w.prev.next = w.next
    else:
        newest = w.next
    if w.next != NULL:
        w.next.prev = w.prev
    else:
        oldest = w.prev
    w.next = w.prev = NULL


cdef void link_front(window *w) noexcept nogil:
    global newest, oldest
    w.prev = NULL
    w.next = newest
    if newest != NULL:
        newest.prev = w
    else:
        oldest = w
    newest = w


cdef window *find(const file_facts *facts, int64_t offset) noexcept nogil:
    cdef window *w = newest
    cdef bint sharing = files_shared()
    while w != NULL:
        if (w.offset == offset and w.file.inode == facts.inode and w.file.device == facts.device and not w.broken
                and (w.shared != NULL or not sharing)):
            return w
        w = w.next
    return NULL


cdef window *take_unused(int keep) noexcept nogil:
    """The oldest window without users, off the list; NULL while no more than `keep` of them are there."""
    global mapped_now, unused_now
    cdef window *w = oldest
    if unused_now <= keep:
        return NULL
    while w != NULL and w.refs:
        w = w.prev
    if w != NULL:
        unlink(w)
        unused_now -= 1
        mapped_now -= 1
    return w


cdef mapped_file *find_file(const file_facts *facts) noexcept nogil:
    cdef mapped_file *f = files
    while f != NULL and (f.inode != facts.inode or f.device != facts.device):
        f = f.next
    if f != NULL:
        f.refs += 1
    return f


# --- files --------------------------------------------------------------------------------------------------------
cdef mapped_file *file_get(int fd, const file_facts *facts, int *err) noexcept nogil:
    """The file with a reference for the caller; NULL: *err."""
    global files
    cdef mapped_file *f
    cdef mapped_file *made
    spin_lock(&lock)
    f = find_file(facts)
    spin_unlock(&lock)
    if f != NULL:
        return f
    made = <mapped_file *>calloc(1, sizeof(mapped_file))
    if made == NULL:
        err[0] = -ENOMEM
        return NULL
    made.fd = sys_dup(fd)
    if made.fd < 0:
        err[0] = made.fd
        free(made)
        return NULL
    made.device = facts.device
    made.inode = facts.inode
    made.refs = 1
    spin_lock(&lock)
    f = find_file(facts)
    if f == NULL:
        made.next = files
        files = made
    spin_unlock(&lock)
    if f == NULL:
        return made
    sys_close(made.fd)
    free(made)
    return f


cdef void file_put(mapped_file *f) noexcept nogil:
    global files
    cdef mapped_file **at = &files
    spin_lock(&lock)
    f.refs -= 1
    if f.refs:
        f = NULL
    else:
        while at[0] != f:
            at = &at[0].next
        at[0] = f.next
    spin_unlock(&lock)
    if f != NULL:
        sys_close(f.fd)
        free(f)


cdef bint window_intact(const watched *g, const uint8_t *end) noexcept nogil:
    """No page is gone, and the file has not been cut before `end`: bytes behind a cut read as zeros in its page."""
    cdef const window *w = <const window *>g
    cdef int64_t size
    if atomic_load32(&w.broken):
        return False
    size = sys_file_length(w.file.fd)
    return size < 0 or size >= w.offset + (end - w.base)


# --- mappings -----------------------------------------------------------------------------------------------------
cdef void unmap(window *w) noexcept nogil:
    if w.shared != NULL:
        region_retire(w.shared)
    elif w.base != NULL:
        mem_unmap(w.base, WINDOW)
    if w.slot >= 0:
        guard_forget(w.slot)
    if w.file != NULL:
        file_put(w.file)
    free(w)


cdef window *map_new(int fd, const file_facts *facts, int64_t offset, int *err) noexcept nogil:
    cdef window *w = <window *>calloc(1, sizeof(window))
    if w == NULL:
        err[0] = -ENOMEM
        return NULL
    w.slot = -1
    w.file = file_get(fd, facts, err)
    if w.file != NULL and files_shared():
        w.shared = region_of_file(fd, offset, WINDOW, protection, err)
        w.base = w.shared.base if w.shared != NULL else NULL
    elif w.file != NULL:
        w.base = <uint8_t *>mem_map(NULL, WINDOW, protection, MAP_SHARED, fd, offset, err)
    if w.base != NULL:
        w.slot = guard_watch(w.base, WINDOW, &w.broken)
        if w.slot < 0:
            err[0] = w.slot
    if w.slot < 0:
        unmap(w)
        return NULL
    if w.shared != NULL:
        region_publish(w.shared)
    w.guard.intact = window_intact
    w.dark = protection == 0
    w.offset = offset
    w.refs = 1
    return w


cdef window *window_get(int fd, const file_facts *facts, int64_t offset, int *err) noexcept nogil:
    global mapped_now, unused_now
    cdef window *w
    cdef window *spare = NULL
    cdef int64_t start = offset - offset % WINDOW
    spin_lock(&lock)
    w = find(facts, start)
    if w != NULL:
        unused_now -= w.refs == 0
        w.refs += 1
        unlink(w)
        link_front(w)
    elif mapped_now >= WINDOWS_MAX:
        spare = take_unused(0)
        if spare == NULL:
            err[0] = -ENOSPC
    spin_unlock(&lock)
    if w != NULL:
        return w
    if spare != NULL:
        unmap(spare)
    elif err[0] == -ENOSPC:
        return NULL
    w = map_new(fd, facts, start, err)
    if w == NULL:
        return NULL
    # Another thread may have mapped the same meanwhile: then there are two of them, which harms nobody.
    spin_lock(&lock)
    mapped_now += 1
    link_front(w)
    spin_unlock(&lock)
    return w


cdef void window_put(window *w) noexcept nogil:
    global mapped_now, unused_now
    cdef window *gone = NULL
    spin_lock(&lock)
    w.refs -= 1
    if w.refs == 0:
        if w.broken:
            unlink(w)
            mapped_now -= 1
            gone = w
        else:
            unused_now += 1
            gone = take_unused(WINDOWS_KEPT)
    spin_unlock(&lock)
    if gone != NULL:
        unmap(gone)


cdef void block_gone(void *arg) noexcept nogil:
    window_put(<window *>arg)


cdef mblk *window_block(arena *a, window *w, int64_t offset, size_t n) noexcept nogil:
    cdef mblk *m = esballoc(a, w.base + (offset - w.offset), n, block_gone, w)
    if m == NULL:
        return NULL
    spin_lock(&lock)
    w.refs += 1
    spin_unlock(&lock)
    m.dp.flags |= DB_READONLY | DB_WATCHED
    m.dp.truesize = BLOCK_STORAGE
    m.wptr = m.rptr + n
    m.pkt_len = <uint32_t>n
    return m


cdef int windows_drop() noexcept nogil:
    cdef window *w
    cdef int n = 0
    while True:
        spin_lock(&lock)
        w = take_unused(0)
        spin_unlock(&lock)
        if w == NULL:
            return n
        unmap(w)
        n += 1


cdef void windows_darken(bint dark) noexcept nogil:
    global protection
    protection = 0 if dark else PROT_READ


cdef void windows_count(int *mapped, int *unused) noexcept nogil:
    spin_lock(&lock)
    mapped[0] = mapped_now
    unused[0] = unused_now
    spin_unlock(&lock)
