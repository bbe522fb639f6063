"""The Internet checksum for Python: see ustack.buffers. Numbers are those that a header shows, big-endian."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint16_t, uint32_t

cimport ustack._core.base.checksum as ck

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t v)


def checksum_partial(data: object) -> int:
    """Ones' complement sum of the data's 16-bit big-endian words (RFC 1071), folded to 16 bits, not
    complemented."""
    cdef Py_buffer view
    cdef uint32_t sum
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    with nogil:
        sum = ck.csum_partial(view.buf, view.len)
    PyBuffer_Release(&view)
    return htons(ck.csum_fold(sum))


def checksum(data: object, initial: int = 0) -> int:
    """The Internet checksum of the data (RFC 1071): what goes into a header, as a 16-bit number.

    ``initial`` is a partial sum to begin with, such as that of a pseudo-header.
    """
    return checksum_add(initial, checksum_partial(data)) ^ 0xFFFF


def checksum_add(a: int, b: int, offset: int = 0) -> int:
    """The sum of two pieces of data from their sums, where the second begins ``offset`` bytes behind the
    first's beginning (an odd offset swaps its bytes)."""
    if not (0 <= a <= 0xFFFF and 0 <= b <= 0xFFFF and offset >= 0):
        raise ValueError("sums lie between 0 and 65535, an offset is at least 0")
    return ck.csum_fold(ck.csum_block_add(a, b, offset & 1))


def copy_checksum(dst: object, src: object) -> int:
    """Copy ``src`` to the beginning of ``dst`` (writable, at least as long, no overlap) and return the sum
    of it, as checksum_partial gives it, in one pass over the memory."""
    cdef Py_buffer source, target
    cdef uint32_t sum
    cdef bint apart
    PyObject_GetBuffer(src, &source, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(dst, &target, PyBUF_WRITABLE)
        try:
            if target.len < source.len:
                raise ValueError(f"the target has room for {target.len} of {source.len} bytes")
            apart = (<char *>source.buf + source.len <= <char *>target.buf
                     or <char *>target.buf + source.len <= <char *>source.buf)
            if not apart:
                raise ValueError("source and target overlap")
            with nogil:
                sum = ck.copy_csum(target.buf, source.buf, source.len)
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)
    return htons(ck.csum_fold(sum))


def checksum_update16(check: int, old: int, new: int) -> int:
    """A header checksum after one 16-bit word of the data changed from old to new (RFC 1624, equation 3)."""
    return ck.csum_update16(check, old, new)


def checksum_update32(check: int, old: int, new: int) -> int:
    """As checksum_update16, for two adjacent words at an even offset."""
    return ck.csum_update32(check, old, new)


def checksum_kernel() -> str:
    """Which implementation this CPU was found to run best: "avx512", "avx2" or "scalar"."""
    return ck.csum_kernel().decode()
