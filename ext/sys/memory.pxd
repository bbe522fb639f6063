"""System calls for memory that can be shared and pinned: memfd, mapping, locking, advice, seals.

Every function returns a value >= 0 or -errno; where the platform lacks the call, -ENOSYS.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t

cdef extern from "memory_sys.h" nogil:
    enum:
        SEAL_SEAL
        SEAL_SHRINK
        SEAL_GROW
        SEAL_WRITE
        SEAL_FUTURE_WRITE
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_PRIVATE
        MAP_FIXED
        MAP_POPULATE
        MAP_ANONYMOUS
        MADV_DONTNEED
        MADV_HUGEPAGE
        MADV_REMOVE
        MADV_DONTFORK

# A new memory file of `length` bytes, close-on-exec, sealable; `huge` asks for huge pages (hugetlbfs).
cdef int memfd_new(const char *name, size_t length, bint huge) noexcept nogil
cdef int memfd_seal(int fd, int seals) noexcept nogil
cdef int memfd_seals(int fd) noexcept nogil
cdef int64_t memfd_length(int fd) noexcept nogil
# NULL on failure, the reason in *err (-errno). fd -1: anonymous memory.
cdef void *mem_map(void *where, size_t length, int prot, int flags, int fd, int64_t offset,
                   int *err) noexcept nogil
cdef int mem_unmap(void *base, size_t length) noexcept nogil
cdef int mem_protect(void *base, size_t length, int prot) noexcept nogil
cdef int mem_lock(void *base, size_t length) noexcept nogil
cdef int mem_unlock(void *base, size_t length) noexcept nogil
cdef int mem_advise(void *base, size_t length, int advice) noexcept nogil
cdef int fd_close(int fd) noexcept nogil
cdef size_t page_size() noexcept nogil
