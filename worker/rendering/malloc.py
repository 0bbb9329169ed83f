"""Memory allocation of a process that renders on a CPU, where each batch needs blocks of the same sizes."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's `mallopt(3)`: how much free memory it keeps, and how many blocks it maps separately."""

KEPT_BYTES = 1 << 30


def keep_memory() -> None:
    """Make this process keep up to a gigabyte of freed memory for later blocks.

    Otherwise glibc returns large blocks to the system, which clears each page before its next use. With other C
    libraries this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
