"""System calls on files: see file.pxd. Thin wrappers, no policy."""

from libc.errno cimport EAGAIN, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint64_t

from ustack._core.sys.io cimport iovec

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #ifndef MADV_POPULATE_READ
    #define MADV_POPULATE_READ 22
    #endif

    static int us_facts(int fd, uint64_t *device, uint64_t *inode, int64_t *size, int *kind, int *owned)
    {
      struct stat st;
      if (fstat(fd, &st) < 0)
        return -1;
      *device = st.st_dev;
      *inode = st.st_ino;
      *size = st.st_size;
      *kind = S_ISREG(st.st_mode) ? 1 : S_ISBLK(st.st_mode) ? 2 : S_ISFIFO(st.st_mode) ? 3
            : S_ISSOCK(st.st_mode) ? 4 : 5;
      uid_t me = geteuid();
      *owned = me == 0 || me == st.st_uid;
      return 0;
    }

    static int64_t us_length(int fd)
    {
      struct statx st;
      if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &st) < 0)
        return -errno;
      return st.stx_size;
    }

    static int us_resident(void *base, size_t length)
    {
      unsigned char there[256];
      size_t page = sysconf(_SC_PAGESIZE), pages = (length + page - 1) / page;
      for (size_t done = 0; done < pages; done += sizeof there) {
        size_t n = pages - done < sizeof there ? pages - done : sizeof there;
        if (mincore((char *)base + done * page, n * page, there) < 0)
          return 0;
        for (size_t k = 0; k < n; k++)
          if (!(there[k] & 1))
            return 0;
      }
      return 1;
    }
    """
    int us_facts(int fd, uint64_t *device, uint64_t *inode, int64_t *size, int *kind, int *owned) noexcept nogil
    int64_t us_length(int fd) noexcept nogil
    bint us_resident(void *base, size_t length) noexcept nogil
    ssize_t c_pread "pread"(int fd, void *p, size_t n, int64_t offset) noexcept nogil
    ssize_t c_read "read"(int fd, void *p, size_t n) noexcept nogil
    ssize_t c_writev "writev"(int fd, const iovec *v, int n) noexcept nogil
    ssize_t c_preadv2 "preadv2"(int fd, const iovec *v, int n, int64_t offset, int flags) noexcept nogil
    ssize_t c_pwritev2 "pwritev2"(int fd, const iovec *v, int n, int64_t offset, int flags) noexcept nogil
    int64_t c_lseek "lseek"(int fd, int64_t offset, int whence) noexcept nogil
    int c_fadvise "posix_fadvise"(int fd, int64_t offset, int64_t n, int advice) noexcept nogil
    int c_madvise "madvise"(void *p, size_t n, int advice) noexcept nogil
    int c_fcntl "fcntl"(int fd, int cmd, int arg) noexcept nogil
    enum:
        MADV_POPULATE_READ, POSIX_FADV_WILLNEED, SEEK_CUR, SEEK_SET, F_GETFL, RWF_NOWAIT


cdef int sys_file_facts(int fd, file_facts *f) noexcept nogil:
    return 0 if us_facts(fd, &f.device, &f.inode, &f.size, &f.kind, &f.owned) == 0 else -errno


cdef int64_t sys_file_length(int fd) noexcept nogil:
    return us_length(fd)


cdef ssize_t sys_pread(int fd, void *p, size_t n, int64_t offset) noexcept nogil:
    cdef ssize_t r = c_pread(fd, p, n, offset)
    return r if r >= 0 else -errno


cdef ssize_t sys_read_some(int fd, void *p, size_t n) noexcept nogil:
    cdef ssize_t r = c_read(fd, p, n)
    return r if r >= 0 else -errno


cdef ssize_t sys_write_some(int fd, const iovec *v, int n, bint nowait) noexcept nogil:
    cdef ssize_t r = -1
    if nowait:
        r = c_pwritev2(fd, v, n, -1, RWF_NOWAIT)
        if r >= 0 or (errno != EOPNOTSUPP and errno != ENOSYS):
            return r if r >= 0 else -errno
    r = c_writev(fd, v, n)
    return r if r >= 0 else -errno


cdef int64_t sys_file_position(int fd) noexcept nogil:
    cdef int64_t r = c_lseek(fd, 0, SEEK_CUR)
    return r if r >= 0 else -errno


cdef int64_t sys_file_seek(int fd, int64_t offset) noexcept nogil:
    cdef int64_t r = c_lseek(fd, offset, SEEK_SET)
    return r if r >= 0 else -errno


cdef bint sys_resident(void *base, size_t length) noexcept nogil:
    return us_resident(base, length)


cdef int sys_populate(void *base, size_t length) noexcept nogil:
    return 0 if c_madvise(base, length, MADV_POPULATE_READ) == 0 else -errno


cdef int64_t sys_file_cached(int fd, int64_t offset, int64_t n) noexcept nogil:
    cdef int64_t done = 0
    cdef char byte
    cdef iovec v
    cdef ssize_t r
    v.iov_base = &byte
    v.iov_len = 1
    while done < n:
        r = c_preadv2(fd, &v, 1, offset + done, RWF_NOWAIT)
        if r == 0:
            return n
        if r < 0:
            return done if errno == EAGAIN else -errno
        done += 4096 - ((offset + done) & 4095)         # the smallest page there is
    return done if done < n else n


cdef int sys_read_ahead(int fd, int64_t offset, int64_t n) noexcept nogil:
    cdef int64_t step
    cdef int r = 0
    while n > 0 and r == 0:             # of one call the kernel reads no more than a device likes at once
        step = n if n < 131072 else 131072
        r = -c_fadvise(fd, offset, step, POSIX_FADV_WILLNEED)
        offset += step
        n -= step
    return r


cdef int sys_file_flags(int fd) noexcept nogil:
    cdef int r = c_fcntl(fd, F_GETFL, 0)
    return r if r >= 0 else -errno
