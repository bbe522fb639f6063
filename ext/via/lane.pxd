"""Lanes: how two processes hand entries to each other, with no word that both of them write.

Each side has a memory file of its own; the other maps it read-only, and the seals of the file see to that. So
whatever a
process has written stays as it is, however hostile the other one.

       offset 0      magic, version, slots
       offset 128    sleeping: what this side wants to be woken for
       offset 256    done: position up to which this side has finished with the entries of the other's lane
       offset 4096   slots of 64 bytes, one cache line each: this side's lane

A slot is there when its stamp is its position + 1. So whoever polls has the whole entry with the one cache line that
it
polls; there is no index to be fetched before it. A send is finished when the other side's ``done``, or the same
number in
an entry that comes back, has passed it: no entry has to say so. What went wrong is said by an entry of its own,
before
``done`` passes.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from ustack._core.base.types cimport atomic_load32, atomic_store32
from ustack._core.wire.via cimport LANE_ENTRY

cdef enum:
    LANE_MAGIC = 0x76696131
    LANE_VERSION = 1
    LANE_SLOTS = 256            # 16 KB: stays in the first-level cache
    LANE_RESERVE = 32           # of them for what is not a message
    LANE_SLEEPING = 128
    LANE_DONE = 256
    LANE_FIRST = 4096
    LANE_BYTES = 20480          # LANE_FIRST + LANE_SLOTS * LANE_ENTRY

cdef enum:
    SLEEPS = 1                  # wake me when an entry has come
    SLEEPS_FOR_SENDS = 2        # wake me when entries of mine are finished


cdef inline uint8_t *lane_slot(uint8_t *segment, uint32_t position) noexcept nogil:
    return segment + LANE_FIRST + (position & (LANE_SLOTS - 1)) * LANE_ENTRY


cdef inline bint lane_there(uint8_t *segment, uint32_t position) noexcept nogil:
    """Whether the slot at a position has been written; then everything in it has."""
    return atomic_load32(<int32_t *>lane_slot(segment, position)) == <int32_t>(position + 1)


cdef inline void lane_publish(uint8_t *segment, uint32_t position) noexcept nogil:
    atomic_store32(<int32_t *>lane_slot(segment, position), <int32_t>(position + 1))


cdef inline uint32_t lane_done(uint8_t *segment) noexcept nogil:
    return <uint32_t>atomic_load32(<int32_t *>(segment + LANE_DONE))


cdef inline void lane_finish(uint8_t *segment, uint32_t position) noexcept nogil:
    atomic_store32(<int32_t *>(segment + LANE_DONE), <int32_t>position)


cdef inline int32_t lane_sleeping(uint8_t *segment) noexcept nogil:
    return atomic_load32(<int32_t *>(segment + LANE_SLEEPING))
