"""The one edge at which -errno becomes an exception: the OSError subclass that the kernel's socket would have given."""

import os

from libc.errno cimport EADDRNOTAVAIL, EHOSTUNREACH, ENETUNREACH, ENOBUFS

# What to do about errors whose bare text leaves one wondering.
_HINTS = {
    ENETUNREACH: "no interface or route leads there: add_interface(addresses=...) or gateway=...",
    EHOSTUNREACH: "the next hop does not answer",
    EADDRNOTAVAIL: "not an address of this stack, or no local port is left",
    ENOBUFS: "the stack's memory budget or a queue is exhausted",
}


def describe(int code) -> str:
    """The text for an errno, with a hint at the remedy where there is one."""
    text = os.strerror(code)
    hint = _HINTS.get(code)
    return f"{text} ({hint})" if hint else text


cdef object fail(int code, object what=None):
    cdef int number = -code if code < 0 else code
    text = describe(number)
    if what is not None:
        text = f"{what}: {text}"
    raise OSError(number, text)


cdef int check(int code, object what=None) except -1:
    if code < 0:
        fail(code, what)
    return code
