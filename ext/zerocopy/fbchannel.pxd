"""Channels: fbufs between two processes. What crosses is (region, buffer, offset, length), never a byte of payload and
never a pointer.

      us                         memory of a channel, one file for each direction           the other process
      fbchannel_send  ->  [ descriptors ]  ->  fbchannel_next
      fbchannel_collect <-  [ buffers given back ]  <-  fbchannel_drop

A region is introduced once, by a message with its descriptor over a UNIX socket, and has a number from then on. Only
introductions need the socket; descriptors and returns go through rings (mem/ring), and a system call is made only to
wake somebody who sleeps.

The other side is not trusted: a descriptor is copied, then checked; a region must be sealed against shrinking, and is
mapped for reading only; buffers that were never lent cannot be given back. Whoever breaks these rules breaks the
channel (-EPROTO). At the end of a channel, however it came, everything that was lent to the other side comes home, and
what was received stays readable until it is freed. How windows are sent and taken: fbtransfer.

Threads: one at a time.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ustack._core.mem.region cimport region
from ustack._core.mem.ring cimport ring
from ustack._core.zerocopy.fbpool cimport fbpool

cdef enum:
    FBC_REGIONS = 256           # regions that one side introduces, at a time
    FBC_DESCRIPTORS = 512       # of a ring; also how many windows may be lent at a time
    FBC_RETURNS = 1024

cdef enum:
    FBD_MORE = 1                # the message goes on with the next descriptor
    FBD_YOURS = 2               # the region is one that the receiver introduced: the buffer comes back, with contents
    FBD_SECURED = 4             # no message: the buffer cannot be written to any more

cdef struct fb_descriptor:      # in shared memory
    uint32_t region
    uint32_t buffer
    uint32_t offset
    uint32_t length
    uint32_t flags
    uint32_t epoch              # which introduction of that number is meant

cdef struct fb_return:          # in shared memory
    uint32_t region
    uint32_t buffer             # with FBR_SECURE: it is not given back, but to be made read-only

cdef enum:
    FBR_SECURE = 1 << 31

# What is waited for, besides returns: messages, or, from 1 on, room for so many windows.
cdef enum:
    FBC_NOTHING = -1
    FBC_MESSAGES = 0

cdef struct fbchannel

cdef struct introduced:         # by us
    region *mem                 # NULL: this number is free
    fbpool *pool                # ours; NULL: it came from the channel `home`
    fbchannel *home
    uint32_t home_region
    uint16_t *lent              # windows that the other side has, of each buffer
    uint32_t count
    uint32_t out                # sum of lent
    uint32_t epoch
    size_t size

cdef struct received:           # introduced by the other side
    region *mem
    uint16_t *held              # windows that were lent to us, of each buffer
    uint16_t *keeps             # who of us keeps it from going back: windows, and channels to which it was passed on
    uint8_t *secured            # of each buffer
    uint32_t count
    uint32_t out
    uint32_t epoch
    size_t size
    bint published              # devices of shared memory can reach it: mem/share
    bint sealed                 # the kernel lets nobody write, not even its maker
    bint forward                # others may be let read it
    bint relayed                # the other side is not its producer

cdef struct fbchannel:
    int sock
    int bell                    # eventfd that wakes us; the other side has it too
    int peer_bell
    region *mine                # memory of the rings that we produce into
    region *theirs
    ring out
    ring back_out
    ring in_
    ring back_in
    introduced given[FBC_REGIONS]
    received got[FBC_REGIONS]
    uint32_t epochs             # introductions so far
    uint32_t lent               # windows that the other side has
    int error                   # 0, or why nothing goes any more: -EPROTO, -ECONNRESET
    int32_t refs
    uint64_t sent, came, returned, forged

# A channel over a connected UNIX socket, which says hello to the other side. NULL, the reason in *err (-errno).
cdef fbchannel *fbchannel_open(int sock, int *err) noexcept nogil
# Take the other side's hello, and the socket. 0, or -errno: -EAGAIN (it has not come yet), -EPROTO.
cdef int fbchannel_greet(fbchannel *c, int sock) noexcept nogil
cdef void fbchannel_ref(fbchannel *c) noexcept nogil
# Nothing is sent or received any more; everything lent comes home.
cdef void fbchannel_close(fbchannel *c, int error) noexcept nogil
cdef void fbchannel_unref(fbchannel *c) noexcept nogil
# The other side does not keep the rules: close. -EPROTO.
cdef int fbchannel_broken(fbchannel *c) noexcept nogil

# The number of a pool of ours, or of what was received on `home` as region n, introduced if need be; -ENOSPC, -EPERM
# (it may not be forwarded), -errno.
cdef int fbchannel_introduce(fbchannel *c, fbpool *pool, fbchannel *home, uint32_t n) noexcept nogil
# Take in one introduction. 0, -EAGAIN (there is none), or the channel is at its end: -EPROTO, -errno.
cdef int fbchannel_meet(fbchannel *c) noexcept nogil
# A region goes, with what it was lent.
cdef void fbchannel_forget(introduced *g) noexcept nogil
# A window of a buffer that was introduced is back.
cdef void fbchannel_come_home(introduced *g, uint32_t buffer) noexcept nogil
# Put an entry into the ring of returns.
cdef void fbchannel_give_back(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil
# Wake the other side.
cdef void fbchannel_ring(fbchannel *c) noexcept nogil
# One more who keeps a buffer, one less: it goes back with the last.
cdef int fbchannel_keep(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil
cdef void fbchannel_drop(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil
# Before sleeping on `bell` and `sock`: 0 if what is waited for is not there, nor a return; then a kick will come.
cdef int fbchannel_arm(fbchannel *c, int what) noexcept nogil
cdef void fbchannel_disarm(fbchannel *c) noexcept nogil
# Whether the other side has closed, or died.
cdef bint fbchannel_hung_up(fbchannel *c) noexcept nogil
