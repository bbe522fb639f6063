"""The structures and constants of the room mem, in one place because they refer to each other.

What they mean and what can be done with them: mblk.pxd, arena.pxd, pool.pxd. Those export the names further.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.region cimport region

cdef struct dblk
cdef struct mblk
cdef struct pool
cdef struct arena

ctypedef void (*free_fn)(void *arg) noexcept nogil

cdef enum:
    M_DATA = 0
    M_PROTO = 1                 # control information ahead of data, for users of the algebra

cdef enum:
    HEADER_SIZE = 256           # storage of a header block
    HEADROOM = 160              # where data begins in a header block: Ethernet, IP and options fit in front

cdef enum:
    DB_READONLY = 1             # nobody may write into the storage (file windows, lent memory)
    DB_EXTERNAL = 2             # storage that is not from a pool: freed by fn
    DB_LENT = 4                 # a slot of a link's ring: queues may have to copy it and let it go
    DB_BROKEN = 8               # a device could not read it (EFAULT): a file window whose file was truncated
    DB_WATCHED = 16             # bytes of the storage may be lost, and somebody knows: `arg` begins with a `watched`

cdef enum:
    ARENA_CLASSES = 5           # 256 B (headers), 2 KB, 16 KB, 64 + 4 KB head, 256 KB; beyond: a region each
    LARGE_SIZE = 69632
    JUMBO_SIZE = 262144

cdef enum:
    POOL_MAX_REGIONS = 1024

cdef struct dblk:
    uint8_t *base
    uint8_t *lim
    int32_t refs
    uint8_t type
    uint8_t flags               # DB_*
    uint16_t ref_limit          # dupb fails at this many references; 0: no limit (STREAMS: 255)
    uint32_t truesize           # storage that a queue is charged for holding it
    uint32_t stride             # partial sums: one per `stride` bytes counted from sum_base - sum_phase; 0: none
    uint32_t sum_phase          # so much shorter is the first of them
    uint8_t *sum_base
    uint16_t *sums              # nsums folded sums
    uint32_t nsums
    uint32_t summed             # bytes from sum_base that the partial sums cover; the last one may be short
    arena *owner
    pool *home                  # the pool it goes back to; NULL for external storage
    free_fn fn                  # external storage: runs once, after the last reference, never under a lock
    void *arg
    dblk *link                  # in a free list or reap list

cdef struct watched:
    # Whether the storage still has its bytes up to `end`. Called under locks: it does not wait.
    bint (*intact)(const watched *w, const uint8_t *end) noexcept nogil

cdef struct mblk:
    mblk *next
    mblk *prev
    mblk *cont
    uint8_t *rptr
    uint8_t *wptr
    dblk *dp
    # Facts of the packet or segment that this mblk heads; 0 where they do not apply
    uint32_t pkt_len            # bytes of the whole chain (kept by pkt_* helpers)
    uint16_t gso_size           # payload bytes a wire segment gets; 0: not a super-segment
    uint8_t gso_type            # GSO_*
    uint8_t csum                # CSUM_*
    uint16_t csum_start         # CSUM_PARTIAL: offset from rptr where summing starts
    uint16_t csum_offset        # CSUM_PARTIAL: offset from there of the checksum field
    uint16_t segs               # wire segments that a coalesced packet stands for; 0 means 1
    uint16_t hdr_len            # offset from rptr of the payload, where it is known
    uint32_t seq                # stream position, in TCP's queues
    uint32_t mark               # owner's use
    uint64_t stamp              # owner's use (time sent, time received)
    arena *home                 # whose slab this structure goes back to; the storage may be another's

cdef struct pool:
    arena *owner
    size_t size                 # usable bytes of a buffer
    size_t footprint            # bytes from one buffer to the next
    uint32_t grow               # buffers in the first region; later ones hold up to 16 times as many
    uint32_t total
    uint32_t free
    uint32_t low                # fewest free ones ever
    uint64_t takes
    uint64_t misses             # takes that had to grow the pool
    int32_t lock                # of a pool without an owner; otherwise the owner's lock counts
    dblk *head                  # free list
    region **regions            # POOL_MAX_REGIONS at most, grown as needed
    dblk **blocks               # for each region: the dblk structures of its buffers, and their sums
    uint32_t nregions
    uint32_t nsums              # partial sums that a buffer has room for

cdef struct arena:
    pool *classes[ARENA_CLASSES]
    int64_t budget              # bytes of storage that may be held; 0: no bound
    int64_t common              # the part of it that anybody may use; the rest is for headers alone
    int64_t held                # bytes of storage handed out (written under the lock)
    int64_t sending             # the part of it that send queues hold (written under their engine's lock)
    int64_t reserved            # bytes of storage obtained from the system (atomic)
    int64_t failures            # allocations refused for want of budget or memory (atomic)
    mblk *free_mblks            # slab of mblk structures; external dblk come from it too
    int32_t lock                # of the slab and of the pools' free lists
    int32_t refs                # who keeps it beside its blocks: the engine, and whoever called arena_ref
    int64_t live                # mblk and dblk outstanding (written under the lock): for leak tests
    void *chunks                # system memory behind the slab
    uint32_t chunk_cells        # structures in the next chunk
    dblk *reap                  # external storage whose last reference is gone (atomic stack)
    # Told when the reap list becomes non-empty, from whatever thread and under whatever lock; may be NULL.
    # It must stay valid as long as the arena, or be set to NULL before the last arena_release.
    void (*on_reap)(void *arg) noexcept nogil
    void *on_reap_arg
    ledger *book                # the engine's ledger (copyb, pullup book here)
    uint32_t flags

cdef enum:
    CELL = 128                  # bytes of a slab entry: room for an mblk or a dblk, two cache lines
