#!/usr/bin/env python
"""Feed damaged files to the package's parsers, each with a limit of time and memory, and keep what they don't survive.

    python tools/fuzz.py [GROUP ...] --minutes 5 --out out/fuzz

A parser must return what is right, or raise `InputError` with a message of one line. Any other exception, a death of
the process, and an input that takes more time or memory than the limits are findings: the input is kept in the folder,
and the exit status is 1.
Inputs are numbered and follow from the seed, the group and their number: a finding comes again with the same seed.
`fuzz_groups.py` holds the groups; a new parser is added there.
"""

import argparse
import contextlib
import logging
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif.errors import InputError
from tools.fuzz_groups import GROUPS, Group
from tools.fuzz_inputs import Seed, mutated, written

# Seconds of processor time, and of waiting, that an input may take.
INPUT_S, WAIT_S = 10.0, 120.0
MEMORY_BYTES = 2 << 30
LONGEST_MESSAGE = 5000  # characters
LATE = (signal.SIGPROF, signal.SIGALRM)


def work(group: Group, seed: int, first: int, last: int, scratch: Path, parent: Connection) -> None:
    """Try inputs one after the other, and tell the parent of each before it is tried and after."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries write about damage there
    logging.disable()
    seeds = group.seeds()
    with contextlib.suppress(InputError):
        group.parse(written(seeds[0], scratch))  # imports what it needs, before memory is limited
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES + _address_space(), resource.RLIM_INFINITY))
    for alarm in LATE:
        signal.signal(alarm, signal.SIG_DFL)
    for number in range(first, last):
        path = written(_input(seeds, seed, number), scratch)
        parent.send((number, None))
        _limit_time(INPUT_S, WAIT_S)
        try:
            group.parse(path)
            answer = "read"
        except InputError as error:
            text = str(error)
            answer = (
                "refused" if "\n" not in text and len(text) < LONGEST_MESSAGE else f"message {text[:200]!r}"
            )
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            answer = (
                f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:100]}"
            )
        _limit_time(0, 0)
        shutil.rmtree(scratch)
        scratch.mkdir()
        parent.send((number, answer))


def _input(seeds: Sequence[Seed], seed: int, number: int) -> Seed:
    return mutated(seeds, np.random.default_rng([seed, number]))


def _limit_time(processor_s: float, wait_s: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    signal.setitimer(signal.ITIMER_REAL, wait_s)


def _address_space() -> int:
    """Return the bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(
    group: Group, seed: int, out: Path, *, seconds: float = math.inf, inputs: int = sys.maxsize
) -> Counter[str]:
    """Try inputs for a while; return how often each answer was given, findings under `finding: ...`.

    Args:
        group: what is tried.
        seed: of the inputs.
        out: folder for the first input of each finding.
        seconds: when to stop.
        inputs: how many at most.
    """
    counts: Counter[str] = Counter()
    stop, number = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as scratch:
        while number < inputs and time.monotonic() < stop:
            ours, theirs = multiprocessing.Pipe()
            arguments = (group, seed, number, inputs, Path(scratch) / "input", theirs)
            (Path(scratch) / "input").mkdir(exist_ok=True)
            process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
            process.start()
            theirs.close()
            answer: str | None = ""
            with contextlib.suppress(EOFError):
                while time.monotonic() < stop or answer is None:
                    number, answer = ours.recv()
                    if answer is not None:
                        _count(counts, group, seed, number, answer, out)
            if answer is None:
                process.join()
                code = process.exitcode or 0
                death = f"nothing in {INPUT_S:g} s" if -code in LATE else f"the process ended with {code}"
                _count(counts, group, seed, number, death, out)
            process.kill()
            process.join()
            number += 1
    return counts


def _count(counts: Counter[str], group: Group, seed: int, number: int, answer: str, out: Path) -> None:
    if answer in ("read", "refused"):
        counts[answer] += 1
        return
    counts[f"finding: {answer}"] += 1
    if counts[f"finding: {answer}"] == 1:
        path = written(_input(group.seeds(), seed, number), out / f"{group.name}-{seed}-{number}")
        print(f"{path}: {answer}", flush=True)


def main() -> int:
    """Run the groups one after the other; 1 where there are findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=5.0, help="in all (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for findings")
    arguments = parser.parse_args()
    names = arguments.groups or list(GROUPS)
    if unknown := set(names) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    findings = 0
    for name in names:
        seconds = 60 * arguments.minutes / len(names)
        counts = fuzz(GROUPS[name], arguments.seed, arguments.out, seconds=seconds)
        total = sum(counts.values())
        print(f"{name}: {total:,} inputs, {counts['read']:,} read, {counts['refused']:,} refused", flush=True)
        for answer, count in counts.most_common():
            if answer.startswith("finding"):
                findings += 1
                print(f"  {count} x {answer}")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
