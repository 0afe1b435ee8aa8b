"""Recordings that can't be read: found before a training starts, and left out if the user chooses that."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from speakerverif._util.progress import Progress
from speakerverif.audio.reading import Files
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.training import distributed

RATE = 16_000  # of recordings read for a check; any rate would do

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadFiles:
    """The policy for recordings that can't be read.

    Attributes:
        check: how much of each recording is checked before a training starts: its header, or all of it.
        skip: leave such recordings out and list them, instead of raising an error; also during training.
    """

    check: Literal["headers", "decode"] = "headers"
    skip: bool = False


REFUSE = BadFiles()


def readable(manifest: Manifest, policy: BadFiles, source: Files) -> tuple[Manifest, list[str]]:
    """Return the utterances that can be read, and the ids of those left out; the first process alone looks at them.

    Raises:
        InputError: some can't be read and the policy isn't to skip them (with all ids and reasons); or none can be
            read.
    """
    problems = distributed.as_first_finds(lambda: _problems(manifest, policy, source))
    if not problems:
        return manifest, []
    bad = [manifest[row].id for row, _ in problems]
    reasons = "; ".join(f"{name} ({problem})" for name, (_, problem) in zip(bad, problems, strict=True))
    count = f"{len(bad)} of {len(manifest)} utterances can't be read"
    if len(bad) == len(manifest):
        raise InputError(f"{count}: {reasons}")
    if not policy.skip:
        raise InputError(f"{count}: {reasons}. Mend them, or leave them out with --skip-bad")
    if distributed.is_first():
        logger.warning(f"{count} and are left out: {reasons}")
    kept = np.ones(len(manifest), bool)
    kept[[row for row, _ in problems]] = False
    return manifest.select(kept), bad


def _problems(manifest: Manifest, policy: BadFiles, source: Files) -> list[tuple[int, str]]:
    """Return row and reason of each utterance that can't be read."""
    problems: list[tuple[int, str]] = []
    with (
        ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool,
        Progress(len(manifest), f"check {policy.check}") as progress,
    ):
        for row, problem in enumerate(pool.map(lambda u: _problem(u, policy, source), manifest)):
            if problem:
                problems.append((row, problem))
            progress.update(1)
    return problems


def _problem(utterance: Utterance, policy: BadFiles, source: Files) -> str:
    """Return the reason why an utterance can't be read; empty if it can."""
    path = utterance.path
    try:
        if Path(path).is_file() and Path(path).stat().st_size == 0:
            return f"{path}: empty file"
        if policy.check == "headers":
            duration_s = source.info(path).duration_s
            if duration_s <= utterance.start_s:
                return f"{path}: starts at {utterance.start_s:g} s, the recording ends at {duration_s:g} s"
            return ""
        samples = source.read(path, utterance.start_s, utterance.duration_s, RATE, utterance.channel)
    except InputError as error:
        return str(error)
    except Exception as error:  # a decoder's internal error must not end the check of the list
        return f"{path}: {type(error).__name__}: {error}"
    if len(samples) == 0:
        return f"{path}: no samples"
    return "" if np.isfinite(samples).all() else f"{path}: samples that are not finite"
