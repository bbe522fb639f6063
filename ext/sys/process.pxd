"""Child processes that this program started. Values, or -errno."""

from ustack._core.base.types cimport ns_t

# Wait until the child has ended, at most `grace` nanoseconds; then kill it (SIGKILL) and wait for that. Its wait
# status, or -ECHILD if somebody else has collected it.
cdef int sys_collect(int pid, ns_t grace) noexcept nogil
