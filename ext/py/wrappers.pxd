"""Handles on links that wrap a link: Impair and Capture."""

from ustack._core.base.types cimport ns_t
from ustack._core.link.around cimport knowledge
from ustack._core.link.lane cimport lane_options
from ustack._core.link.link cimport link
from ustack._core.mem.context cimport context
from ustack._core.py.links cimport Link

cdef class Wrapper(Link):
    cdef readonly Link inner    # the link inside, closed with the wrapper
    cdef context *ctx           # what the offloads of the wire work with: not the stack's books
    cdef knowledge know
    cdef link *enter(self, Link inner) except NULL

# Fill in a direction's options from keyword arguments (see Impair).
cdef int lane_arguments(lane_options *o, dict given) except -1
