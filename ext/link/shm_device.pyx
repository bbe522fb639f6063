"""The device of a shared-memory link: see shm_device.pxd. No stack is in here: only descriptors, limits and memcpy."""

from libc.errno cimport EBADMSG, EFAULT, EINVAL, EPROTO
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.checksum cimport csum_block_add, csum_finish, csum_partial
from ustack._core.base.types cimport NS_NEVER, atomic_load32, cpu_relax, unlikely
from ustack._core.link.shm_place cimport (
    shm_placer, shm_placer_claim, shm_placer_end, shm_placer_hear, shm_placer_init, shm_placer_look,
    shm_placer_release,
)
from ustack._core.link.shm_wire cimport (
    D_BAD_ALIGN, D_BAD_BUFFER, D_BAD_COUNT, D_BAD_ENTRY, D_BAD_FACTS, D_BAD_LENGTH, D_BAD_LIMIT, D_BAD_POSTING,
    D_BAD_RANGE, D_BAD_REGION, D_BAD_RING, D_BAD_SEG, D_BYTES, D_COUNT, D_FULL, D_KICKS, D_LOST, D_PACKETS, D_PIECES,
    D_PLACED, D_SLEEPS, D_STARVED, D_SUMMED, D_UNMAPPED, D_UNMAPPED_EARLY, SHM_AT_COUNTS, SHM_AT_DONE, SHM_AT_FILL,
    SHM_AT_MAP, SHM_AT_RX, SHM_AT_TX, SHM_CONFIG, SHM_CONFIG_FDS, SHM_FACE, SHM_FILE, SHM_FLIGHTS, SHM_FORGET,
    SHM_HEAD, SHM_HEADERS, SHM_NOT_FORM, SHM_NOT_REGION, SHM_OWN, SHM_PACKET, SHM_PIECE, SHM_PIECES, SHM_REGION,
    SHM_REGIONS, SHM_SLOT, SHM_SLOTS, SHM_SPLIT, SHM_TX, shm_buffer, shm_done, shm_entry, shm_head, shm_limits,
    shm_order, shm_packet, shm_piece,
)
from ustack._core.link.vnet cimport vnet_hdr
from ustack._core.mem.posting cimport POSTING_HEADER
from ustack._core.mem.region cimport region, region_unref
from ustack._core.mem.ring cimport (
    RING_CONSUMER, RING_PRODUCER, ring, ring_arm, ring_attach_region, ring_disarm, ring_owes_kick, ring_put,
    ring_ready, ring_take,
)
from ustack._core.mem.share cimport REGION_FILE, region_import, region_of_file
from ustack._core.sys.eventfd cimport sys_eventfd_signal, sys_eventfd_take
from ustack._core.sys.guard cimport guard_copy, guard_install
from ustack._core.sys.io cimport sys_close, sys_nonblock, sys_write
from ustack._core.sys.memory cimport PROT_READ, PROT_WRITE
from ustack._core.sys.passing cimport sys_take_passed
from ustack._core.sys.poll cimport POLLIN, pollfd, sys_ppoll

cdef enum:
    SPINS = 256                 # some 10 us of looking before it sleeps
    FILE_MOST = 1 << 30         # bytes of a file's window
    ORDERS_EVERY = 256          # packets between looks at the control socket, when it never sleeps
    NEEDS_CSUM = 1              # vnet_hdr.flags
    DATA_VALID = 2

cdef struct device:
    ring tx
    ring done
    ring fill
    ring out
    region *own
    region *face
    region *room                # where the peer's receive buffers are
    region *regions[SHM_REGIONS]
    uint32_t names[SHM_REGIONS]         # slot and version, as pieces name them
    shm_limits limits
    uint64_t *n                 # counts, for the stack to read
    uint32_t *map               # stamps of the packets whose memory may be read
    int control
    int bell                    # we sleep on it
    int irq                     # our stack does
    int peer_irq
    bint over                   # nobody wants us any more
    bint have_head              # a packet waits for a buffer
    bint have_buffer
    shm_head head
    shm_piece pieces[SHM_PIECES]
    shm_buffer buffer
    shm_placer placer

cdef extern from *:
    """
    static const char *const shm_names[] = {
      "packets", "bytes", "pieces", "summed", "sleeps", "kicks", "starved",
      "bad_entry", "bad_count", "bad_region", "bad_range", "bad_align", "bad_seg", "bad_limit", "bad_length",
      "bad_facts", "lost", "unmapped", "unmapped_early", "bad_buffer", "bad_ring", "full", "placed", "bad_posting",
    };
    """
    const char *shm_names[D_COUNT]


cdef const char *shm_count_name(int which) noexcept nogil:
    return shm_names[which if 0 <= which < D_COUNT else 0]


# --- orders on the control socket -----------------------------------------------------------------------------------

cdef int begin(device *d) noexcept nogil:
    """The first order: the rings, and where to look for work. 0 or -errno."""
    cdef shm_order o
    cdef int fds[SHM_CONFIG_FDS]
    cdef region *r[3]
    cdef size_t least[3]
    cdef int i, err = 0, lost = 0
    if sys_take_passed(d.control, &o, sizeof(o), fds, SHM_CONFIG_FDS) != sizeof(o):
        return -EBADMSG
    least[0], least[1], least[2] = SHM_OWN, SHM_FACE, SHM_SLOT
    for i in range(3):
        r[i] = region_import(fds[i], least[i], PROT_READ | PROT_WRITE, &err)
        if r[i] == NULL:
            sys_close(fds[i])
            lost = err
    d.own, d.face, d.room = r[0], r[1], r[2]
    d.bell, d.irq, d.peer_irq, d.placer.fd = fds[3], fds[4], fds[5], fds[6]
    d.limits = o.limits
    if lost:
        return lost
    if o.kind != SHM_CONFIG or o.limits.align == 0 or not 0 < o.limits.max_sg <= SHM_PIECES:
        return -EINVAL
    d.n = <uint64_t *>(d.own.base + SHM_AT_COUNTS)
    d.map = <uint32_t *>(d.own.base + SHM_AT_MAP)
    ring_attach_region(&d.tx, d.own, SHM_AT_TX, SHM_TX, sizeof(shm_entry), RING_CONSUMER)
    ring_attach_region(&d.done, d.own, SHM_AT_DONE, SHM_FLIGHTS, sizeof(shm_done), RING_PRODUCER)
    ring_attach_region(&d.fill, d.face, SHM_AT_FILL, SHM_SLOTS, sizeof(shm_buffer), RING_CONSUMER)
    ring_attach_region(&d.out, d.face, SHM_AT_RX, SHM_SLOTS, sizeof(shm_packet), RING_PRODUCER)
    shm_placer_init(&d.placer, d.face, d.placer.fd)
    return sys_nonblock(d.control)


cdef void take_orders(device *d) noexcept nogil:
    """Whatever waits on the control socket: regions to know, or its end."""
    cdef shm_order o
    cdef region *r
    cdef int fd
    cdef uint32_t slot
    cdef ssize_t got
    while not d.over:
        got = sys_take_passed(d.control, &o, sizeof(o), &fd, 1)
        if got == -11:          # EAGAIN
            return
        if got <= 0 and got != -EBADMSG:
            d.over = True
            return
        if got != sizeof(o):
            if got > 0:
                sys_close(fd)
            continue
        slot = o.region & (SHM_REGIONS - 1)
        r = accept(&o, fd)
        if r == NULL and o.kind != SHM_FORGET:
            continue
        if d.regions[slot] != NULL:
            region_unref(d.regions[slot])
        d.regions[slot] = r
        d.names[slot] = o.region


cdef region *accept(const shm_order *o, int fd) noexcept nogil:
    """Map what came with an order; NULL if that cannot be. Takes the descriptor."""
    cdef region *r = NULL
    cdef int err = 0
    if o.kind == SHM_REGION:
        r = region_import(fd, 1, PROT_READ, &err)
        if r != NULL:
            return r
    elif o.kind == SHM_FILE and o.length <= FILE_MOST and guard_install() == 0:
        r = region_of_file(fd, o.offset, o.length, PROT_READ, &err)
    sys_close(fd)
    return r


cdef region *find(device *d, uint32_t name) noexcept nogil:
    """The region that a piece names. One that is not known may have been told of a moment ago."""
    cdef uint32_t slot = name & (SHM_REGIONS - 1)
    if unlikely(d.regions[slot] == NULL or d.names[slot] != name):
        take_orders(d)
        if d.regions[slot] == NULL or d.names[slot] != name:
            return NULL
    return d.regions[slot]


# --- looking at copies of descriptors ---------------------------------------------------------------------------------

cdef int check_piece(device *d, const shm_piece *p) noexcept nogil:
    """0, or which count says why not."""
    cdef region *r
    if p.kind != SHM_PIECE:
        return D_BAD_ENTRY
    r = find(d, p.region)
    if r == NULL:
        return D_BAD_REGION
    if p.length == 0 or p.offset > r.length or p.length > r.length - p.offset:
        return D_BAD_RANGE
    if p.offset & (d.limits.align - 1):
        return D_BAD_ALIGN
    if p.length > d.limits.max_seg:
        return D_BAD_SEG
    if p.offset + p.length > d.limits.address_limit:
        return D_BAD_LIMIT
    return 0


cdef int check(device *d) noexcept nogil:
    cdef const vnet_hdr *facts = &d.head.facts
    cdef uint64_t total = 0
    cdef uint32_t i
    cdef int why
    for i in range(d.head.pieces):
        why = check_piece(d, &d.pieces[i])
        if why:
            return why
        total += d.pieces[i].length
    if total != d.head.length or total > SHM_PACKET:
        return D_BAD_LENGTH
    if facts.flags & NEEDS_CSUM and <uint32_t>facts.csum_start + facts.csum_offset + 2 > d.head.length:
        return D_BAD_FACTS
    if d.head.cookie >= SHM_FLIGHTS or d.head.stamp == 0 or stamp_of(d) != d.head.stamp:
        return D_UNMAPPED
    return 0


cdef inline uint32_t stamp_of(const device *d) noexcept nogil:
    return <uint32_t>atomic_load32(<const int32_t *>&d.map[d.head.cookie])


cdef int fetch(device *d) noexcept nogil:
    """The next packet's descriptors, copied. 1, 0: none, -EPROTO: the ring is broken."""
    cdef shm_entry e
    cdef int r = ring_take(&d.tx, &e, 1)
    cdef uint32_t i
    if r <= 0:
        return r
    d.head = e.head
    if d.head.kind != SHM_HEAD:
        d.n[<int>D_BAD_ENTRY] += 1      # it lost its head, and whose it is nobody knows
        return fetch_again(d)
    if d.head.pieces == 0 or d.head.pieces > d.limits.max_sg:
        refuse(d, D_BAD_COUNT)
        return fetch_again(d)
    if ring_ready(&d.tx) < d.head.pieces:
        refuse(d, D_BAD_COUNT)          # they are published together
        return fetch_again(d)
    for i in range(d.head.pieces):
        r = ring_take(&d.tx, &e, 1)
        if r <= 0:
            return -EPROTO
        d.pieces[i] = e.piece
    return 1


cdef int fetch_again(device *d) noexcept nogil:
    """What was refused had its turn: the caller looks at everything else first."""
    return -EPROTO if d.tx.broken else 0


cdef int fetch_buffer(device *d) noexcept nogil:
    """The next empty buffer of the peer's, checked. 1, 0: none, -EPROTO."""
    cdef int r
    while True:
        r = ring_take(&d.fill, &d.buffer, 1)
        if r <= 0:
            return r
        if (d.buffer.length >= SHM_SLOT and d.buffer.offset <= d.room.length
                and d.buffer.length <= d.room.length - d.buffer.offset):
            return 1
        d.n[<int>D_BAD_BUFFER] += 1


# --- the work ---------------------------------------------------------------------------------------------------------

cdef void complete(device *d, int status) noexcept nogil:
    cdef shm_done f
    f.cookie = d.head.cookie
    f.status = status
    if ring_put(&d.done, &f, 1) == 0:
        d.n[<int>D_FULL] += 1


cdef void refuse(device *d, int why) noexcept nogil:
    d.n[why] += 1
    complete(d, -EINVAL)


cdef bint gather(device *d, uint32_t at, uint32_t n, uint8_t *to) noexcept nogil:
    """n bytes of the packet. Whether all of it was there: files can be cut."""
    cdef const shm_piece *p
    cdef uint32_t i, part
    cdef region *r
    for i in range(d.head.pieces):
        p = &d.pieces[i]
        if at >= p.length:
            at -= p.length
            continue
        if n == 0:
            break
        part = p.length - at if p.length - at < n else n
        r = d.regions[p.region & (SHM_REGIONS - 1)]
        if not r.flags & REGION_FILE:
            memcpy(to, r.base + p.offset + at, part)
        elif guard_copy(to, r.base + p.offset + at, part) != part:
            return False
        to += part
        n -= part
        at = 0
    return True


cdef void finish_checksum(device *d, uint8_t *to, const shm_packet *p, const uint8_t *placed) noexcept nogil:
    """Outboard checksum: the field holds the sum of the pseudo-header, the device adds the rest."""
    cdef vnet_hdr *facts = &d.head.facts
    cdef uint32_t start = facts.csum_start
    cdef uint32_t front = p.hdr_len if placed != NULL else p.length
    cdef uint32_t total
    cdef uint16_t sum
    if not d.limits.outboard or not facts.flags & NEEDS_CSUM or facts.gso_type:
        return
    total = csum_partial(to + start, front - start)
    if placed != NULL:
        total = csum_block_add(total, csum_partial(placed, p.placed), front - start)
        total = csum_block_add(total, csum_partial(to + front, p.length - front), front - start + p.placed)
    sum = csum_finish(total)
    if sum == 0 and facts.csum_offset == 6:
        sum = 0xFFFF            # UDP has no zero (RFC 768)
    memcpy(to + start + facts.csum_offset, &sum, 2)
    facts.flags = DATA_VALID
    d.n[<int>D_SUMMED] += 1


cdef uint8_t *posted_place(device *d, uint8_t *head, shm_packet *p) noexcept nogil:
    """Where the payload belongs, with a copy of the headers in `head`; NULL: into the buffer, as ever."""
    cdef const vnet_hdr *facts = &d.head.facts
    cdef int header = shm_placer_look(&d.placer)
    if header == 0:
        return NULL
    p.posting = <uint16_t>d.placer.mine.version
    if header < 0:
        p.at = SHM_NOT_REGION
        d.n[<int>D_BAD_POSTING] += header == -2
        return NULL
    if d.head.length <= <uint32_t>header:
        return NULL             # no payload, or other headers
    p.at = SHM_NOT_FORM
    if facts.flags & NEEDS_CSUM and <int>facts.csum_start + facts.csum_offset + 2 > header:
        return NULL
    return shm_placer_claim(&d.placer, head, d.head.length - header, p) if gather(d, 0, header, head) else NULL


cdef bint fill(device *d, uint8_t *head, shm_packet *p, uint8_t *place) noexcept nogil:
    """The bytes of a packet to where they go. False: it goes nowhere."""
    cdef uint8_t *to
    if place == NULL:
        p.hdr_len = d.head.hdr_len if d.head.hdr_len <= SHM_SPLIT and d.head.hdr_len <= d.head.length else 0
        p.start = SHM_HEADERS - (p.hdr_len if p.hdr_len else 64)
    else:
        p.hdr_len = d.placer.mine.rule.header
        p.start = SHM_HEADERS - p.hdr_len
    p.length = d.head.length - p.placed
    to = d.room.base + d.buffer.offset + p.start
    if place == NULL:
        if unlikely(not gather(d, 0, p.length, to)):
            d.n[<int>D_LOST] += 1
            return False
    else:
        memcpy(to, head, p.hdr_len)
        if (not gather(d, p.hdr_len, p.placed, place)
                or not gather(d, p.hdr_len + p.placed, p.length - p.hdr_len, to + p.hdr_len)):
            d.n[<int>D_LOST] += 1
            return False
    d.n[<int>D_PIECES] += d.head.pieces
    return True


cdef void move(device *d) noexcept nogil:
    """One packet into one buffer, both checked, or its payload to where the other side has posted a receive."""
    cdef uint8_t head[POSTING_HEADER]
    cdef uint8_t *place
    cdef shm_packet p
    cdef int status = -EFAULT
    memset(&p, 0, sizeof(p))
    place = posted_place(d, head, &p)
    p.slot = d.buffer.slot
    if fill(d, head, &p, place):
        status = deliver(d, &p, place)
    if place != NULL:
        shm_placer_release(&d.placer)
    complete(d, status)


cdef int deliver(device *d, shm_packet *p, const uint8_t *place) noexcept nogil:
    """A packet that lies where it belongs is the other side's: 0 or -EINVAL."""
    if stamp_of(d) != d.head.stamp:
        d.n[<int>D_UNMAPPED_EARLY] += 1         # what was read may be something else by now: it goes nowhere
        return -EINVAL
    finish_checksum(d, d.room.base + d.buffer.offset + p.start, p, place)
    p.facts = d.head.facts
    d.have_buffer = False
    if ring_put(&d.out, p, 1) == 0:
        d.n[<int>D_FULL] += 1
    d.n[<int>D_PACKETS] += 1
    d.n[<int>D_BYTES] += d.head.length
    d.n[<int>D_PLACED] += place != NULL
    return 0


cdef void kick(device *d) noexcept nogil:
    if ring_owes_kick(&d.out):
        d.n[<int>D_KICKS] += 1
        sys_eventfd_signal(d.peer_irq)
    if ring_owes_kick(&d.done) or ring_owes_kick(&d.tx):
        d.n[<int>D_KICKS] += 1
        sys_eventfd_signal(d.irq)


cdef int step(device *d) noexcept nogil:
    """Move one packet. 1, 0: nothing can be done now, -EPROTO: a ring is broken."""
    cdef int r, why
    if not d.have_head:
        r = fetch(d)
        if r <= 0:
            return r
        d.have_head = True
    if not d.have_buffer:
        r = fetch_buffer(d)
        if r <= 0:
            return r
        d.have_buffer = True
    why = check(d)
    d.have_head = False
    if unlikely(why):
        refuse(d, why)
        kick(d)
    else:
        move(d)
        kick(d)
    return 1 if not (d.out.broken or d.done.broken) else -EPROTO


cdef bint idle(device *d) noexcept nogil:
    """Nothing to do: look for a moment, then sleep. False: a ring is broken."""
    cdef pollfd p[3]
    cdef uint64_t count
    cdef ring *r = &d.fill if d.have_head else &d.tx
    cdef int _i, ready
    for _i in range(SPINS):
        ready = ring_ready(r)
        if ready:
            return ready > 0
        cpu_relax()
    if d.have_head:
        d.n[<int>D_STARVED] += 1
    ready = ring_arm(r)
    if ready == 0:
        d.n[<int>D_SLEEPS] += 1
        p[0].fd = d.bell
        p[1].fd = d.control
        p[2].fd = d.placer.fd
        p[0].events = p[1].events = p[2].events = POLLIN
        p[0].revents = p[1].revents = p[2].revents = 0
        sys_ppoll(p, 3, NS_NEVER)
        ring_disarm(r)
        if p[0].revents:
            sys_eventfd_take(d.bell, &count)
        if p[1].revents:
            take_orders(d)
        if p[2].revents:
            shm_placer_hear(&d.placer)
    return ready >= 0


cdef void serve(device *d) noexcept nogil:
    cdef uint32_t since = 0
    cdef int r, _i
    while not d.over:
        r = step(d)
        since += 1
        if r < 0 or (r == 0 and not idle(d)):
            d.n[<int>D_BAD_RING] += 1
            return
        if since >= ORDERS_EVERY:
            since = 0
            take_orders(d)
    # What the stack sent before it hung up still goes, as far as there is room for it.
    for _i in range(SHM_TX):
        if step(d) <= 0:
            break


cdef void end(device *d) noexcept nogil:
    cdef int i
    for i in range(SHM_REGIONS):
        if d.regions[i] != NULL:
            region_unref(d.regions[i])
    shm_placer_end(&d.placer)
    if d.own != NULL:
        region_unref(d.own)
    if d.face != NULL:
        region_unref(d.face)
    if d.room != NULL:
        region_unref(d.room)
    if d.bell >= 0:
        sys_close(d.bell)
        sys_close(d.irq)
        sys_close(d.peer_irq)
    sys_close(d.control)            # last: the stack takes it for the end of all reading
    free(d)


cdef int shm_device_run(int control) noexcept nogil:
    cdef device *d = <device *>calloc(1, sizeof(device))
    cdef int32_t status
    if d == NULL:
        sys_close(control)
        return -12
    d.control = control
    d.bell = d.irq = d.peer_irq = d.placer.fd = -1
    status = begin(d)
    if sys_write(control, &status, sizeof(status)) < 0 and status == 0:
        status = -EPROTO
    if status == 0:
        serve(d)
    end(d)
    return status
