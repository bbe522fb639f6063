"""The shared-memory provider: VIs of two processes. This file has the port and the way out; incoming.pxd the way in.

A send puts an entry into our lane: which VI, and where the message lies, as (handle, offset, length) in memory files
that the
other process has been shown and maps read-only. The *receiving* side moves the bytes, once, from there into the
memory
that its own posted descriptor names. So nobody ever writes into memory of another process; a receive buffer can be
any
registered memory, a send buffer must lie in a memory file. A process that is killed has nothing half written here.

The descriptors of memory files, and the end of the other process, come through a UNIX socket that the owner of the
port
looks after: when a handle is unknown, before it sleeps, and now and then.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ustack._core.base.types cimport atomic_store32, fence_full
from ustack._core.mem.region cimport region
from ustack._core.via.lane cimport LANE_SLEEPING, LANE_SLOTS, lane_done, lane_there
from ustack._core.via.types cimport VIA_MEMORY_MAX, via_nic, via_port

cdef struct shared_flight:      # an entry of ours that the other side has not finished with
    uint32_t vi                 # 0: no message
    uint32_t position           # of the descriptor in its queue
    uint32_t length
    uint32_t refused            # what the other side said of it
    uint32_t slots

cdef struct shared_lent:        # memory of the other process
    uint32_t handle             # 0: none
    region *file
    uint64_t offset             # in the file, of what the handle names
    uint64_t length

cdef struct shared_port:
    via_port port
    region *mine                # our segment
    region *theirs              # read-only
    uint32_t out_at             # position of our next entry
    uint32_t out_done           # entries of ours that are finished
    uint32_t in_at              # position of the next entry of theirs
    uint32_t missing            # a handle that an entry names and that we have not been shown
    uint32_t asked              # such a handle, after the control socket was looked at: it will not come any more
    shared_flight flights[LANE_SLOTS]
    shared_lent lent[VIA_MEMORY_MAX]
    uint32_t shown[VIA_MEMORY_MAX]      # handles of ours that the other side has been shown

# Our segment: a new memory file, to be sealed against further writable mappings by who passes it on. NULL: *err.
cdef region *shared_segment(int *err) noexcept nogil
# A port with our segment and theirs (the references are taken). NULL without memory, or if theirs is none.
cdef shared_port *shared_create(region *mine, region *theirs) noexcept nogil
# All connections over it are over, and everything that it maps is unmapped.
cdef void shared_close(shared_port *p) noexcept nogil
cdef void shared_free(shared_port *p) noexcept nogil
# The other side has been shown the memory port.export_handle: go on.
cdef void shared_shown(shared_port *p) noexcept nogil
# The other side lends memory: the file's reference is taken. False if it cannot be.
cdef bint shared_lend(shared_port *p, uint32_t handle, region *file, uint64_t offset, uint64_t length) noexcept nogil
cdef void shared_unlend(shared_port *p, uint32_t handle) noexcept nogil
# For incoming: put an entry without a message. False: no room.
cdef bint shared_put(shared_port *p, void *entry) noexcept nogil
# For incoming: entries of ours before `position` are finished. False: that cannot be.
cdef bint shared_acknowledge(shared_port *p, uint32_t position) noexcept nogil
# For incoming: begin with what has waited.
cdef void shared_resume(shared_port *p) noexcept nogil


cdef inline bint shared_has_work(shared_port *p) noexcept nogil:
    """Whether a poll would find something; without the lock."""
    return not p.port.dead and (lane_there(p.theirs.base, p.in_at) or lane_done(p.theirs.base) != p.out_done)


cdef inline bint shared_has_entry(shared_port *p) noexcept nogil:
    """The same for who waits to receive: what is only finished can wait, and mostly comes with the next entry."""
    return not p.port.dead and (lane_there(p.theirs.base, p.in_at)
                                or (p.port.stalled and lane_done(p.theirs.base) != p.out_done))


cdef inline void shared_sleeps(shared_port *p, int how) noexcept nogil:
    """Say what we want to be woken for: SLEEPS, SLEEPS_FOR_SENDS; 0: awake. Look for work once more before
    sleeping.
    """
    if not p.port.dead:
        atomic_store32(<int32_t *>(p.mine.base + LANE_SLEEPING), how)
        fence_full()
