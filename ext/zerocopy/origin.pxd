"""Where bytes to be sent come from, as message blocks, by the technique that the caller chose.

    technique       CPU copies between source and link            booked as
    read            2: file to a buffer, buffer to a block        file.read, tx.copy
    mmap            1: mapping to a block                         tx.copy
    copy            1: file (or pipe, or socket) to a block       file.read
    gather          0: blocks are windows on the page cache       (file.gathered counts them)

and of memory: fused (summed while copied), naive (summed in a pass of its own), outboard (not summed here).
No function holds a lock, and files may keep the caller waiting. Nothing is known of connections here.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk
from ustack._core.sys.file cimport file_facts

cdef enum:
    FROM_AUTO = 0               # gather where the path allows it, else copy
    FROM_READ = 1
    FROM_MMAP = 2
    FROM_COPY = 3
    FROM_GATHER = 4
    FROM_MEMORY = 5

cdef enum:
    SUM_AUTO = 0                # as send(): while copying, where the link does not sum
    SUM_FUSED = 1
    SUM_NAIVE = 2
    SUM_OUTBOARD = 3

cdef struct origin:
    int fd                      # -1: memory
    int how                     # FROM_*
    int sums                    # SUM_*, of memory
    file_facts facts
    bint positional             # it has offsets: a file
    bint no_disk                # -EBUSY instead of waiting for a disk
    int64_t at                  # next byte of the file
    const uint8_t *bytes        # of memory
    uint8_t *scratch            # FROM_READ's buffer of ORIGIN_CHUNK bytes; owned
    bint guarded                # of memory: it may be a mapping of a file that ends early; -EFAULT where it does
    bint shrunk                 # the file ended before where it was seen to end

cdef enum:
    ORIGIN_CHUNK = 65536
    ORIGIN_GATHERED = 524288    # bytes linked at once

# At most `max` bytes, in blocks that the caller owns; NULL with *err 0 at the end, or -errno (-EINTR: again).
# gather: the path can take windows. stride, phase: of the partial sums to keep (0: none). *mapped: the technique that
# was asked for could not be used, since the source cannot be mapped.
cdef mblk *origin_take(origin *o, arena *a, ledger *book, size_t max, bint gather, uint32_t stride, uint32_t phase,
                       bint *unmapped, int *err) noexcept nogil
# Whether the file, as far as is known, has nothing behind the next byte to be taken.
cdef bint origin_at_end(const origin *o) noexcept nogil
