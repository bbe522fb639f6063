"""The thin wrappers over system calls: results, -errno, and time limits in nanoseconds."""

import errno
import os

from ustack._core.py import probe_sys as sys_

NEVER = 2**63 - 1


def test_ppoll_reports_readiness_and_time_limits():
    r, w = os.pipe()
    try:
        assert sys_.poll([r], 0) == 0
        assert sys_.poll([r], 1_000) == 0
        assert sys_.poll([], -5) == 0
        os.write(w, b"x")
        assert sys_.poll([r], NEVER) == 1
    finally:
        os.close(r)
        os.close(w)


def test_epoll_gives_back_the_data_word():
    fd = sys_.eventfd()
    try:
        assert sys_.epoll_once(fd, 0) == (0, 0)
        assert sys_.epoll_once(fd, 1_000) == (0, 0)
        assert sys_.eventfd_signal(fd) == 0
        assert sys_.epoll_once(fd, NEVER) == (1, 0x123456789A)
    finally:
        os.close(fd)
    assert sys_.epoll_once(-1, 0)[0] == -errno.EBADF


def test_eventfd_counts_and_never_blocks():
    fd = sys_.eventfd()
    try:
        assert sys_.eventfd_take(fd) == 0
        for _ in range(3):
            assert sys_.eventfd_signal(fd) == 0
        assert sys_.eventfd_take(fd) == 3
        os.eventfd_write(fd, 2**64 - 2)
        assert sys_.eventfd_signal(fd) == 0  # the counter is full: readable already
        assert sys_.eventfd_take(fd) == 2**64 - 2
    finally:
        os.close(fd)
    assert sys_.eventfd_take(fd) == -errno.EBADF


def test_futex_differs_times_out_and_wakes():
    assert sys_.futex_wait(1, 2, NEVER) == -errno.EAGAIN
    assert sys_.futex_wait(1, 1, 1_000) == -errno.ETIMEDOUT
    assert sys_.futex_wait(1, 1, -1) == -errno.ETIMEDOUT


def test_a_native_thread_is_woken_through_a_futex():
    assert sys_.thread_futex_roundtrip() == (7, True)
