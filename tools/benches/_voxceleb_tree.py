"""Tree as large as VoxCeleb: each recording is a link to one of a few tiny WAV files."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

LINKS = 50_000  # per file; file systems allow about 65,000
DEV2 = (5994, 145_569, 1_092_009)  # speakers, videos, utterances of VoxCeleb2 dev
TEST1 = (40, 677, 4_874)
# Durations as in VoxCeleb2: from 4 s on, 7.8 s on average. Only headers are read, so samples need not be there to
# the right number; a quarter of a second is, and keeps the files small.
SECONDS = 0.25


def names(first: int, speakers: int, videos: int, utterances: int) -> Iterator[tuple[str, int]]:
    """Yield `id…/video` and its number of utterances, which add up to the corpus's."""
    for v in range(videos):
        speaker = first + v * speakers // videos
        yield f"id{speaker:05d}/{v:011d}", (v + 1) * utterances // videos - v * utterances // videos


def grow(folder: Path, first: int, size: tuple[int, int, int]) -> int:
    """Make the tree and return its number of recordings."""
    folder.mkdir(parents=True)
    done, source = 0, folder
    for name, count in names(first, *size):
        video = folder / name
        video.mkdir(parents=True)
        for n in range(1, count + 1):
            if done % LINKS == 0:
                source = folder.parent / f"{folder.name}{done // LINKS}.wav"
                soundfile.write(source, np.zeros(int(16000 * SECONDS), np.int16), 16000)
            (video / f"{n:05d}.wav").hardlink_to(source)
            done += 1
    return done


def trials(first: int, size: tuple[int, int, int]) -> str:
    """Return a trial list over one utterance per video."""
    videos = [f"{name}/00001.wav" for name, _ in names(first, *size)]
    return "".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in itertools.pairwise(videos))
