"""Memory that is freed stays with the process, so that it isn't faulted in again, until it is released."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, numpy
from speakerverif._util.allocator import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(48 << 17)  # 48 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


def run(code: str, **settings: str) -> list[int]:
    """Return the numbers that a program prints, whatever this process was told of memory."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | settings
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("kept", [True, False])
def test_the_second_allocation_faults_nothing_in(kept: bool) -> None:
    # A user's own settings are left alone.
    settings = {} if kept else {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}
    (faults,) = run(CODE, **settings)
    assert (faults < 10) == kept


def test_what_is_kept_can_be_released() -> None:
    code = (
        CODE
        + "from speakerverif._util.allocator import release_freed_memory\nrelease_freed_memory()\nprint(faults())"
    )
    kept, released = run(code)
    assert kept < 10 <= released
