"""What of the machine this process may use."""

import math
import os
from pathlib import Path

from speakerverif._util.allocator import keep_freed_memory

CPU_MAX = Path(
    "/sys/fs/cgroup/cpu.max"
)  # a container's share: microseconds of computing in so many, or "max"


def cores() -> int:
    """Return how many processor cores this process may use: what it is bound to, what its container allows."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not CPU_MAX.is_file():
        return bound
    quota, period = CPU_MAX.read_text("ascii").split()
    return bound if quota == "max" else min(bound, max(1, math.ceil(int(quota) / int(period))))


def use(threads: int | None) -> None:
    """Set up torch for long work on the CPU: so many threads (None: all that pay here), and memory kept."""
    import torch

    # torch counts the machine's physical cores, whatever a container may use of them.
    torch.set_num_threads(threads or min(torch.get_num_threads(), cores()))
    keep_freed_memory()
