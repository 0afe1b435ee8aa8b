"""Memory that a training step frees stays with the process.

glibc hands every large freed block back to the system, and the next step faults all its pages in again: about a
third of a CPU training step. Its settings are read once, when a program starts, so the program starts itself anew.
"""

import os
import platform
import sys

SETTINGS = {
    "glibc.malloc.hugetlb": "1",  # madvise: huge pages where the kernel offers them
    "glibc.malloc.trim_threshold": str(16 << 30),
    "glibc.malloc.mmap_threshold": str(8 << 30),
}


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
