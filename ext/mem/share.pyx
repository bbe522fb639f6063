"""Regions that two processes share: see share.pxd."""

from libc.errno cimport EMSGSIZE, ENOMEM, EPERM
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc

from ustack._core.base.types cimport atomic_add64
from ustack._core.mem.region cimport region, region_create, region_unref
from ustack._core.sys.memory cimport (
    MAP_SHARED, SEAL_GROW, SEAL_SHRINK, mem_map, memfd_length, memfd_seal, memfd_seals, page_size,
)

cdef extern from "<errno.h>" nogil:
    enum:
        ENOTSUP

cdef int64_t last_id = <int64_t>1 << 62        # regions made here count from 1


cdef int region_seal(region *r) noexcept nogil:
    return memfd_seal(r.fd, SEAL_SHRINK | SEAL_GROW) if r.fd >= 0 else -ENOTSUP


cdef region *region_share(size_t length, int *err) noexcept nogil:
    cdef region *r = region_create(length, 0, err)
    cdef int e
    if r == NULL:
        return NULL
    e = region_seal(r)
    if e < 0:
        region_unref(r)
        err[0] = e
        return NULL
    return r


cdef region *region_import(int fd, size_t least, int prot, int *err) noexcept nogil:
    cdef int seals = memfd_seals(fd)
    cdef int64_t length = memfd_length(fd)
    cdef region *r
    err[0] = 0
    if seals < 0 or not seals & SEAL_SHRINK:
        err[0] = -EPERM
        return NULL
    if length <= 0 or <size_t>length < least or length % <int64_t>page_size():
        err[0] = -EMSGSIZE
        return NULL
    r = <region *>malloc(sizeof(region))
    if r == NULL:
        err[0] = -ENOMEM
        return NULL
    r.base = <uint8_t *>mem_map(NULL, length, prot, MAP_SHARED, fd, 0, err)
    if r.base == NULL:
        free(r)
        return NULL
    r.fd = fd
    r.length = length
    r.refs = 1
    r.flags = 0
    r.id = atomic_add64(&last_id, 1)
    return r
