"""glibc settings that keep freed memory in the process.

By default glibc returns every large freed block to the system, and the next step faults all its pages in again: that
takes about a third of a CPU training step, a tenth to a quarter of an embedding. A running program can change this,
except for huge pages: that setting is read only when a program starts, so a training restarts itself.
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
    """Make glibc keep memory that this process frees; no effect without glibc or where GLIBC_TUNABLES is set."""
    if platform.libc_ver()[0] == "glibc" and "GLIBC_TUNABLES" not in os.environ:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        # One heap for all threads: with one per reading thread, kept memory grew by 1 MB per piece of recording.
        libc.mallopt(M_ARENA_MAX, 1)


def release_freed_memory() -> None:
    """Return freed memory to the system; no effect without glibc.

    Kept memory fragments: small blocks that outlive a batch occupy the space of larger ones, which then need new
    memory. Over hours of audio that adds up, so it is called every second there; the next batch is slower for it.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def tunables() -> str:
    """Return the settings in the format of the environment variable GLIBC_TUNABLES."""
    return ":".join(f"{name}={value}" for name, value in SETTINGS.items())


def restart_with_kept_memory() -> None:
    """Restart this program so that glibc keeps freed memory; no effect without glibc or where that is set."""
    if platform.libc_ver()[0] != "glibc" or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = tunables()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
