"""The processor cores that this process may use, and its threads on them; torch is imported only where it is used."""

import ctypes
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from speakerverif._util import environment
from speakerverif._util.allocator import keep_freed_memory
from speakerverif.errors import InputError

ROOT = Path("/")  # of the file system that describes this process: /proc and the control groups


def cores() -> int:
    """Return the number of processor cores that this process may use.

    That is the number of cores in its CPU affinity, or less where a container limits its CPU time: the smallest quota
    of its control group and of the groups that enclose it (cgroups v1 and v2), rounded up.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([bound, *(max(1, math.ceil(quota)) for quota in _quotas())])


class _Chosen:
    """The number of threads that the user chose; None: one per core."""

    threads: int | None = None


def use(threads: int | None) -> None:
    """Set up this process for long work on the CPU: `threads` (None: one per core), and freed memory is kept.

    Where torch isn't loaded yet, `share_cores` sets it up when a model is.
    """
    _Chosen.threads = threads
    if "torch" in sys.modules:
        share_cores()
    keep_freed_memory()


def num_threads() -> int:
    """Return the number of threads to compute with, at most one per core: torch's, where it is loaded."""
    if "torch" in sys.modules:
        import torch

        return min(torch.get_num_threads(), cores())
    # torch reads this variable as well.
    variable = os.environ.get("OMP_NUM_THREADS", "")
    wanted = _Chosen.threads or (int(variable) if variable.isdigit() else 0)
    return min(wanted, cores()) or cores()


def share_cores(threads: int | None = None) -> None:
    """Set up torch for a processor shared with other programs: at most one thread per core, asleep while waiting.

    A process that is forked later computes in one thread: it doesn't inherit its parent's threads, and OpenMP would
    wait for them for ever.

    Args:
        threads: number of threads; None: the number that `use` was given, else torch's, at most `cores()`.
    """
    import torch

    # torch counts the machine's physical cores, whatever a container may use of them.
    wanted = threads or _Chosen.threads or min(torch.get_num_threads(), cores())
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)
    if wanted > 1:
        _Pool.start()


class _Pool:
    """Idle OpenMP threads that make all threads of GNU OpenMP sleep soon while they wait.

    How long threads spin is read from the environment when torch is loaded. Afterwards only one thing shortens it:
    where there are more OpenMP threads than cores, they spin 1,000 times instead of 300,000 (libgomp's
    config/linux/wait.h). So one extra thread starts a team one larger than the number of cores, which then sleeps.
    """

    started = False

    @classmethod
    def start(cls) -> None:
        """Start the threads, once, unless the environment sets how threads wait."""
        if cls.started:
            return
        cls.started = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_compute_in_one_thread)
        library = _loaded("libgomp", "/torch/")
        if library is None or environment.waits_chosen():
            return
        ready = threading.Event()
        threading.Thread(target=cls._run, args=(library, ready), name="idle OpenMP team", daemon=True).start()
        ready.wait()

    @staticmethod
    def _run(library: Path, ready: threading.Event) -> None:
        openmp = ctypes.CDLL(str(library))
        harmless = ctypes.cast(openmp.omp_get_thread_num, ctypes.c_void_p)
        size = len(os.sched_getaffinity(0)) + 1
        openmp.GOMP_parallel(harmless, None, ctypes.c_uint(size), ctypes.c_uint(0))
        ready.set()
        threading.Event().wait()  # the team ends with its thread


def check_device(device: str) -> None:
    """Check that a device is there.

    Args:
        device: "cpu", "cuda" or "cuda:0".

    Raises:
        InputError: an unknown kind of device, or there is no such device.
    """
    if device == "cpu":
        return
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"device {device!r}: expected cpu or cuda") from error
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {device!r}: expected cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device}: no CUDA device is there; leave it out to use the CPU")


def _compute_in_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _loaded(name: str, folder: str) -> Path | None:
    """Return the path of a shared library that this process has loaded from a folder of this name (Linux)."""
    maps = ROOT / "proc/self/maps"
    if not maps.is_file():
        return None
    paths = (line.split(maxsplit=5)[-1] for line in maps.read_text("utf-8", "replace").splitlines())
    return next((Path(path) for path in paths if folder in path and Path(path).name.startswith(name)), None)


def _quotas() -> Iterator[float]:
    """Yield the CPU quotas, in cores, of the control groups that this process is in (Linux)."""
    for folder in _control_groups():
        version_2, quota, period = (
            folder / name for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
        )
        try:
            words = version_2.read_text("ascii").split() if version_2.is_file() else []
            if quota.is_file():
                words = [quota.read_text("ascii"), period.read_text("ascii")]
            share, interval = (float(word) for word in words)
        except (OSError, ValueError):  # no limit ("max"), or none that can be read
            continue
        if share > 0 and interval > 0:  # -1: no limit
            yield share / interval


def _control_groups() -> Iterator[Path]:
    """Yield the folders of the control groups that limit this process: its own, and those that enclose it."""
    try:
        memberships = (ROOT / "proc/self/cgroup").read_text("utf-8").splitlines()
        mounts = (ROOT / "proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return
    for mount in mounts:
        fields, _, details = mount.partition(" - ")
        top, point = fields.split()[3:5]
        kind, *_, choices = details.split()
        if kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and "cpu" not in choices.split(",")):
            continue
        for membership in memberships:
            _, controllers, path = membership.split(":", 2)
            if (kind == "cgroup2") != (controllers == "") or (
                controllers and "cpu" not in controllers.split(",")
            ):
                continue
            # A container sees its own group mounted as the root, where a path from outside does not exist.
            within = path.removeprefix(top) if path.startswith(top) else ""
            base = ROOT / point.lstrip("/")
            group = base / within.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))
