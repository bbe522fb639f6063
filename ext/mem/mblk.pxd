"""Message blocks: the one form in which packets and stream data travel through the stack (STREAMS'
mblk/dblk).

       mblk                     dblk                      storage
      +-------+   dp           +-------+  base           +----------------------------------+
      | rptr -|---------+----->| refs  |---------------->|  headroom  |  data   |  tailroom |
      | wptr -|------+  |      | lim --|---------+       +----------------------------------+
      | cont -|--+   |  |      +-------+         |                    ^         ^            ^
      | next  |  |   |  |                        |                  rptr      wptr          lim
      +-------+  |   |  +- another mblk may hold a window on the same dblk (dupb): refs counts them
                 +- the next block of the same message

A window never leaves its storage: base <= rptr <= wptr <= lim. ``cont`` chains the blocks of one message;
``next`` and ``prev`` link messages in queues. Whoever receives an mblk pointer as an argument named
``taken`` owns it afterwards, whatever the call returns.

Threads: reference counts and free lists are safe from any thread; one mblk is used by one thread at a time.
No free function runs inside these calls when the block came with one: a last reference to external storage
puts it on the arena's reap list, and ``arena_reap`` runs it, with no lock held.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.types cimport (
    DB_BROKEN, DB_EXTERNAL, DB_LENT, DB_READONLY, DB_WATCHED, HEADER_SIZE, HEADROOM, M_DATA, M_PROTO, arena, dblk,
    free_fn, mblk, pool, watched,
)

# --- allocation -------------------------------------------------------------------------------------------
cdef mblk *allocb(arena *a, size_t size) noexcept nogil
cdef mblk *alloc_header(arena *a) noexcept nogil
cdef mblk *esballoc(arena *a, void *base, size_t size, free_fn fn, void *arg) noexcept nogil
cdef mblk *mblk_attach(arena *a, dblk *taken) noexcept nogil
cdef void freeb(mblk *m) noexcept nogil
cdef void freemsg(mblk *m) noexcept nogil
cdef void freelist(mblk *m) noexcept nogil
cdef void dblk_ref(dblk *d) noexcept nogil
cdef void dblk_unref(dblk *d) noexcept nogil

# --- sharing and copying ----------------------------------------------------------------------------------
cdef mblk *dupb(arena *a, mblk *m) noexcept nogil
cdef mblk *dupmsg(arena *a, mblk *m) noexcept nogil
cdef mblk *copyb(arena *a, mblk *m) noexcept nogil
cdef mblk *copymsg(arena *a, mblk *m) noexcept nogil
# A message of windows on bytes [offset, offset + n) of the chain: no copy; NULL without memory or if out of
# range.
cdef mblk *dup_range(arena *a, mblk *m, size_t offset, size_t n) noexcept nogil

# --- chains -----------------------------------------------------------------------------------------------
cdef void linkb(mblk *m, mblk *tail) noexcept nogil
cdef mblk *unlinkb(mblk *m) noexcept nogil
cdef mblk *rmvb(mblk *m, mblk *block) noexcept nogil
cdef bint pullupmsg(arena *a, mblk *m, ssize_t n) noexcept nogil
cdef mblk *msgpullup(arena *a, mblk *m, ssize_t n) noexcept nogil
cdef bint adjmsg(mblk *m, ssize_t n) noexcept nogil
# Bytes of the M_DATA blocks; of all blocks.
cdef size_t msgdsize(const mblk *m) noexcept nogil
cdef size_t msgbytes(const mblk *m) noexcept nogil
cdef int msgblocks(const mblk *m) noexcept nogil
cdef size_t msgtruesize(const mblk *m) noexcept nogil
# Cut the message behind n bytes; returns the rest (NULL if nothing is left or no memory: then *m is
# unchanged).
cdef mblk *splitmsg(arena *a, mblk *m, size_t n) noexcept nogil
# Drop n bytes from the front, freeing blocks that become empty; returns the new head (NULL: all consumed).
cdef mblk *msgconsume(mblk *taken, size_t n) noexcept nogil

# --- bytes in and out: the only functions that move payload; all of them book -----------------------------
# Append n bytes to m's last block as far as there is room and the block is exclusively owned; returns how
# many.
cdef size_t msgappend(ledger *l, int reason, mblk *m, const void *src, size_t n) noexcept nogil
# A new message holding a copy of n bytes, in blocks as large as the arena has them; NULL without memory.
cdef mblk *msgcopyin(arena *a, ledger *l, int reason, const void *src, size_t n) noexcept nogil
# The same, summing while copying: partial sums per `stride` bytes are kept on the blocks, the first of them for
# `phase` bytes less: what comes before these bytes has begun a stride already.
cdef mblk *msgcopyin_csum(arena *a, ledger *l, int reason, const void *src, size_t n,
                          uint32_t stride, uint32_t phase=*) noexcept nogil
# Copy bytes [offset, offset + n) of the message out; returns how many there were.
cdef size_t msgcopyout(ledger *l, int reason, const mblk *m, size_t offset, void *dst,
                       size_t n) noexcept nogil
# Sum of bytes [offset, offset + n); partial sums kept on the blocks are used, the edges summed and booked.
cdef uint32_t msgcsum(ledger *l, int reason, const mblk *m, size_t offset, size_t n) noexcept nogil


cdef inline size_t mblk_len(const mblk *m) noexcept nogil:
    return m.wptr - m.rptr


cdef inline size_t headroom(const mblk *m) noexcept nogil:
    return m.rptr - m.dp.base


cdef inline size_t tailroom(const mblk *m) noexcept nogil:
    return m.dp.lim - m.wptr


cdef inline bint writable(const mblk *m) noexcept nogil:
    """Whether the storage belongs to this mblk alone."""
    return m.dp.refs == 1 and not m.dp.flags & DB_READONLY


cdef inline bint msg_intact(const mblk *m) noexcept nogil:
    """False: bytes of the message are lost, and what would be read in their place is not what was meant."""
    while m != NULL:
        if m.dp.flags & DB_WATCHED and not (<const watched *>m.dp.arg).intact(<const watched *>m.dp.arg, m.wptr):
            return False
        m = m.cont
    return True


cdef inline void mark_broken(mblk *m) noexcept nogil:
    """A device could not read this packet: note it on the storage that is not ours, for who would send it again."""
    while m != NULL:
        if m.dp.flags & DB_EXTERNAL:
            m.dp.flags |= DB_BROKEN
        m = m.cont


cdef inline uint8_t *pkt_push(mblk *m, size_t n) noexcept nogil:
    """Open n bytes in front of a packet; NULL if there is no headroom of its own."""
    if <size_t>(m.rptr - m.dp.base) < n or m.dp.refs != 1 or m.dp.flags & DB_READONLY:
        return NULL
    m.dp.stride = 0             # what is written here may lie under a partial sum
    m.rptr -= n
    m.pkt_len += n
    if m.csum == 2:             # CSUM_PARTIAL
        m.csum_start += n
    if m.hdr_len:
        m.hdr_len += n
    return m.rptr


cdef inline void pkt_pull(mblk *m, size_t n) noexcept nogil:
    """Step over n bytes at the front of a packet, all of them in its first block."""
    m.rptr += n
    m.pkt_len -= n
    if m.csum == 2:
        m.csum_start = m.csum_start - n if m.csum_start >= n else 0
    if m.hdr_len:
        m.hdr_len = m.hdr_len - n if m.hdr_len >= n else 0
