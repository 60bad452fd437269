"""The C library's allocator, which gives large blocks back to the kernel as soon as they are freed."""

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD = -1  # numbers of malloc.h
_M_MMAP_THRESHOLD = -3
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
_LARGEST = 32 * 2**20  # bytes; the most that every release of glibc takes
_IDLE = 256 * 2**20  # bytes


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors for the next ones, up to 32 MiB each and 256 MiB in all.

    A step of a convolutional network on a CPU frees and asks for the same blocks of some megabytes again and
    again. By default glibc gives them back in between, and the kernel fills each page with zeros anew: a fifth
    of the time of the step of a small network. Values do not change. What the environment sets stays, and
    other C libraries are left alone.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SETTINGS):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _IDLE)
