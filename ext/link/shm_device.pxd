"""The device of a shared-memory link: a DMA engine made of a process (or a thread).

It fetches descriptors from its stack's ring, gathers their pieces out of the regions that it was given, and puts the
packets into buffers that the other stack posted. It has limits of its own, as hardware has, and refuses what violates
them; and it refuses to read memory that the stack has not mapped for it, which finds mappings that are not paired.
"""

from ustack._core.link.shm_wire cimport D_COUNT

# Serve as the device behind the control socket until that is hung up, or the rings are broken; closes it. 0 or -errno.
cdef int shm_device_run(int control) noexcept nogil
# Name and meaning of what a device counts.
cdef const char *shm_count_name(int which) noexcept nogil
