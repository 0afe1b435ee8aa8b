"""`speakerverif embed` on files: alone, and beside as many busy processes as there are cores.

Ours is the command with its default settings; the peers are one thread, and threads that spin while they wait.
"""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from speakerverif._util.environment import SLEEPING_WAITS
from speakerverif._util.resources import cores
from tools.benches._case import Case, Work, as_installed
from tools.benches.embedding import recordings

ROOT = Path(__file__).resolve().parents[2]
FILES, SHORTEST_S, LONGEST_S = 24, 4.0, 12.0
BUSY = "while True: pass"


@contextlib.contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run a number of processes that compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _case(number: int, threads: int) -> Case:
    kept = tempfile.TemporaryDirectory()  # goes with the case
    folder = Path(kept.name)
    settings = (*SLEEPING_WAITS, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {name: value for name, value in as_installed(folder).items() if name not in settings}
    paths = [utterance.path for utterance in recordings(FILES, SHORTEST_S, LONGEST_S)]
    command = [sys.executable, "-m", "speakerverif", "-q", "embed", *paths, "--out", str(folder / "e.npz")]

    def embed(*options: str, kept: tempfile.TemporaryDirectory[str] = kept, **more: str) -> None:
        with busy_processes(number):
            subprocess.run(
                [*command, *options],
                check=True,
                cwd=ROOT,
                env=environment | more,
                stdout=subprocess.DEVNULL,
            )

    peers: dict[str, Work] = {
        "one thread": functools.partial(embed, "--threads", "1"),
        "spinning threads": functools.partial(embed, OMP_WAIT_POLICY="ACTIVE"),
    }
    return Case(embed, peers, clock="wall", facts={"busy processes": number, "load": os.getloadavg()[0]})


CASES = {
    f"embed {FILES} files, alone": functools.partial(_case, 0),
    f"embed {FILES} files, beside {cores()} busy processes": functools.partial(_case, cores()),
}
