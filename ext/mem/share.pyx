"""Regions that two processes share: see share.pxd."""

from libc.errno cimport EMSGSIZE, ENOMEM, ENOSPC, EPERM
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc

from ustack._core.base.types cimport (
    atomic_add64, atomic_inc32, atomic_load32, atomic_store32, spin_lock, spin_unlock,
)
from ustack._core.mem.region cimport region, region_create, region_ref, region_unref
from ustack._core.sys.io cimport sys_close, sys_dup
from ustack._core.sys.memory cimport (
    MAP_SHARED, SEAL_GROW, SEAL_SHRINK, mem_map, memfd_length, memfd_new, memfd_seal, memfd_seals, page_size,
)

cdef extern from "<errno.h>" nogil:
    enum:
        ENOTSUP

cdef int64_t last_id = <int64_t>1 << 62        # regions made here count from 1
cdef region *shared[SHARED_MAX]
cdef int nshared = 0
cdef int32_t shared_lock = 0
cdef int32_t file_users = 0
cdef int32_t retired = 0

cdef struct file_region:
    region r                    # first: region_unref frees it
    int64_t offset


cdef int region_seal(region *r) noexcept nogil:
    cdef int seals = memfd_seals(r.fd) if r.fd >= 0 else -ENOTSUP
    if seals >= 0 and ~seals & (SEAL_SHRINK | SEAL_GROW):
        return memfd_seal(r.fd, SEAL_SHRINK | SEAL_GROW)
    return 0 if seals >= 0 else seals


cdef int region_refusal() noexcept nogil:
    cdef int fd = memfd_new(b"ustack", 1, False)
    if fd < 0:
        return fd
    sys_close(fd)
    return -ENOTSUP


cdef region *region_share(size_t length, int *err) noexcept nogil:
    cdef region *r = region_create(length, 0, err)
    cdef int e
    if r == NULL:
        return NULL
    e = region_seal(r) if r.fd >= 0 else region_refusal()
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


cdef region *region_of_file(int fd, int64_t offset, size_t length, int prot, int *err) noexcept nogil:
    cdef file_region *f = <file_region *>malloc(sizeof(file_region))
    if f == NULL:
        err[0] = -ENOMEM
        return NULL
    f.r.fd = sys_dup(fd)
    if f.r.fd < 0:
        err[0] = f.r.fd
        free(f)
        return NULL
    f.r.base = <uint8_t *>mem_map(NULL, length, prot, MAP_SHARED, fd, offset, err)
    if f.r.base == NULL:
        sys_close(f.r.fd)
        free(f)
        return NULL
    f.r.length = length
    f.r.refs = 1
    f.r.flags = REGION_FILE
    f.r.id = atomic_add64(&last_id, 1)
    f.offset = offset
    return &f.r


cdef int64_t region_file_offset(const region *r) noexcept nogil:
    return (<const file_region *>r).offset


cdef void files_share(int change) noexcept nogil:
    spin_lock(&shared_lock)
    atomic_store32(&file_users, file_users + change)
    spin_unlock(&shared_lock)


cdef bint files_shared() noexcept nogil:
    return atomic_load32(&file_users) > 0


cdef int region_publish(region *r) noexcept nogil:
    cdef int e = 0
    global nshared
    if r.fd < 0:
        return -ENOTSUP
    spin_lock(&shared_lock)
    if nshared < SHARED_MAX:
        shared[nshared] = r
        nshared += 1
    else:
        e = -ENOSPC
    spin_unlock(&shared_lock)
    return e


cdef void region_withdraw(region *r) noexcept nogil:
    cdef int i
    global nshared
    spin_lock(&shared_lock)
    for i in range(nshared):
        if shared[i] == r:
            nshared -= 1
            shared[i] = shared[nshared]
            break
    spin_unlock(&shared_lock)


cdef void region_retire(region *taken) noexcept nogil:
    region_withdraw(taken)
    taken.flags |= REGION_RETIRED
    atomic_inc32(&retired)
    region_unref(taken)


cdef int32_t regions_retired() noexcept nogil:
    return atomic_load32(&retired)


cdef region *region_holding(const void *addr, size_t n) noexcept nogil:
    cdef const uint8_t *at = <const uint8_t *>addr
    cdef region *found = NULL
    cdef int i
    spin_lock(&shared_lock)
    for i in range(nshared):
        if shared[i].base <= at and at + n <= shared[i].base + shared[i].length:
            found = shared[i]
            region_ref(found)
            break
    spin_unlock(&shared_lock)
    return found
