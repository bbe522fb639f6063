"""Native threads that never touch Python, and who is running where. Values, or -errno."""

from libc.stdint cimport uint64_t

ctypedef void (*thread_fn)(void *arg) noexcept nogil

# Run fn(arg) in a new thread with all signals blocked (so that they reach Python's main thread) and a stack
# of 256 KB. `name` (at most 15 characters) is what ps and gdb show; NULL: none. A joinable thread's handle is
# put in *handle and must be joined; handle == NULL makes it detached.
cdef int sys_thread_start(uint64_t *handle, thread_fn fn, void *arg, const char *name) noexcept nogil
# Wait until it has ended.
cdef int sys_thread_join(uint64_t handle) noexcept nogil
cdef int sys_gettid() noexcept nogil
cdef int sys_getpid() noexcept nogil
cdef void sys_yield() noexcept nogil
