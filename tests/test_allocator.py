"""Memory that is freed stays with the process, so that it isn't faulted in again, until it is released."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, numpy
from speakerverif.allocator import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(48 << 17)  # 48 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("kept", [True, False])
def test_the_second_allocation_faults_nothing_in(kept: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if not kept:  # a user's own settings are left alone
        environment["GLIBC_TUNABLES"] = "glibc.malloc.mmap_threshold=131072"
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (int(done.stdout) < 10) == kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_what_is_kept_can_be_released() -> None:
    code = (
        CODE
        + "from speakerverif.allocator import release_freed_memory\nrelease_freed_memory()\nprint(faults())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, released = map(int, done.stdout.split())
    assert kept < 10 <= released
