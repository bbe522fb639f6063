"""``ustack.RawFile``: files that are read past the page cache, into memory of the program's own.

What sends those bytes is another matter: ``send(direct=...)``, fbufs, VIs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import operator
import os
from types import TracebackType
from typing import Any

ALIGN = mmap.PAGESIZE  # no device asks for more; many would do with a sector of 512
PIECE = 0x7FFF0000  # bytes that the kernel reads in one call, in whole pages

# What a file system says that cannot do it, for a descriptor, a range or a kind of memory.
REFUSALS = {errno.EINVAL, errno.EOPNOTSUPP, errno.EFAULT, errno.ENOSYS}


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


class RawFile:
    """A file to be read by the device that holds it, straight into memory of the program's own (O_DIRECT).

    ``file``: a path, a descriptor or a file object; of the latter two it is the same file, not the same position, and
    RawFile does not keep them open. Reading takes place at given offsets. What the device cannot do (ranges that do
    not begin and end at whole pages, file systems that refuse) is read through the page cache, and counted: the bytes
    are the same. ``raw`` and ``buffered`` count bytes by the way that they came, ``fallbacks`` the reasons.

    Raises OSError where the file cannot be opened; ESPIPE (a pipe, a socket).
    """

    def __init__(self, file: Any) -> None:
        self.raw = 0
        self.buffered = 0
        self.fallbacks: dict[str, int] = {}
        self._raw_fd = -1
        if isinstance(file, (str, bytes, os.PathLike)):
            self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        else:
            self._fd = os.dup(operator.index(file) if isinstance(file, int) else file.fileno())
        try:
            os.lseek(self._fd, 0, os.SEEK_CUR)  # ESPIPE
            self._raw_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as e:
            if e.errno not in REFUSALS and e.errno != errno.ENOENT:
                os.close(self._fd)
                raise

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        """Fill ``buffer`` with the file's bytes from ``offset`` on; returns how many: fewer only at the file's end.

        ``buffer`` is writable and contiguous. Where its address and ``offset`` lie equally far behind a page's
        beginning, whole pages are read raw and what is before and behind them is not; otherwise nothing is
        ("unaligned"). Raises ValueError (a negative offset, a closed file), BufferError or TypeError (no writable
        buffer), OSError (EIO, ...).
        """
        offset = operator.index(offset)
        if offset < 0:
            raise ValueError(f"an offset is not negative: {offset}")
        if self._fd < 0:
            raise ValueError("the file is closed")
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if view.readonly:
                raise TypeError("the buffer has to be writable")
            return self._read(view, offset) if len(view) else 0

    def _read(self, view: memoryview, offset: int) -> int:
        head, middle = self._parts(view, offset)
        done = self._through_cache(view[:head], offset)
        if done == head and middle:
            done += self._past_cache(view[head : head + middle], offset + head)
        if done == head + middle:
            done += self._through_cache(view[done:], offset + done)
        return done

    def _parts(self, view: memoryview, offset: int) -> tuple[int, int]:
        """How many bytes come before the first whole page, and how many in whole pages of the file.

        The file's last, partial page is left out: a device would write the rest of a sector too, behind the end.
        """
        head = -offset % ALIGN
        n = len(view)
        if self._raw_fd < 0:
            self._fall_back("refused")
        elif (_address(view) - offset) % ALIGN:
            self._fall_back("unaligned")
        else:
            n = min(n, os.lseek(self._raw_fd, 0, os.SEEK_END) - offset)
            if n - head >= ALIGN:
                return head, (n - head) // ALIGN * ALIGN
            self._fall_back("small")
        return len(view), 0

    def _past_cache(self, view: memoryview, offset: int) -> int:
        """Whole pages, as far as they go."""
        done = 0
        while done < len(view):
            try:
                n = os.preadv(self._raw_fd, [view[done : done + PIECE]], offset + done)
            except OSError as e:
                if e.errno not in REFUSALS:
                    raise
                self._fall_back("refused")
                return done + self._through_cache(view[done:], offset + done)
            self.raw += n
            done += n
            if n % ALIGN or n == 0:
                # Cut meanwhile, or interrupted in the middle of a page: the other way goes on from any place.
                return done + self._through_cache(view[done:], offset + done)
        return done

    def _through_cache(self, view: memoryview, offset: int) -> int:
        done = 0
        while done < len(view):
            n = os.preadv(self._fd, [view[done : done + PIECE]], offset + done)
            if n == 0:
                break
            self.buffered += n
            done += n
        return done

    def _fall_back(self, why: str) -> None:
        self.fallbacks[why] = self.fallbacks.get(why, 0) + 1

    def fileno(self) -> int:
        """The descriptor of the way through the page cache."""
        return self._fd

    def close(self) -> None:
        """Let go of the file. Harmless when repeated."""
        for fd in (self._raw_fd, self._fd):
            if fd >= 0:
                os.close(fd)
        self._raw_fd = self._fd = -1

    def __enter__(self) -> RawFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else f"{self.raw} bytes raw, {self.buffered} buffered"
        return f"<ustack.RawFile {state}>"
