"""Handles on links: the base class that an engine attaches, and the in-memory links."""

from libc.stdint cimport uint32_t

from ustack._core.link.link cimport link, link_stats
from ustack._core.mem.source cimport source

cdef class Link:
    cdef link *dev              # NULL once closed
    cdef str user               # what uses it, for messages (no reference: users own links); None: nobody yet
    cdef const char *kind_name
    cdef link_stats last        # the figures at close
    cdef bint split             # it wants to receive payload into pages that can change hands
    cdef source *flips          # where it draws them from, while it is attached
    cdef object __weakref__
    # Give the link to its one user and return the structure; raises if it is in use or closed. The user sets
    # mem, src, book and notify, and calls the operations; it lets go with release(), then close() frees the
    # structure.
    cdef link *claim(self, object owner) except NULL
    cdef void release(self)
    # For constructors: take over a structure that nobody else closes.
    cdef int adopt(self, link *made) except -1

# The set of CAP_* behind names such as "csum", "tso", "uso": True is all of them, False none.
cdef uint32_t offload_caps(object offloads) except? 0xFFFFFFFF
# OSError (or its subclass) for a result of the core that is < 0, with a sentence of what to do.
cdef int fail(int result, str text) except -1
