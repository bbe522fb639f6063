"""Received pages that change hands: see flip.pxd."""

from libc.errno cimport ENOMEM, ENOSPC
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from ustack._core.base.ledger cimport LR_FLIP_ZERO, LR_RX_COPY, ledger, ledger_book
from ustack._core.base.types cimport atomic_load32, spin_lock, spin_unlock
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport dblk, dblk_ref, dblk_unref, esballoc, freeb, mblk, mblk_len, msgcopyout
from ustack._core.mem.source cimport source
from ustack._core.mem.share cimport region_refusal
from ustack._core.sys.memory cimport (
    MAP_FIXED, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mem_map, mem_unmap, memfd_new)

cdef enum:
    LARGE = 32768               # a link that asks for so much is about to read a payload

# One for each link: `under` is the engine's.
cdef struct flip_source:
    source base
    source *under
    arena *a

cdef int32_t lock = 0
cdef int file = -1
cdef uint32_t next_slot = 0     # the first one that was never used
cdef uint32_t *free_slots = NULL
cdef uint32_t nfree = 0
cdef flip_window *free_windows = NULL
cdef uint32_t nwindows = 0


# --- the file ---------------------------------------------------------------------------------------------------------
cdef bint open_file() noexcept nogil:
    """Under the lock."""
    global file, free_slots
    if file >= 0:
        return True
    if free_slots == NULL:
        free_slots = <uint32_t *>malloc(FLIP_SLOTS * sizeof(uint32_t))
    if free_slots != NULL:
        file = memfd_new(b"ustack-flip", <size_t>FLIP_SLOTS * FLIP_PAGE, False)
    return file >= 0


cdef bint take_slots(uint32_t *slot, uint32_t n) noexcept nogil:
    """Fresh ones lie side by side."""
    global next_slot, nfree
    cdef uint32_t k = 0
    cdef bint fresh
    spin_lock(&lock)
    if not open_file() or n > nfree + (FLIP_SLOTS - next_slot):
        spin_unlock(&lock)
        return False
    fresh = n <= FLIP_SLOTS - next_slot
    while k < n:
        if fresh or nfree == 0:
            slot[k] = next_slot
            next_slot += 1
        else:
            nfree -= 1
            slot[k] = free_slots[nfree]
        k += 1
    spin_unlock(&lock)
    return True


cdef void give_slots(const uint32_t *slot, uint32_t n) noexcept nogil:
    global nfree
    cdef uint32_t k
    spin_lock(&lock)
    for k in range(n):
        free_slots[nfree] = slot[k]
        nfree += 1
    spin_unlock(&lock)


cdef int32_t flip_slots_used() noexcept nogil:
    return <int32_t>(next_slot - nfree)


cdef int show(uint8_t *at, const uint32_t *slot, uint32_t n, int prot, int flags) noexcept nogil:
    """Map n slots at an address that is ours, as few mappings as they are runs. 0 or -errno."""
    cdef uint32_t k = 0
    cdef uint32_t run
    cdef int err = 0
    while k < n:
        run = 1
        while k + run < n and slot[k + run] == slot[k] + run:
            run += 1
        if mem_map(at + <size_t>k * FLIP_PAGE, <size_t>run * FLIP_PAGE, prot, flags | MAP_FIXED, file,
                   <int64_t>slot[k] * FLIP_PAGE, &err) == NULL:
            return err
        k += run
    return 0


cdef uint8_t *flip_reserve(size_t n, int *err) noexcept nogil:
    return <uint8_t *>mem_map(NULL, n, PROT_READ, MAP_PRIVATE, -1, 0, err)


# --- buffers of applications ------------------------------------------------------------------------------------------
cdef flip_buffer *flip_buffer_create(uint32_t pages, int *err) noexcept nogil:
    cdef flip_buffer *f = <flip_buffer *>calloc(1, sizeof(flip_buffer))
    err[0] = -ENOMEM
    if f == NULL:
        return NULL
    f.pages = pages
    f.slot = <uint32_t *>calloc(pages, sizeof(uint32_t))
    if f.slot != NULL:
        f.base = flip_reserve(<size_t>pages * FLIP_PAGE, err)
    if f.base != NULL:
        if take_slots(f.slot, pages):
            err[0] = show(f.base, f.slot, pages, PROT_READ | PROT_WRITE, MAP_SHARED)
            if err[0] == 0:
                memset(f.base, 0, <size_t>pages * FLIP_PAGE)        # slots are used again
                return f
            give_slots(f.slot, pages)
        else:
            err[0] = -ENOSPC if file >= 0 else region_refusal()
        mem_unmap(f.base, <size_t>pages * FLIP_PAGE)
    free(f.slot)
    free(f)
    return NULL


cdef void flip_buffer_free(flip_buffer *f) noexcept nogil:
    mem_unmap(f.base, <size_t>f.pages * FLIP_PAGE)
    give_slots(f.slot, f.pages)
    free(f.slot)
    free(f)


cdef void flip_buffer_forked(flip_buffer *f) noexcept nogil:
    show(f.base, f.slot, f.pages, PROT_READ | PROT_WRITE, MAP_PRIVATE)


# --- windows ----------------------------------------------------------------------------------------------------------
cdef void window_gone(void *arg) noexcept nogil:
    """The last block on a window is gone."""
    global free_windows
    cdef flip_window *w = <flip_window *>arg
    if w.lost:
        return
    spin_lock(&lock)
    w.next = free_windows
    free_windows = w
    spin_unlock(&lock)


cdef flip_window *make_window() noexcept nogil:
    global nwindows
    cdef flip_window *w
    cdef int err = 0
    spin_lock(&lock)
    if nwindows == FLIP_WINDOWS:
        spin_unlock(&lock)
        return NULL
    nwindows += 1
    spin_unlock(&lock)
    w = <flip_window *>calloc(1, sizeof(flip_window))
    if w == NULL:
        return NULL
    w.base = flip_reserve(WINDOW_PAGES * FLIP_PAGE, &err)
    if w.base == NULL or not take_slots(w.slot, WINDOW_PAGES):
        free(w)
        return NULL
    if show(w.base, w.slot, WINDOW_PAGES, PROT_READ | PROT_WRITE, MAP_SHARED) < 0:
        give_slots(w.slot, WINDOW_PAGES)
        free(w)
        return NULL
    return w


cdef dblk *take_window(arena *a) noexcept nogil:
    global free_windows
    cdef flip_window *w
    cdef mblk *m
    cdef dblk *d
    spin_lock(&lock)
    w = free_windows
    if w != NULL:
        free_windows = w.next
    spin_unlock(&lock)
    if w == NULL:
        w = make_window()
    if w == NULL:
        return NULL
    m = esballoc(a, w.base, WINDOW_PAGES * FLIP_PAGE, window_gone, w)
    if m == NULL:
        window_gone(w)
        return NULL
    d = m.dp
    # Windows have a bound of their own; charged whole, small segments in them would be packed, which is a copy.
    d.truesize = 2 * FLIP_PAGE
    dblk_ref(d)
    freeb(m)
    return d


cdef dblk *draw(void *owner, size_t size) noexcept nogil:
    cdef flip_source *s = <flip_source *>owner
    cdef dblk *d = take_window(s.a) if LARGE <= size <= WINDOW_PAGES * FLIP_PAGE else NULL
    return d if d != NULL else s.under.take(s.under.owner, size)


cdef void give_back(void *owner, dblk *d) noexcept nogil:
    dblk_unref(d)


cdef source *flip_source_over(source *under, arena *a) noexcept nogil:
    cdef flip_source *s = <flip_source *>calloc(1, sizeof(flip_source))
    if s == NULL:
        return NULL
    s.under = under
    s.a = a
    s.base.owner = s
    s.base.take = draw
    s.base.give = give_back
    return &s.base


cdef flip_window *flip_window_of(const mblk *m) noexcept nogil:
    return <flip_window *>m.dp.arg if m.dp.fn == window_gone else NULL


# --- flipping ---------------------------------------------------------------------------------------------------------
cdef int swap(flip_buffer *f, uint32_t i, flip_window *w, uint32_t j, uint32_t n) noexcept nogil:
    """Pages i.. of the buffer for pages j.. of the window. -errno: nothing has changed."""
    cdef uint32_t k, s
    cdef int r = show(f.base + <size_t>i * FLIP_PAGE, &w.slot[j], n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE)
    if r < 0:
        show(f.base + <size_t>i * FLIP_PAGE, &f.slot[i], n, PROT_READ | PROT_WRITE, MAP_SHARED)
        return r
    for k in range(n):
        s = f.slot[i + k]
        f.slot[i + k] = w.slot[j + k]
        w.slot[j + k] = s
    if show(w.base + <size_t>j * FLIP_PAGE, &w.slot[j], n, PROT_READ | PROT_WRITE, MAP_SHARED) < 0:
        w.lost = True           # it may still show pages that are the application's now: nothing is read into it again
    return 0


cdef uint32_t windows_on(const mblk *m, const dblk *d) noexcept nogil:
    cdef uint32_t n = 0
    while m != NULL:
        n += m.dp == d
        m = m.cont
    return n


cdef void flip_into(flip_buffer *f, uint32_t first, const mblk *m, size_t n, bint rest_shares, bint zero, ledger *book,
                    flip_result *result) noexcept nogil:
    cdef const mblk *head = m
    cdef flip_window *w
    cdef uint8_t *to = f.base + <size_t>first * FLIP_PAGE
    cdef uint8_t *at
    cdef size_t done = 0, used, here, pages
    cdef uint32_t ours
    result.flipped = result.held = result.partial = 0
    while m != NULL and done < n:
        used = 0
        w = flip_window_of(m)
        ours = windows_on(head, m.dp) + (1 if rest_shares and m.cont == NULL else 0)
        while used < mblk_len(m) and done < n:
            here = mblk_len(m) - used
            if here > n - done:
                here = n - done
            at = m.rptr + used
            pages = here // FLIP_PAGE if (<size_t>at | done) % FLIP_PAGE == 0 else 0
            if pages and w != NULL and not w.lost and <uint32_t>atomic_load32(&m.dp.refs) == ours:
                if zero:
                    memset(to + done, 0, pages * FLIP_PAGE)
                    ledger_book(book, LR_FLIP_ZERO, pages * FLIP_PAGE)
                if swap(f, first + <uint32_t>(done // FLIP_PAGE), w, <uint32_t>((at - w.base) // FLIP_PAGE),
                        <uint32_t>pages) == 0:
                    result.flipped += <uint32_t>pages
                    done += pages * FLIP_PAGE
                    used += pages * FLIP_PAGE
                    continue
            if pages:
                here = pages * FLIP_PAGE
                result.held += <uint32_t>pages
            else:
                # Up to where both are at a page boundary, if they ever are.
                if (<size_t>at - done) % FLIP_PAGE == 0 and here > FLIP_PAGE - done % FLIP_PAGE:
                    here = FLIP_PAGE - done % FLIP_PAGE
                result.partial += 1
            msgcopyout(book, LR_RX_COPY, m, used, to + done, here)
            done += here
            used += here
        m = m.cont


# --- mapping ----------------------------------------------------------------------------------------------------------
cdef size_t whole_pages(const mblk *m) noexcept nogil:
    """Bytes of a block that can be mapped, from its beginning."""
    if flip_window_of(m) == NULL or <size_t>m.rptr % FLIP_PAGE:
        return 0
    return mblk_len(m) & ~<size_t>(FLIP_PAGE - 1)


cdef size_t flip_mappable(const mblk *m) noexcept nogil:
    cdef size_t n = 0, here
    while m != NULL:
        here = whole_pages(m)
        n += here
        if here < mblk_len(m):
            break
        m = m.cont
    return n


cdef size_t flip_unmappable(const mblk *m, size_t skip) noexcept nogil:
    cdef size_t n = 0
    while m != NULL and skip >= mblk_len(m):
        skip -= mblk_len(m)
        m = m.cont
    if m != NULL and skip:
        if whole_pages(m) > skip:
            return 0                # more of it can be mapped
        n = mblk_len(m) - skip      # the odd end of a block whose pages are mapped
        m = m.cont
    while m != NULL and whole_pages(m) == 0:
        n += mblk_len(m)
        m = m.cont
    return n


cdef int flip_map(uint8_t *at, const mblk *m, size_t n) noexcept nogil:
    cdef flip_window *w
    cdef size_t here, done = 0
    cdef int r
    while done < n:
        here = mblk_len(m) if mblk_len(m) < n - done else n - done
        w = flip_window_of(m)
        r = show(at + done, &w.slot[(m.rptr - w.base) // FLIP_PAGE], <uint32_t>(here // FLIP_PAGE), PROT_READ,
                 MAP_SHARED | MAP_POPULATE)
        if r < 0:
            return r
        done += here
        m = m.cont
    return 0


cdef bint flip_copy(uint8_t *at, const mblk *m, size_t n, ledger *book) noexcept nogil:
    cdef int err = 0
    if mem_map(at, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, -1, 0, &err) == NULL:
        return False
    msgcopyout(book, LR_RX_COPY, m, 0, at, n)
    return True


cdef int flip_unmap(uint8_t *at, size_t n) noexcept nogil:
    cdef int err = 0
    if n == 0 or mem_map(at, n, PROT_READ, MAP_PRIVATE | MAP_FIXED, -1, 0, &err) != NULL:
        return 0
    return err
