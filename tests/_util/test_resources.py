"""Cores that a container allows, and threads that leave the cores to others while they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speakerverif._util import resources

ROOT = Path(__file__).parents[2]


def container(root: Path, cgroup: str, mountinfo: str, limits: dict[str, str]) -> None:
    """Write a file system that describes a process in control groups."""
    for name, text in {
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": mountinfo,
        **{f"sys/fs/cgroup/{name}": text for name, text in limits.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


VERSION_1 = "30 24 0:26 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
VERSION_2 = "30 24 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


@pytest.mark.parametrize(
    ("version", "cgroup", "top", "limits", "expected"),
    [
        (2, "0::/", "/", {"cpu.max": "max 100000"}, 8),
        (2, "0::/", "/", {"cpu.max": "50000 100000"}, 1),
        (2, "0::/", "/", {"cpu.max": "150000 100000"}, 2),
        (2, "0::/", "/", {"cpu.max": "9900000 100000"}, 8),
        (2, "0::/", "/", {"cpu.max": "no sense"}, 8),
        (2, "0::/a/b", "/", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        (2, "0::/a/b", "/", {"a/cpu.max": "max 100000", "a/b/cpu.max": "200000 100000"}, 2),
        (2, "0::/docker/c", "/docker/c", {"cpu.max": "400000 100000"}, 4),
        (2, "0::/elsewhere", "/docker/c", {"cpu.max": "400000 100000"}, 4),
        (
            1,
            "4:cpu,cpuacct:/",
            "/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            8,
        ),
        (
            1,
            "9:memory:/m\n4:cpu,cpuacct:/a\n0::/",
            "/",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            3,
        ),
        (
            1,
            "4:cpuacct,cpu:/docker/c",
            "/docker/c",
            {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            1,
        ),
    ],
)
def test_cores_are_what_a_container_allows(
    version: int,
    cgroup: str,
    top: str,
    limits: dict[str, str],
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    container(tmp_path, cgroup, (VERSION_1, VERSION_2)[version - 1].format(top=top), limits)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(resources, "ROOT", tmp_path)
    assert resources.cores() == expected


def test_without_control_groups_cores_are_those_bound_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    monkeypatch.setattr(resources, "ROOT", tmp_path)
    assert resources.cores() == 2


SPUN = """
import sys, time, torch
torch.set_num_threads(2)
{prepare}
x = torch.randn(200_000)
spun = []
for _ in range(20):
    x.exp()
    start = time.process_time()
    time.sleep(0.02)
    spun.append(time.process_time() - start)
print(sorted(spun)[10])
"""


def spun_s(prepare: str, **settings: str) -> float:
    """Return the seconds of computing that idle threads take after a piece of work, as the median of 20."""
    waits = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in waits}
    done = subprocess.run(
        [sys.executable, "-c", SPUN.format(prepare=prepare)],
        env=environment | {"PYTHONPATH": str(ROOT)} | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(resources.cores() < 2, reason="one core: there is nobody to wait for")
@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="a setting of GNU OpenMP under Linux")
def test_threads_sleep_while_they_wait_in_a_program_that_imported_torch_first() -> None:
    sleeping = spun_s("from speakerverif._util.resources import share_cores; share_cores()")
    spinning = spun_s(
        "from speakerverif._util.resources import share_cores; share_cores()", OMP_WAIT_POLICY="ACTIVE"
    )
    assert sleeping < 0.001 < spinning


FORKED = """
import multiprocessing, numpy, torch
torch.set_num_threads(2)
from speakerverif import load_model
model = load_model({model!r}, engine={engine!r})
samples = 0.1 * numpy.random.default_rng(0).standard_normal(32000).astype("float32")
here = model.embed(samples, 16000)
def embed(_):
    return model.embed(samples, 16000)
with multiprocessing.get_context("fork").Pool(2) as pool:
    for there in pool.map_async(embed, range(2)).get(timeout=60):
        assert abs(there - here).max() < 1e-4
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_forked_process_embeds(engine: str, tiny_model: Path, tmp_path: Path) -> None:
    code = FORKED.format(model=str(tiny_model), engine=engine)
    settings = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=settings | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
