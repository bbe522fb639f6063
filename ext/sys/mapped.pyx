"""Which mappings are of files: see mapped.pxd. By PROCMAP_QUERY (Linux 6.11), else from /proc/self/maps."""

from libc.stddef cimport size_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <inttypes.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #include <unistd.h>

    struct us_vma {             /* struct procmap_query of linux/fs.h */
      uint64_t size, query_flags, query_addr, start, end, flags, page_size, offset, inode;
      uint32_t dev_major, dev_minor, name_size, build_id_size;
      uint64_t name_addr, build_id_addr;
    };
    #define US_VMA_QUERY _IOWR('f', 17, struct us_vma)
    #define US_VMA_OR_NEXT 0x10

    /* Shared anonymous memory is a file without a name; ours are memory files that nobody else has open for writing. */
    static int us_may_be_cut(const char *name)
    {
      return name[0] == '/' && strncmp(name, "/dev/zero", 9) && strncmp(name, "/memfd:ustack", 13)
          && strncmp(name, "/SYSV", 5);
    }

    static int us_ask(int fd, uint64_t at, uint64_t end)
    {
      char name[64];
      while (at < end) {
        struct us_vma v;
        memset(&v, 0, sizeof v);
        v.size = sizeof v;
        v.query_flags = US_VMA_OR_NEXT;
        v.query_addr = at;
        if (ioctl(fd, US_VMA_QUERY, &v) < 0)
          return errno == ENOENT ? 0 : -errno;
        if (v.start >= end)
          return 0;
        if (v.inode) {
          memset(name, 0, sizeof name);
          uint64_t start = v.start;
          memset(&v, 0, sizeof v);
          v.size = sizeof v;
          v.query_addr = start;
          v.name_addr = (uint64_t)(uintptr_t)name;
          v.name_size = sizeof name;
          if (ioctl(fd, US_VMA_QUERY, &v) < 0) {
            if (errno != ENAMETOOLONG)
              return -errno;
            return 1;           /* none of the names that are ours is as long */
          }
          if (us_may_be_cut(name))
            return 1;
        }
        at = v.end;
      }
      return 0;
    }

    static int us_read_maps(uint64_t at, uint64_t end)
    {
      FILE *maps = fopen("/proc/self/maps", "re");
      char line[512], name[64];
      uint64_t from, to;
      int found = 0;
      if (maps == NULL)
        return 0;
      while (!found && fgets(line, sizeof line, maps)) {
        name[0] = 0;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %*s %63s", &from, &to, name) >= 2
            && from < end && to > at)
          found = us_may_be_cut(name);
      }
      fclose(maps);
      return found;
    }

    static int us_maps_file(const void *base, size_t n)
    {
      uint64_t at = (uint64_t)(uintptr_t)base;
      int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), r;
      if (fd < 0)
        return 0;
      r = us_ask(fd, at, at + n);
      close(fd);
      return r >= 0 ? r : us_read_maps(at, at + n);
    }
    """
    bint us_maps_file(const void *base, size_t n) noexcept nogil


cdef bint sys_maps_file(const void *base, size_t n) noexcept nogil:
    return us_maps_file(base, n)
