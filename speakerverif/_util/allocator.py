"""Memory that a training step or a batch frees stays with the process.

glibc hands every large freed block back to the system, and the next step faults all its pages in again: about a
third of a CPU training step, a tenth to a quarter of an embedding. A running program can tell it otherwise, but for
huge pages: that setting is read once, when a program starts, so a training starts itself anew.
"""

import ctypes
import os
import platform
import sys

SETTINGS = {
    "glibc.malloc.hugetlb": "1",  # madvise: huge pages where the kernel offers them
    "glibc.malloc.trim_threshold": str(16 << 30),
    "glibc.malloc.mmap_threshold": str(8 << 30),
}

# Of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Tell glibc to keep what this process frees; does nothing elsewhere or where GLIBC_TUNABLES is set."""
    if platform.libc_ver()[0] == "glibc" and "GLIBC_TUNABLES" not in os.environ:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        # One heap for all threads: with one for each that reads, the memory kept grew by 1 MB a piece of recording.
        libc.mallopt(M_ARENA_MAX, 1)


def release_freed_memory() -> None:
    """Hand back to the system what this process freed and holds; does nothing but under glibc.

    Kept memory gets holes: what outlives a batch lies in the room of larger things, which then need new room. For
    hours of audio that adds up, so they have this done every second; the next batch pays for it.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def tunables() -> str:
    """Return the settings as glibc reads them from the environment variable GLIBC_TUNABLES."""
    return ":".join(f"{name}={value}" for name, value in SETTINGS.items())


def restart_with_kept_memory() -> None:
    """Restart this Python program with glibc told to keep freed memory; does nothing elsewhere or where it is set."""
    if platform.libc_ver()[0] != "glibc" or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = tunables()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
