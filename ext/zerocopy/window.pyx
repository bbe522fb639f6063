"""File windows: see window.pxd."""

from libc.errno cimport ENOMEM, ENOSPC
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.types cimport spin_lock, spin_unlock
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport DB_READONLY, esballoc, mblk
from ustack._core.mem.share cimport files_shared, region_of_file, region_publish, region_retire
from ustack._core.sys.file cimport file_facts
from ustack._core.sys.guard cimport guard_forget, guard_watch
from ustack._core.sys.memory cimport MAP_SHARED, PROT_READ, mem_map, mem_unmap

cdef enum:
    BLOCK_STORAGE = 256         # what a queue is charged for a block on a window: its structures

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
        if (w.inode == facts.inode and w.offset == offset and w.device == facts.device and not w.broken
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


# --- mappings -----------------------------------------------------------------------------------------------------
cdef void unmap(window *w) noexcept nogil:
    if w.shared != NULL:
        region_retire(w.shared)
    elif w.base != NULL:
        mem_unmap(w.base, WINDOW)
    if w.slot >= 0:
        guard_forget(w.slot)
    free(w)


cdef window *map_new(int fd, const file_facts *facts, int64_t offset, int *err) noexcept nogil:
    cdef window *w = <window *>calloc(1, sizeof(window))
    if w == NULL:
        err[0] = -ENOMEM
        return NULL
    w.slot = -1
    if files_shared():
        w.shared = region_of_file(fd, offset, WINDOW, protection, err)
        w.base = w.shared.base if w.shared != NULL else NULL
    else:
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
    w.dark = protection == 0
    w.device = facts.device
    w.inode = facts.inode
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
    m.dp.flags |= DB_READONLY
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
