#!/usr/bin/env python
"""Feed damaged files to the package's parsers, each with a limit of time and memory, and keep what they don't survive.

    python tools/fuzz.py [GROUP ...] --minutes 5 --out out/fuzz

A parser must return, or raise `InputError` with a message of one line. Any other exception, a death of the process, and
an input that takes longer than the limit are findings: the input is kept in the folder, and the exit status is 1.
Inputs are numbered and follow from the seed, the group and their number: a finding comes again with the same seed.
`fuzz_groups.py` holds the groups; a new parser is added there.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif.errors import InputError
from tools.fuzz_groups import GROUPS, Group

INPUT_S = 10.0
MEMORY_BYTES = 2 << 30
# What numbers in headers are replaced by.
NUMBERS = (0, 1, 2, 255, 0x7FFF, 0xFFFF, 10**6, 2 * 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
HEADER_BYTES = 128


def mutated(seeds: list[bytes], rng: np.random.Generator) -> bytes:
    """Return one of the seeds after one to four random changes."""
    content = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 5)):
        size = max(1, len(content))
        at = int(rng.integers(min(size, HEADER_BYTES) if rng.random() < 0.6 else size))
        kind = rng.integers(8)
        if kind == 0 and content:
            content[at % size] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            width = (1, 2, 4, 8)[rng.integers(4)]
            value = NUMBERS[rng.integers(len(NUMBERS))] & ((1 << 8 * width) - 1)
            content[at : at + width] = value.to_bytes(width, "little" if rng.integers(2) == 0 else "big")
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            del content[at : at + int(rng.integers(1, 64))]
        elif kind == 4:
            content[at:at] = content[at : at + int(rng.integers(1, 512))]
        elif kind == 5:
            content[at : at + 16] = rng.bytes(16)
        elif kind == 6:
            other = seeds[rng.integers(len(seeds))]
            content += other[int(rng.integers(len(other) + 1)) if rng.random() < 0.5 else 0 :]
        else:
            other = seeds[rng.integers(len(seeds))]
            content[at:] = other[at:]
    return bytes(content)


def work(group: Group, seeds: list[bytes], seed: int, first: int, scratch: Path, parent: Connection) -> None:
    """Try inputs one after the other, and tell the parent of each before it is tried and after."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries write about damage there
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES + _address_space(), resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    path = scratch / f"input{group.suffix}"
    number = first
    while True:
        content = mutated(seeds, np.random.default_rng([seed, number]))
        path.write_bytes(content)
        parent.send((number, None))
        signal.setitimer(signal.ITIMER_REAL, INPUT_S)
        try:
            group.parse(path)
            answer = "read"
        except InputError as error:
            answer = "refused" if "\n" not in str(error) else f"a message of several lines: {str(error)!r}"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            answer = (
                f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:100]}"
            )
        signal.setitimer(signal.ITIMER_REAL, 0)
        parent.send((number, answer))
        number += 1


def _address_space() -> int:
    """Return the bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(group: Group, seed: int, seconds: float, out: Path) -> Counter[str]:
    """Try inputs for a while; return how often each answer was given, findings under `finding: ...`."""
    counts: Counter[str] = Counter()
    stop, number, seeds = time.monotonic() + seconds, 0, group.seeds()
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < stop:
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.get_context("fork").Process(
                target=work, args=(group, seeds, seed, number, Path(scratch), theirs)
            )
            process.start()
            theirs.close()
            answer: str | None = ""
            with contextlib.suppress(EOFError):
                while time.monotonic() < stop or answer is None:
                    number, answer = ours.recv()
                    if answer is not None:
                        _count(counts, group, seeds, seed, number, answer, out)
            if time.monotonic() < stop or answer is None:
                process.join()
                status = process.exitcode or 0
                name = signal.Signals(-status).name if status < 0 else "exit"
                late = f"nothing in {INPUT_S:g} s"
                _count(
                    counts,
                    group,
                    seeds,
                    seed,
                    number,
                    late if name == "SIGALRM" else f"killed by {name}",
                    out,
                )
            process.kill()
            process.join()
            number += 1
    return counts


def _count(
    counts: Counter[str], group: Group, seeds: list[bytes], seed: int, number: int, answer: str, out: Path
) -> None:
    if answer in ("read", "refused"):
        counts[answer] += 1
        return
    counts[f"finding: {answer}"] += 1
    if counts[f"finding: {answer}"] == 1:
        out.mkdir(parents=True, exist_ok=True)
        content = mutated(seeds, np.random.default_rng([seed, number]))
        kept = out / f"{group.name}-{seed}-{number}{group.suffix}"
        kept.write_bytes(content)
        print(f"{kept}: {answer}", flush=True)


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
        counts = fuzz(GROUPS[name], arguments.seed, 60 * arguments.minutes / len(names), arguments.out)
        print(
            f"{name}: {sum(counts.values()):,} inputs, {counts['read']:,} read, {counts['refused']:,} refused"
        )
        for answer, count in counts.most_common():
            if answer.startswith("finding"):
                findings += 1
                print(f"  {count} x {answer}")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
