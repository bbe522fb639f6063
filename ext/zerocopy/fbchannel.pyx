"""Channels of fbufs: see fbchannel.pxd."""

from libc.errno cimport EAGAIN, ECONNRESET, ENOMEM, ENOSPC, EOVERFLOW, EPERM
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ustack._core.mem.region cimport region_ref, region_unref
from ustack._core.mem.ring cimport (
    RING_CONSUMER, RING_PRODUCER, ring_arm, ring_arm_for, ring_attach_region, ring_disarm, ring_extent, ring_owes_kick,
    ring_put, ring_ready,
)
from ustack._core.mem.share cimport region_import, region_publish, region_retire, region_share
from ustack._core.sys.eventfd cimport sys_eventfd, sys_eventfd_signal, sys_eventfd_take
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.memory cimport PROT_READ, PROT_WRITE, SEAL_WRITE, memfd_seals, page_size
from ustack._core.sys.passing cimport sys_pass, sys_take_passed
from ustack._core.sys.poll cimport POLLHUP, POLLIN, pollfd, sys_ppoll
from ustack._core.zerocopy.fbpool cimport (
    FB_BUFFERS_MAX, FB_FORWARD, FB_RELAYED, fbpool, fbpool_drop, fbpool_ref, fbpool_unref,
)

cdef extern from "<errno.h>" nogil:
    enum:
        EBADMSG
        EPROTO

cdef enum:
    HELLO = 0x31626675          # "ufb1"
    POLLRDHUP_ = 0x2000

cdef struct hello:
    uint32_t magic
    uint32_t descriptors
    uint32_t returns
    uint32_t reserved

# A region is presented by this and its descriptor.
cdef struct introduction:
    uint32_t number
    uint32_t count
    uint64_t size
    uint32_t flags
    uint32_t epoch


# --- life -------------------------------------------------------------------------------------------------------------

cdef size_t descriptors_extent() noexcept nogil:
    return ring_extent(FBC_DESCRIPTORS, sizeof(fb_descriptor))


cdef size_t rings_extent() noexcept nogil:
    return descriptors_extent() + ring_extent(FBC_RETURNS, sizeof(fb_return))


cdef int attach(fbchannel *c) noexcept nogil:
    cdef size_t at = descriptors_extent()
    cdef int e = ring_attach_region(&c.out, c.mine, 0, FBC_DESCRIPTORS, sizeof(fb_descriptor), RING_PRODUCER)
    if e == 0:
        e = ring_attach_region(&c.back_out, c.mine, at, FBC_RETURNS, sizeof(fb_return), RING_PRODUCER)
    if e == 0:
        e = ring_attach_region(&c.in_, c.theirs, 0, FBC_DESCRIPTORS, sizeof(fb_descriptor), RING_CONSUMER)
    if e == 0:
        e = ring_attach_region(&c.back_in, c.theirs, at, FBC_RETURNS, sizeof(fb_return), RING_CONSUMER)
    return e


cdef int say_hello(fbchannel *c, int sock) noexcept nogil:
    """Our rings and our bell are shown."""
    cdef hello h
    cdef int fds[2]
    cdef ssize_t r
    memset(&h, 0, sizeof(h))
    h.magic = HELLO
    h.descriptors = FBC_DESCRIPTORS
    h.returns = FBC_RETURNS
    fds[0] = c.mine.fd
    fds[1] = c.bell
    r = sys_pass(sock, &h, sizeof(h), fds, 2)
    if r == sizeof(h):
        return 0
    return <int>r if r < 0 else -EPROTO


cdef int fbchannel_greet(fbchannel *c, int sock) noexcept nogil:
    cdef hello h
    cdef int fds[2]
    cdef int e = 0
    cdef ssize_t r = sys_take_passed(sock, &h, sizeof(h), fds, 2)
    if r <= 0:
        return -ECONNRESET if r == 0 else -EPROTO if r == -EBADMSG else <int>r
    c.peer_bell = fds[1]
    if r != sizeof(h) or h.magic != HELLO or h.descriptors != FBC_DESCRIPTORS or h.returns != FBC_RETURNS:
        sys_close(fds[0])
        return -EPROTO
    c.theirs = region_import(fds[0], rings_extent(), PROT_READ | PROT_WRITE, &e)
    if c.theirs == NULL:
        sys_close(fds[0])
        return e
    e = attach(c)
    if e == 0:
        c.sock = sock
    return e


cdef fbchannel *fbchannel_open(int sock, int *err) noexcept nogil:
    cdef fbchannel *c = <fbchannel *>calloc(1, sizeof(fbchannel))
    err[0] = -ENOMEM
    if c == NULL:
        return NULL
    c.refs = 1
    c.sock = c.peer_bell = -1
    c.bell = err[0] = sys_eventfd()
    if c.bell >= 0:
        err[0] = 0
        c.mine = region_share(rings_extent(), err)
    if c.mine != NULL:
        err[0] = say_hello(c, sock)
    if err[0] < 0:
        fbchannel_unref(c)
        return NULL
    return c


cdef void fbchannel_ref(fbchannel *c) noexcept nogil:
    c.refs += 1


cdef void fbchannel_forget(introduced *g) noexcept nogil:
    if g.mem == NULL:
        return
    region_unref(g.mem)
    if g.pool != NULL:
        fbpool_unref(g.pool)
    if g.home != NULL:
        fbchannel_unref(g.home)
    free(g.lent)
    memset(g, 0, sizeof(introduced))


cdef void fbchannel_come_home(introduced *g, uint32_t buffer) noexcept nogil:
    """A window of a buffer is back."""
    if g.pool != NULL:
        fbpool_drop(g.pool, buffer)
    else:
        fbchannel_drop(g.home, g.home_region, buffer)


cdef void fbchannel_close(fbchannel *c, int error) noexcept nogil:
    cdef introduced *g
    cdef uint32_t i, k
    if c.error == 0:
        c.error = error
    for i in range(FBC_REGIONS):
        g = &c.given[i]
        if g.mem == NULL:
            continue
        for k in range(g.count):
            while g.lent[k]:
                g.lent[k] -= 1
                fbchannel_come_home(g, k)
        fbchannel_forget(g)
    c.lent = 0
    if c.sock >= 0:
        sys_close(c.sock)
        c.sock = -1
    if c.bell >= 0:
        sys_eventfd_signal(c.bell)          # a thread of ours that sleeps holds the socket open


cdef void forget_got(received *r) noexcept nogil:
    if r.published:
        region_retire(r.mem)
    elif r.mem != NULL:
        region_unref(r.mem)
    free(r.held)
    free(r.keeps)
    free(r.secured)
    memset(r, 0, sizeof(received))


cdef void fbchannel_unref(fbchannel *c) noexcept nogil:
    cdef uint32_t i
    c.refs -= 1
    if c.refs:
        return
    fbchannel_close(c, -ECONNRESET)
    for i in range(FBC_REGIONS):
        forget_got(&c.got[i])
    if c.mine != NULL:
        region_unref(c.mine)
    if c.theirs != NULL:
        region_unref(c.theirs)
    if c.bell >= 0:
        sys_close(c.bell)
    if c.peer_bell >= 0:
        sys_close(c.peer_bell)
    free(c)


cdef int fbchannel_broken(fbchannel *c) noexcept nogil:
    """The other side does not keep the rules."""
    c.forged += 1
    fbchannel_close(c, -EPROTO)
    return -EPROTO


# --- introductions ----------------------------------------------------------------------------------------------------

cdef int known(fbchannel *c, fbpool *pool, fbchannel *home, uint32_t n) noexcept nogil:
    """The number under which a region was introduced; if it was not, -1 - the first free one, or -1 - FBC_REGIONS."""
    cdef int i, vacant = FBC_REGIONS
    for i in range(FBC_REGIONS):
        if c.given[i].mem == NULL:
            if vacant == FBC_REGIONS:
                vacant = i
        elif c.given[i].pool == pool and c.given[i].home == home and (home == NULL or c.given[i].home_region == n):
            return i
    return -1 - vacant


cdef int present(fbchannel *c, introduced *g, uint32_t number, uint32_t flags) noexcept nogil:
    cdef introduction m
    cdef ssize_t r
    memset(&m, 0, sizeof(m))
    m.number = number
    m.count = g.count
    m.size = g.size
    m.flags = flags
    m.epoch = g.epoch
    r = sys_pass(c.sock, &m, sizeof(m), &g.mem.fd, 1)
    return 0 if r == sizeof(m) else <int>r if r < 0 else -EPROTO


cdef int fbchannel_introduce(fbchannel *c, fbpool *pool, fbchannel *home, uint32_t n) noexcept nogil:
    cdef introduced *g
    cdef uint32_t flags = FB_FORWARD | FB_RELAYED
    cdef int e, i
    if c.error:
        return c.error
    if home != NULL and home != c and not home.got[n].forward:
        return -EPERM
    i = known(c, pool, home, n)
    if i >= 0:
        return i
    i = -1 - i
    if i == FBC_REGIONS:
        return -ENOSPC
    g = &c.given[i]
    c.epochs += 1
    g.epoch = c.epochs
    g.count = pool.count if pool != NULL else home.got[n].count
    g.size = pool.size if pool != NULL else home.got[n].size
    g.lent = <uint16_t *>calloc(g.count, sizeof(uint16_t))
    if g.lent == NULL:
        return -ENOMEM
    g.mem = pool.mem if pool != NULL else home.got[n].mem
    region_ref(g.mem)
    if pool != NULL:
        flags = pool.flags & FB_FORWARD
        fbpool_ref(pool)
        g.pool = pool
    else:
        fbchannel_ref(home)
        g.home = home
        g.home_region = n
    e = present(c, g, i, flags)
    if e < 0:
        fbchannel_forget(g)
        return e
    return i


cdef int fbchannel_meet(fbchannel *c) noexcept nogil:
    """Take in one introduction. 0, -EAGAIN (there is none), or the channel is broken."""
    cdef introduction m
    cdef received *r
    cdef pollfd p
    cdef int fd = -1
    cdef int e = 0
    cdef ssize_t n
    p.fd = c.sock
    p.events = POLLIN
    if sys_ppoll(&p, 1, 0) <= 0:
        return -EAGAIN
    n = sys_take_passed(c.sock, &m, sizeof(m), &fd, 1)
    if n == 0 or n == -ECONNRESET:
        fbchannel_close(c, -ECONNRESET)
        return -ECONNRESET
    if n < 0:
        return fbchannel_broken(c)
    if n != sizeof(m) or not plausible(c, &m):
        sys_close(fd)
        return fbchannel_broken(c)
    r = &c.got[m.number]
    forget_got(r)
    r.mem = region_import(fd, m.size * m.count, PROT_READ, &e)
    if r.mem == NULL:
        sys_close(fd)
        return fbchannel_broken(c)
    if m.count > 1:                     # else it is not worth it: it is used once
        r.published = region_publish(r.mem) == 0
    r.count = m.count
    r.epoch = m.epoch
    r.size = m.size
    r.forward = m.flags & FB_FORWARD != 0
    r.relayed = m.flags & FB_RELAYED != 0
    r.sealed = memfd_seals(fd) & SEAL_WRITE != 0
    r.held = <uint16_t *>calloc(r.count, sizeof(uint16_t))
    r.keeps = <uint16_t *>calloc(r.count, sizeof(uint16_t))
    r.secured = <uint8_t *>calloc(r.count, 1)
    if r.held == NULL or r.keeps == NULL or r.secured == NULL:
        fbchannel_close(c, -ENOMEM)
        return -ENOMEM
    return 0


cdef bint plausible(fbchannel *c, const introduction *m) noexcept nogil:
    """A number is used again only when nothing of its old region is held any more."""
    if m.number >= FBC_REGIONS or m.count == 0 or m.count > FB_BUFFERS_MAX:
        return False
    if m.size == 0 or m.size > (<uint64_t>1 << 40) or m.size % page_size():
        return False
    return c.got[m.number].out == 0


# --- holding ----------------------------------------------------------------------------------------------------------

cdef void fbchannel_ring(fbchannel *c) noexcept nogil:
    sys_eventfd_signal(c.peer_bell)


cdef void fbchannel_give_back(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil:
    cdef fb_return b
    b.region = n
    b.buffer = buffer
    if c.error or ring_put(&c.back_out, &b, 1) != 1:
        if c.error == 0:
            fbchannel_broken(c)           # it lent more than it may
        return
    if ring_owes_kick(&c.back_out):
        fbchannel_ring(c)


cdef int fbchannel_keep(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil:
    if c.got[n].keeps[buffer] == 0xFFFF:
        return -EOVERFLOW
    c.got[n].keeps[buffer] += 1
    return 0


cdef void fbchannel_drop(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil:
    cdef received *r = &c.got[n]
    r.keeps[buffer] -= 1
    while r.keeps[buffer] == 0 and r.held[buffer]:
        r.held[buffer] -= 1
        r.out -= 1
        fbchannel_give_back(c, n, buffer)


# --- sleeping ---------------------------------------------------------------------------------------------------------

cdef int fbchannel_arm(fbchannel *c, int what) noexcept nogil:
    cdef uint64_t count
    cdef int n = 0
    if c.error:
        return c.error
    sys_eventfd_take(c.bell, &count)
    if what == FBC_MESSAGES:
        n = ring_arm(&c.in_)
    if n == 0:
        n = ring_arm(&c.back_in)
    if n == 0 and what > 0 and ring_ready(&c.out) < what:
        n = ring_arm_for(&c.out, what)
    return n


cdef void fbchannel_disarm(fbchannel *c) noexcept nogil:
    ring_disarm(&c.in_)
    ring_disarm(&c.back_in)
    ring_disarm(&c.out)


cdef bint fbchannel_hung_up(fbchannel *c) noexcept nogil:
    cdef pollfd p
    if c.sock < 0:
        return True
    p.fd = c.sock
    p.events = POLLRDHUP_
    p.revents = 0
    return sys_ppoll(&p, 1, 0) > 0 and p.revents & (POLLHUP | POLLRDHUP_) != 0
