"""Windows on fbufs from process to process: sent, taken, sent back, given back, secured.

Descriptors that come are copied, then checked: what is wrong breaks the channel. Threads: one at a time.
"""

from libc.stdint cimport uint32_t

from ustack._core.zerocopy.fbchannel cimport fb_descriptor, fbchannel

# How many windows can be sent just now; -errno.
cdef int fbchannel_room(fbchannel *c) noexcept nogil
# Send the windows of one message: all of them or none. Buffers of ours must have been given (fbpool_give). 0, -EAGAIN
# (too much is out), or -errno.
cdef int fbchannel_send(fbchannel *c, fb_descriptor *d, int n) noexcept nogil
# Take the next descriptor: 1, 0 (there is none), or -errno. It is checked, and counted as held.
cdef int fbchannel_next(fbchannel *c, fb_descriptor *d) noexcept nogil
# Whether it can be sent back to who lent it as the buffer it is: nobody else keeps a part, and its producer can have
# it.
cdef bint fbchannel_returnable(const fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil
# Ask the producer of a buffer to give up writing; the answer comes among the descriptors. 0 or -errno.
cdef int fbchannel_ask_secure(fbchannel *c, uint32_t n, uint32_t buffer) noexcept nogil
# Take in what was given back, and answer who asks for security. How many, or -errno.
cdef int fbchannel_collect(fbchannel *c) noexcept nogil
# Whether what is waited for (see FBC_MESSAGES), or a return, is there.
cdef bint fbchannel_busy(fbchannel *c, int what) noexcept nogil
