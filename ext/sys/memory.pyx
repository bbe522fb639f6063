"""System calls for memory: see memory.pxd. Thin wrappers, no policy."""

cdef extern from "memory_sys.h" nogil:
    int us_memfd(const char *name, size_t length, int huge)
    int us_seal(int fd, int seals)
    int us_seals(int fd)
    int64_t us_length(int fd)
    void *us_map(void *where, size_t length, int prot, int flags, int fd, int64_t offset, int *err)
    int us_unmap(void *p, size_t n)
    int us_protect(void *p, size_t n, int prot)
    int us_lock(void *p, size_t n)
    int us_unlock(void *p, size_t n)
    int us_advise(void *p, size_t n, int what)
    int us_close(int fd)
    long us_page_size()


cdef int memfd_new(const char *name, size_t length, bint huge) noexcept nogil:
    return us_memfd(name, length, huge)


cdef int memfd_seal(int fd, int seals) noexcept nogil:
    return us_seal(fd, seals)


cdef int memfd_seals(int fd) noexcept nogil:
    return us_seals(fd)


cdef int64_t memfd_length(int fd) noexcept nogil:
    return us_length(fd)


cdef void *mem_map(void *where, size_t length, int prot, int flags, int fd, int64_t offset,
                   int *err) noexcept nogil:
    return us_map(where, length, prot, flags, fd, offset, err)


cdef int mem_unmap(void *base, size_t length) noexcept nogil:
    return us_unmap(base, length)


cdef int mem_protect(void *base, size_t length, int prot) noexcept nogil:
    return us_protect(base, length, prot)


cdef int mem_lock(void *base, size_t length) noexcept nogil:
    return us_lock(base, length)


cdef int mem_unlock(void *base, size_t length) noexcept nogil:
    return us_unlock(base, length)


cdef int mem_advise(void *base, size_t length, int advice) noexcept nogil:
    return us_advise(base, length, advice)


cdef int fd_close(int fd) noexcept nogil:
    return us_close(fd)


cdef size_t page_size() noexcept nogil:
    return us_page_size()
