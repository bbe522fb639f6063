"""Windows on fbufs from process to process: see fbtransfer.pxd."""

from libc.errno cimport EAGAIN
from libc.stdint cimport uint32_t
from libc.string cimport memset

from ustack._core.mem.ring cimport ring_owes_kick, ring_put, ring_ready, ring_take
from ustack._core.zerocopy.fbchannel cimport (
    FBC_DESCRIPTORS, FBC_MESSAGES, FBC_REGIONS, FBD_MORE, FBD_SECURED, FBD_YOURS, FBR_SECURE, fb_descriptor, fb_return,
    fbchannel, fbchannel_broken, fbchannel_come_home, fbchannel_forget, fbchannel_give_back, fbchannel_keep,
    fbchannel_meet, fbchannel_ring, introduced, received,
)
from ustack._core.zerocopy.fbpool cimport FB_ONCE, fbpool_hold, fbpool_regain, fbpool_secure


# --- sending ----------------------------------------------------------------------------------------------------------

cdef int lend(fbchannel *c, const fb_descriptor *d) noexcept nogil:
    """Count a window as the other side's. 0 or -EOVERFLOW."""
    cdef introduced *g
    cdef int e
    if d.flags & FBD_YOURS:
        c.got[d.region].held[d.buffer] -= 1     # its keeper goes with it: see fbchannel_drop
        c.got[d.region].out -= 1
        return 0
    g = &c.given[d.region]
    if g.pool != NULL:
        e = fbpool_hold(g.pool, d.buffer)
    else:
        e = fbchannel_keep(g.home, g.home_region, d.buffer)
    if e == 0:
        g.lent[d.buffer] += 1
        g.out += 1
        c.lent += 1
    return e


cdef void unlend(fbchannel *c, const fb_descriptor *d) noexcept nogil:
    cdef introduced *g = &c.given[d.region]
    if d.flags & FBD_YOURS:
        c.got[d.region].held[d.buffer] += 1
        c.got[d.region].out += 1
        return
    g.lent[d.buffer] -= 1
    g.out -= 1
    c.lent -= 1
    fbchannel_come_home(g, d.buffer)


cdef int fbchannel_room(fbchannel *c) noexcept nogil:
    cdef int room
    if c.error:
        return c.error
    room = ring_ready(&c.out)
    if room < 0:
        return fbchannel_broken(c)
    return room if room < <int>(FBC_DESCRIPTORS - c.lent) else <int>(FBC_DESCRIPTORS - c.lent)


cdef int fbchannel_send(fbchannel *c, fb_descriptor *d, int n) noexcept nogil:
    cdef int i, e
    cdef int room = fbchannel_room(c)
    if room < n:
        return room if room < 0 else -EAGAIN
    for i in range(n):
        d[i].flags = (d[i].flags & FBD_YOURS) | (FBD_MORE if i + 1 < n else 0)
        d[i].epoch = 0 if d[i].flags & FBD_YOURS else c.given[d[i].region].epoch
        e = lend(c, &d[i])
        if e < 0:
            while i:
                i -= 1
                unlend(c, &d[i])
            return e
    ring_put(&c.out, d, n)
    c.sent += n
    if ring_owes_kick(&c.out):
        fbchannel_ring(c)
    return 0


# --- receiving --------------------------------------------------------------------------------------------------------

cdef int fbchannel_next(fbchannel *c, fb_descriptor *d) noexcept nogil:
    cdef int n
    if c.error:
        return c.error
    n = ring_take(&c.in_, d, 1)
    if n < 0:
        return fbchannel_broken(c)
    if n == 0:
        return 0
    if d.flags & FBD_YOURS:
        n = take_back(c, d)
    else:
        n = take_new(c, d)
    if n == 0:
        if ring_owes_kick(&c.in_):
            fbchannel_ring(c)
        c.came += 1
        return 1
    return n


cdef int take_new(fbchannel *c, fb_descriptor *d) noexcept nogil:
    cdef received *r
    cdef int e = 0
    if d.region >= FBC_REGIONS:
        return fbchannel_broken(c)
    r = &c.got[d.region]
    while (r.mem == NULL or r.epoch != d.epoch) and e == 0:
        e = fbchannel_meet(c)             # it was introduced before this descriptor was put down
    if e == -EAGAIN:
        return fbchannel_broken(c)
    if e < 0:
        return e
    if d.buffer >= r.count or d.offset > r.size or d.length > r.size - d.offset:
        return fbchannel_broken(c)
    if d.flags & FBD_SECURED:
        r.secured[d.buffer] = 1
        return 0
    if r.held[d.buffer] == 0xFFFF or r.keeps[d.buffer] == 0xFFFF:
        return fbchannel_broken(c)
    if r.held[d.buffer] == 0:
        r.secured[d.buffer] = r.sealed
    r.held[d.buffer] += 1
    r.keeps[d.buffer] += 1
    r.out += 1
    return 0


cdef int take_back(fbchannel *c, fb_descriptor *d) noexcept nogil:
    """A buffer of ours comes back with contents: it must have been lent, as one window, and is ours again."""
    cdef introduced *g
    if d.region >= FBC_REGIONS or c.given[d.region].mem == NULL:
        return fbchannel_broken(c)
    g = &c.given[d.region]
    if g.pool == NULL or d.buffer >= g.count or g.lent[d.buffer] != 1:
        return fbchannel_broken(c)
    if d.offset > g.size or d.length > g.size - d.offset or g.pool.mem.base == NULL:
        return fbchannel_broken(c)
    g.lent[d.buffer] = 0
    g.out -= 1
    c.lent -= 1
    return fbpool_regain(g.pool, d.buffer)


cdef bint fbchannel_returnable(const fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil:
    cdef const received *r = &c.got[n]
    return r.keeps[buffer] == 1 and r.held[buffer] == 1 and not r.sealed and not r.relayed


# --- what comes home --------------------------------------------------------------------------------------------------

cdef int fbchannel_ask_secure(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil:
    if c.error == 0:
        fbchannel_give_back(c, n, buffer | FBR_SECURE)
    return c.error


cdef void answer(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil:
    """Somebody wants a buffer that we lent it to stay as it is."""
    cdef introduced *g = &c.given[n]
    cdef fb_descriptor d
    if g.pool == NULL or fbpool_secure(g.pool, buffer) < 0:
        return                  # what we only forward we cannot protect: it waits in vain, and copies
    memset(&d, 0, sizeof(d))
    d.region = n
    d.buffer = buffer
    d.flags = FBD_SECURED
    d.epoch = g.epoch
    if ring_put(&c.out, &d, 1) == 1 and ring_owes_kick(&c.out):
        fbchannel_ring(c)


cdef void retire(fbchannel *c, introduced *g) noexcept nogil:
    """A region that is used once goes with its buffer; its number can be had again."""
    if g.pool != NULL and g.pool.flags & FB_ONCE and g.out == 0:
        fbchannel_forget(g)


cdef int fbchannel_collect(fbchannel *c) noexcept nogil:
    cdef fb_return b
    cdef introduced *g
    cdef uint32_t buffer
    cdef int n, done = 0
    while c.error == 0:
        n = ring_take(&c.back_in, &b, 1)
        if n < 0:
            return fbchannel_broken(c)
        if n == 0:
            break
        done += 1
        buffer = b.buffer & ~<uint32_t>FBR_SECURE
        g = &c.given[b.region] if b.region < FBC_REGIONS else NULL
        if g == NULL or g.mem == NULL or buffer >= g.count or g.lent[buffer] == 0:
            return fbchannel_broken(c)
        if b.buffer & <uint32_t>FBR_SECURE:
            answer(c, b.region, buffer)
            continue
        g.lent[buffer] -= 1
        g.out -= 1
        c.lent -= 1
        c.returned += 1
        fbchannel_come_home(g, buffer)
        retire(c, g)
    return c.error if c.error else done


cdef bint fbchannel_busy(fbchannel *c, int what) noexcept nogil:
    if what == FBC_MESSAGES and ring_ready(&c.in_) != 0:
        return True
    if what > 0 and fbchannel_room(c) >= what:
        return True
    return ring_ready(&c.back_in) != 0
