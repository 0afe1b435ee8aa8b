"""Parallel, resumable conversion of m4a to WAV, done once because training reads every recording many times."""

import hashlib
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import soundfile

from speakerverif._util.files import replacing, write_json
from speakerverif._util.json_files import read_json
from speakerverif._util.progress import Progress
from speakerverif.audio import reading
from speakerverif.corpora._headers import duration_s
from speakerverif.corpora._voxtree import HEADER
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError

logger = logging.getLogger(__name__)

RATE = 16000
BYTES_PER_S = 2 * RATE
SHORTER_S = 0.1  # a decoded recording may be this much shorter than its header announces
CHUNK = 4096  # utterances handed to the threads at a time


def convert(source: Path, target: Path, folder: Path) -> list[tuple[str, str]]:
    """Decode the m4a files of the manifest `source` into `folder`/<id>, and write the manifest `target` with them.

    Existing files are kept; a file gets its name only when it is complete. Nothing is done if the conversion of the
    same `source` was finished before.

    Returns:
        Recordings that could not be decoded, and are not in `target`: (message of ffmpeg, path).

    Raises:
        InputError: no ffmpeg, or not enough free disk space.
    """
    record, digest = target.with_suffix(".json"), hashlib.sha256(source.read_bytes()).hexdigest()
    if (
        target.is_file()
        and record.is_file()
        and read_json(record, "remove it to decode again").get("source") == digest
    ):
        return []
    manifest = Manifest.read(source)
    problems = []
    with Progress(len(manifest), "decode m4a") as progress:
        logger.info(_means(manifest, folder))
        with replacing(target) as file, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            file.write(HEADER)
            for start in range(0, len(manifest), CHUNK):
                chunk = [manifest[i] for i in range(start, min(start + CHUNK, len(manifest)))]
                for u, (path, seconds, problem) in zip(
                    chunk, pool.map(partial(_converted, folder), chunk), strict=True
                ):
                    if problem:
                        problems.append((problem, u.path))
                    else:
                        file.write(os.fsencode(f"{u.id}\t{path}\t{u.speaker}\t0.0\t{seconds!r}\n"))
                    progress.update(1)
    if not problems:
        write_json(record, {"source": digest})
    return problems


def require_ffmpeg(count: int) -> None:
    """Raise `InputError` where there are m4a files but no ffmpeg."""
    if count and shutil.which("ffmpeg") is None:
        raise InputError(
            f"{count:,} recordings are m4a, and ffmpeg, which decodes them, is not installed: "
            "install ffmpeg, or convert them to WAV elsewhere"
        )


def _means(manifest: Manifest, folder: Path) -> str:
    """Return a description of the conversion, or raise `InputError` if it can't succeed."""
    folder.mkdir(parents=True, exist_ok=True)
    compressed = [i for i in range(len(manifest)) if manifest.paths[i].endswith(b".m4a")]
    left = [i for i in compressed if not (folder / manifest[i].id).is_file()]
    seconds, free = manifest.duration_s[left].sum(), shutil.disk_usage(folder).free
    task = (
        f"{len(left):,} of {len(compressed):,} m4a files, {seconds / 3600:,.1f} hours, become "
        f"{seconds * BYTES_PER_S / 1e9:,.1f} GB of WAV in {folder}, where {free / 1e9:,.1f} GB are free"
    )
    if seconds * BYTES_PER_S > free:
        raise InputError(f"{task}: make room, or give another --out")
    return task


def _converted(folder: Path, utterance: Utterance) -> tuple[str, float, str]:
    """Return the path of an utterance's WAV file, its duration in seconds, and an error message or nothing."""
    if not utterance.path.endswith(".m4a"):
        return utterance.path, float(utterance.duration_s or 0), ""
    target = folder / utterance.id
    try:
        try:
            return str(target), duration_s(str(target)), ""
        except InputError:  # missing, or left incomplete by a crash of the machine
            samples = reading.read(utterance.path, sample_rate=RATE)
    except InputError as error:
        return "", 0.0, str(error).removeprefix(f"{utterance.path}: ")
    if len(samples) / RATE < float(utterance.duration_s or 0) - SHORTER_S:
        return (
            "",
            0.0,
            f"cut off: decodes to {len(samples) / RATE:g} s, its header announces {utterance.duration_s:g} s",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(f".{os.getpid()}.part")
    soundfile.write(aside, samples, RATE, subtype="PCM_16", format="WAV")
    aside.replace(target)
    return str(target), len(samples) / RATE, ""
