"""System calls on files: reading at an offset, facts, positions; and bringing pages in. Values, or -errno."""

from libc.stdint cimport int64_t, uint64_t

from ustack._core.sys.io cimport iovec

cdef enum:
    FILE_REGULAR = 1            # it has a size, and can be mapped
    FILE_BLOCK = 2
    FILE_PIPE = 3
    FILE_SOCKET = 4
    FILE_OTHER = 5              # terminals, directories, event descriptors

cdef struct file_facts:
    uint64_t device             # with `inode`: which file this is, whatever its name
    uint64_t inode
    int64_t size
    int kind                    # FILE_*
    int owned                   # by this process's user, or we are root: then sys_resident tells the truth

cdef int sys_file_facts(int fd, file_facts *f) noexcept nogil
# Its size as the kernel knows it without asking a server or a disk; -errno.
cdef int64_t sys_file_length(int fd) noexcept nogil
# EINTR is returned: a read may wait for a slow disk or a dead server.
cdef ssize_t sys_pread(int fd, void *p, size_t n, int64_t offset) noexcept nogil
# Of a pipe or socket: may wait. EINTR is returned.
cdef ssize_t sys_read_some(int fd, void *p, size_t n) noexcept nogil
# nowait: -EAGAIN instead of waiting (where the kernel knows of it: pipes, sockets). EINTR is returned.
cdef ssize_t sys_write_some(int fd, const iovec *v, int n, bint nowait) noexcept nogil
cdef int64_t sys_file_position(int fd) noexcept nogil
cdef int64_t sys_file_seek(int fd, int64_t offset) noexcept nogil
# Whether all pages of a part of a mapping are in memory, so that to touch them takes no more than mapping them. Of
# files of others the kernel says yes to everything.
cdef bint sys_resident(void *base, size_t length) noexcept nogil
# Read the pages of a mapping in, and map them, so that touching them does not wait. -EFAULT: beyond the end of the
# file. -EINVAL, -ENOSYS: the kernel cannot (before 5.14); then the pages are read when they are touched.
cdef int sys_populate(void *base, size_t length) noexcept nogil
# Of n bytes at an offset, those that can be read without waiting for a disk; -EOPNOTSUPP where the file system does not
# say. At the end of the file: all of them.
cdef int64_t sys_file_cached(int fd, int64_t offset, int64_t n) noexcept nogil
# Have a part of a file read into memory, and do not wait for it. 0, or -errno.
cdef int sys_read_ahead(int fd, int64_t offset, int64_t n) noexcept nogil
# The descriptor's O_* flags.
cdef int sys_file_flags(int fd) noexcept nogil
