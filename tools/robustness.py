#!/usr/bin/env python3
"""The EER of a trial list as its test recordings get shorter, noisier or otherwise worse; models side by side.

    python tools/robustness.py trials.txt --audio-root DIR --model MODEL --noise DIR --rooms DIR

The enrolled side stays unchanged, as where people enroll in a quiet place and are verified anywhere; `--both` changes
both sides. The change of a recording follows from the seed and its name: each model gets the same recordings, the noise
of one recording is the same at each SNR, and a row alone (`--only "noise 10 dB"`) equals the row among others.

Rows: the middle seconds alone; telephone lines, codecs; recorded and simulated rooms; noise. And, as substitutes for
speech that a model was not trained on: another microphone (a random smooth frequency response, 6 dB of standard
deviation), overdriven by 10 dB, faster and slower by a tenth (which changes pitch and vocal tract with it), and
played backwards (an unknown language).

Columns: a model by plain cosine and, where its folder holds a back end or a cohort, by those. 95 %
intervals over speakers. Recordings that can't be embedded are counted, and their trials left out.
`--resemblyzer` adds Resemblyzer (pip install --no-deps resemblyzer webrtcvad; its weights come with it).
"""

import argparse
import importlib.metadata
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif._util.files import write_json
from speakerverif._util.messages import nearest
from speakerverif.audio import reading
from speakerverif.audio.augment import (
    Recordings,
    convolve,
    mix,
    read_recording,
    read_response,
    simulated_room,
    speed,
)
from speakerverif.audio.channels import Channel
from speakerverif.audio.codec import transcode
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Utterance
from speakerverif.data.speakers import Units, units_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.intervals import estimate
from speakerverif.inference.embed import embed
from speakerverif.models.folder import read_model_folder
from speakerverif.scoring import cosine
from speakerverif.scoring.scorer import Scoring

RATE = 16000
CLEAN = "as they are"
Waveform = np.ndarray  # float32 (samples,) at RATE
Change = Callable[[Waveform, np.random.Generator], Waveform]


def changes(noise: Path | None, rooms: Path | None) -> dict[str, Change]:
    """Return name -> change of a recording; noise and recorded rooms only where their folders are given."""
    found: dict[str, Change] = {CLEAN: lambda w, rng: w}
    found |= {f"middle {s} s": partial(_middle, seconds=s) for s in (3, 2, 1)}
    found["telephone, 8 kHz"] = _coded("telephone", 64)
    found["GSM"] = _coded("gsm", 13)
    found |= {f"Opus {kbps} kbit/s": _coded("opus", kbps) for kbps in (24, 12, 6)}
    found |= {f"MP3 {kbps} kbit/s": _coded("mp3", kbps) for kbps in (32, 16)}
    if rooms:
        responses = Recordings(rooms, RATE, read_response)
        found["recorded rooms"] = lambda w, rng: convolve(w, responses.any(rng))
    found |= {f"simulated room, T60 {t60} s": partial(_room, t60_s=t60) for t60 in (0.3, 0.6, 0.9)}
    if noise:
        recordings = Recordings(noise, RATE, read_recording)
        found |= {f"noise {snr} dB": partial(_noisy, noise=recordings, snr_db=snr) for snr in (20, 10, 5, 0)}
        found["room, noise 10 dB, Opus 12 kbit/s"] = partial(_call, noise=recordings)
    found["another microphone"] = _microphone
    found["overdriven by 10 dB"] = lambda w, rng: np.clip(w * (10**0.5 / max(np.abs(w).max(), 1e-9)), -1, 1)
    found |= {
        f"{word} by a tenth": partial(_speed, factor=f) for word, f in (("faster", 1.1), ("slower", 0.9))
    }
    found["backwards"] = lambda w, rng: w[::-1].copy()
    return found


def _middle(w: Waveform, rng: np.random.Generator, seconds: float) -> Waveform:
    first = max(0, (len(w) - round(seconds * RATE)) // 2)
    return w[first : first + round(seconds * RATE)]


def _coded(kind: str, kbps: float) -> Change:
    return lambda w, rng: transcode(w, kind, RATE, kbps)


def _room(w: Waveform, rng: np.random.Generator, t60_s: float) -> Waveform:
    return convolve(w, simulated_room(rng, RATE, t60_s))


def _noisy(w: Waveform, rng: np.random.Generator, noise: Recordings, snr_db: float) -> Waveform:
    return mix(w, noise.excerpt(rng, len(w)), snr_db)


def _call(w: Waveform, rng: np.random.Generator, noise: Recordings) -> Waveform:
    heard = _within(_noisy(_room(w, rng, 0.4), rng, noise, 10))
    return transcode(heard, "opus", RATE, 12)


def _speed(w: Waveform, rng: np.random.Generator, factor: float) -> Waveform:
    return speed(w, factor)


def _microphone(w: Waveform, rng: np.random.Generator) -> Waveform:
    """Return the recording through a random frequency response: eight gains from 100 Hz to 8 kHz, joined smoothly."""
    spectrum = np.fft.rfft(w)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(w), 1 / RATE), 100) / 100)
    gains_db = np.interp(octaves, np.linspace(0, np.log2(80), 8), rng.normal(0, 6, 8))
    return np.fft.irfft(spectrum * 10 ** (gains_db / 20), len(w)).astype(np.float32)


def _within(w: Waveform) -> Waveform:
    return w / max(1.0, float(np.abs(w).max(initial=0)))


class Changed:
    """Source of recordings below a folder, each changed with its own random generator; `embed` reads from it."""

    def __init__(self, root: Path, change: Change, seed: int) -> None:
        self.root, self.change, self.seed = root, change, seed

    def info(self, path: str, /) -> reading.AudioInfo:
        return reading.info(self.root / path)

    def read(
        self,
        path: str,
        start_s: float,
        duration_s: float | None,
        sample_rate: int,
        channel: Channel = None,
        /,
    ) -> Waveform:
        if sample_rate != RATE:
            raise InputError(f"expected a model of {RATE} Hz, found {sample_rate} Hz")
        waveform = reading.read(self.root / path, start_s, duration_s, RATE, channel)
        rng = np.random.default_rng((self.seed, zlib.crc32(path.encode())))
        return _within(self.change(waveform, rng).astype(np.float32, copy=False))

    def blocks(
        self, path: str, block_s: float, sample_rate: int, channel: Channel = None, /
    ) -> Iterator[Waveform]:
        waveform = self.read(path, 0.0, None, sample_rate, channel)
        size = round(block_s * sample_rate)
        for start in range(0, len(waveform), size):
            yield waveform[start : start + size]


@dataclass(frozen=True)
class System:
    """A system: a function that embeds recordings, and the ways to score them."""

    name: str
    fingerprint: str
    embed: Callable[[list[str], Changed, str], EmbeddingTable]
    scorings: dict[str, Scoring | None]  # by its name; None is plain cosine


def ours(path: Path | None, device: str) -> System:
    """Return a model folder as a system."""
    folder = read_model_folder(path, device)

    def embed_all(ids: list[str], source: Changed, label: str) -> EmbeddingTable:
        return embed(folder, [Utterance(i, i, "") for i in ids], device=device, label=label, source=source)

    scoring = Scoring.load(folder.path, folder.fingerprint)
    own = {} if scoring.name == "cosine" else {scoring.name: scoring}
    return System(folder.name, folder.fingerprint, embed_all, {"cosine": None, **own})


def resemblyzer() -> System:
    """Return Resemblyzer, its own preprocessing (level, cutting of pauses) included."""
    try:
        from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError as error:
        raise InputError(f"--resemblyzer: pip install --no-deps resemblyzer webrtcvad ({error})") from error
    encoder = VoiceEncoder("cpu", verbose=False)
    version = f"resemblyzer {importlib.metadata.version('resemblyzer')}"

    def embed_all(ids: list[str], source: Changed, label: str) -> EmbeddingTable:
        rows, failed = {}, {}
        for name in ids:
            speech = preprocess_wav(source.read(name, 0, None, RATE), source_sr=RATE)
            if len(speech):
                rows[name] = encoder.embed_utterance(speech)
            else:
                failed[name] = "no voice found"
        nothing = np.full(len(rows), np.nan, np.float32)
        vectors = np.array(list(rows.values()), np.float32)
        return EmbeddingTable(list(rows), vectors, nothing, nothing, ["ok"] * len(rows), version, failed)

    return System("Resemblyzer", version, embed_all, {"cosine": None})


def joined(
    trials: TrialList, clean: EmbeddingTable, changed: EmbeddingTable
) -> tuple[TrialList, EmbeddingTable, np.ndarray]:
    """Return the trials with both sides embedded, the two tables as one, and the trials' rows."""
    size = len(trials.ids)
    enrolled, tested = (np.array([name not in t.failed for name in trials.ids]) for t in (clean, changed))
    kept = np.flatnonzero(enrolled[trials.enroll] & tested[trials.test])
    assert trials.labels is not None
    ids = [*trials.ids, *(f"{name} (test)" for name in trials.ids)]
    sides = np.concatenate([trials.enroll[kept], trials.test[kept] + size])
    used, codes = np.unique(sides, return_inverse=True)
    enroll, test = codes.astype(np.int32).reshape(2, -1)
    pairs = TrialList(tuple(ids[i] for i in used), enroll, test, trials.labels[kept], trials.name)
    names = [*clean.ids, *(f"{name} (test)" for name in changed.ids)]
    table = EmbeddingTable(
        names,
        np.concatenate([clean.embeddings, changed.embeddings]),
        np.concatenate([clean.durations, changed.durations]),
        np.concatenate([clean.speech, changed.speech]),
        ["ok"] * len(names),
        clean.fingerprint,
    )
    return pairs, table, kept


def figures(
    system: System,
    trials: TrialList,
    units: Units,
    clean: EmbeddingTable,
    changed: EmbeddingTable,
) -> Iterator[dict[str, Any]]:
    """Yield the EER of every scoring of a system, enrolled from one table and tested from another."""
    pairs, table, kept = joined(trials, clean, changed)
    for scoring in system.scorings.values():
        scores = cosine.cosine(pairs, table) if scoring is None else scoring.score(pairs, table)[0]
        labels = np.asarray(pairs.labels)
        eer = estimate(scores.scores, labels, units.enroll[kept], units.test[kept]).eer
        yield {
            "eer": eer.value,
            "eer_ci95": eer.interval(),
            "not_embedded": len(changed.failed),
            "trials_left_out": len(trials) - len(kept),
        }


def cell(found: dict[str, Any]) -> str:
    """Return figures as a cell of the table."""
    low, high = found["eer_ci95"] or (np.nan, np.nan)  # too few speakers for an interval
    lost = f"; {found['not_embedded']} not embedded" if found["not_embedded"] else ""
    return f"{100 * found['eer']:.2f} [{100 * low:.2f}, {100 * high:.2f}]{lost}"


def table(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table row by row and return the record."""
    trials = TrialList.read(args.trials)
    if trials.labels is None:
        raise InputError(f"{args.trials}: no labels; an EER needs them")
    if not (args.audio_root / trials.ids[0]).is_file():
        raise InputError(
            f"{args.audio_root / trials.ids[0]}: no such file; --audio-root is where the list's paths start"
        )
    available = changes(args.noise, args.rooms)
    for name in args.only or ():
        if name not in available:
            raise InputError(f"--only {name!r}: {nearest(name, list(available))}")
    units = units_of(trials)
    systems = [ours(path, args.device) for path in args.model or [None]]
    systems += [resemblyzer()] if args.resemblyzer else []
    record: dict[str, Any] = {
        "trials": {
            "name": args.trials.name,
            "sha256": trials.sha256,
            "count": len(trials),
            "units": len(units.names),
        },
        "changed": "both sides" if args.both else "test side",
        "seed": args.seed,
        "systems": [
            {"name": s.name, "fingerprint": s.fingerprint, "scoring": scoring}
            for s in systems
            for scoring in s.scorings
        ],
        "rows": {},
    }
    side = "both sides" if args.both else "test recordings"
    heads = [f"{one['name']} {one['fingerprint']}, {one['scoring']}: EER %" for one in record["systems"]]
    print("| " + " | ".join([side, *heads]) + " |\n|" + "---|" * (len(heads) + 1))
    ids = list(trials.ids)
    clean = [s.embed(ids, Changed(args.audio_root, available[CLEAN], args.seed), CLEAN) for s in systems]
    for name in args.only or available:
        row: list[dict[str, Any]] = []
        for system, before in zip(systems, clean, strict=True):
            source = Changed(args.audio_root, available[name], args.seed)
            after = before if name == CLEAN else system.embed(ids, source, name)
            row += figures(system, trials, units, after if args.both else before, after)
        record["rows"][name] = row
        print("| " + " | ".join([name, *map(cell, row)]) + " |", flush=True)
    between = f"between {len(units.names)} {units.kind}s"
    print(f"\n{len(trials):,} trials {between}; seed {args.seed}; one row alone: --only ROW")
    return record


def main() -> int:
    """Return the exit status: 0 done, 2 wrong input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trials", type=Path, metavar="TRIALS")
    parser.add_argument("--audio-root", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        metavar="MODEL",
        help="model folder; may be repeated (default: the built-in model)",
    )
    parser.add_argument("--resemblyzer", action="store_true")
    parser.add_argument("--noise", type=Path, metavar="DIR", help="folder of noise recordings")
    parser.add_argument("--rooms", type=Path, metavar="DIR", help="folder of room impulse responses")
    parser.add_argument(
        "--only", action="append", metavar="ROW", help="compute only this row; may be repeated"
    )
    parser.add_argument("--both", action="store_true", help="change enrolled recordings too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    try:
        record = table(args)
    except InputError as error:
        print(f"robustness.py: {error}", file=sys.stderr)
        return 2
    if args.json:
        write_json(args.json, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
