"""The memory of a process that renders on a CPU: batch after batch, it needs blocks as large as those before."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""`mallopt(3)` of glibc: how much free memory it keeps, and how many blocks it takes from the system one by one."""

KEPT_BYTES = 1 << 30


def keep_memory() -> None:
    """Have this process keep the memory that it frees, up to a gigabyte, for the next block as large.

    Otherwise glibc hands large blocks back to the system, which clears each page when it is used again.
    Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
