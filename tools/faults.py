#!/usr/bin/env python3
"""Kill long-running commands at random moments, run them again, and compare the end with an undisturbed run.

    python tools/faults.py --kills 50 --seed 0

Each command runs in a process that is forked from this one and gets SIGKILL or SIGTERM at a random moment; after at
most three kills it runs to its end. Then its files must be byte for byte those of a run that nothing disturbed, but
for what depends on the clock. Exit status 1 where they are not.
"""

import argparse
import contextlib
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif._util.toml import format_toml
from speakerverif.cli import main as command_line
from speakerverif.inference.enrollment import Store
from tools import hostile

CLOCK = ("log.jsonl",)  # files with times in them
KILLS_IN_A_ROW = 3


@dataclass(frozen=True)
class Command:
    """A long-running command: its arguments for an output folder, and the facts to compare at its end."""

    arguments: Callable[[Path], tuple[str, ...]]
    facts: Callable[[Path], dict[str, str]]


def files(folder: Path) -> dict[str, str]:
    """Return name -> SHA-256 of the files in a folder, without unfinished ones and those with times in them."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in CLOCK
        and path.suffix != ".part"
        and path.parent.name != "tensorboard"
    }


def people(folder: Path) -> dict[str, str]:
    """Return name -> digest of the enrolled embeddings of a store."""
    store = Store(folder / "store")
    return {
        name: hashlib.sha256(store.utterances(name).tobytes()).hexdigest() + f" {len(store.samples(name))}"
        for name in store.names()
    }


def answers(folder: Path) -> dict[str, str]:
    """Return the digest of an exported model's embedding: a TorchScript archive holds the place of its code."""
    model = torch.jit.load(str(folder / "m.pt"))
    with torch.inference_mode():
        embedding = model(torch.linspace(-1, 1, 8000)[None], torch.tensor([8000]))
    return {"m.pt": hashlib.sha256(embedding.numpy().tobytes()).hexdigest()}


def commands(folder: Path) -> dict[str, Command]:
    """Return the commands by name, with inputs made in `folder`."""
    good = hostile.prepare(folder)
    musan(folder / "musan")
    sound, rate = soundfile.read(good.path("a.wav"))
    rows = ["id\tpath\tspeaker\tstart_s\tduration_s"]
    for n in range(12):
        place = folder / "people" / f"p{n}" / "a.wav"
        place.parent.mkdir(parents=True)
        soundfile.write(place, np.roll(sound, 997 * n), rate)
        rows += [f"u{n}-{k}\t{place}\tp{n}\t{0.1 * k:.1f}\t0.{5 + k}" for k in range(5)]
    listed = good.folder / "people.tsv"
    listed.write_text("\n".join(rows) + "\n")
    recipe = {
        "name": "tiny",
        "features": {"num_mels": 24},
        "encoder": {"name": "xvector", "channels": 8, "pooling_channels": 8, "embedding_dim": 16},
        "train": {"epochs": 2, "batch_size": 6, "crop_s": 0.4, "workers": 0, "checkpoint_minutes": 0.0},
    }
    tiny = good.folder / "tiny.toml"
    tiny.write_text(format_toml(recipe))
    trials, scores, model = good.path("trials.txt"), good.path("scores.txt"), good.model
    listing = ("--manifest", str(listed))
    one = ("--threads", "1")
    return {
        "train": Command(
            lambda out: ("train", str(tiny), *listing, "--out", str(out / "model"), *one), files
        ),
        "prepare": Command(
            lambda out: ("prepare", "musan", "--root", str(folder / "musan"), "--out", str(out / "lists")),
            files,
        ),
        "embed": Command(
            lambda out: ("embed", *listing, "--out", str(out / "e.npz"), "--batch-size", "2", *model, *one),
            files,
        ),
        "enroll": Command(
            lambda out: (
                "enroll",
                "--folder",
                str(folder / "people"),
                "--store",
                str(out / "store"),
                "--force",
                *model,
            ),
            people,
        ),
        "calibrate": Command(
            lambda out: (
                "calibrate",
                trials,
                "--scores",
                scores,
                "--far",
                "0.1",
                "--out",
                str(out / "c.toml"),
            ),
            files,
        ),
        "export": Command(lambda out: ("export", model[1], "--torchscript", str(out / "m.pt")), answers),
    }


def start(arguments: tuple[str, ...]) -> int:
    """Run a command in a forked process and return its id."""
    child = os.fork()
    if child:
        return child
    code = 70
    with contextlib.suppress(BaseException):
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = command_line(list(arguments))
    os._exit(code)


def torment(command: Command, folder: Path, kills: int, rng: random.Random) -> tuple[int, list[str]]:
    """Kill a command `kills` times and return how often it was hit, and what differed at an end."""
    (folder / "whole").mkdir(parents=True)
    started = time.monotonic()
    _, status = os.waitpid(start(command.arguments(folder / "whole")), 0)
    seconds = time.monotonic() - started
    if status:
        return 0, [f"undisturbed, it ended with status {os.waitstatus_to_exitcode(status)}"]
    expected, hits, attempt, wrong = command.facts(folder / "whole"), 0, 0, []
    while hits < kills and attempt < 10 * kills:
        attempt += 1
        out = folder / f"out{attempt}"
        out.mkdir()
        for _ in range(min(KILLS_IN_A_ROW, kills - hits)):
            child = start(command.arguments(out))
            time.sleep(rng.uniform(0, seconds))
            if os.waitpid(child, os.WNOHANG)[0]:
                break
            os.kill(child, rng.choice((signal.SIGKILL, signal.SIGTERM)))
            hits += 1
            os.waitpid(child, 0)
        _, status = os.waitpid(start(command.arguments(out)), 0)
        found = command.facts(out) if not status else {}
        if found != expected:
            differing = sorted(
                name for name in expected.keys() | found if expected.get(name) != found.get(name)
            )
            wrong.append(f"status {os.waitstatus_to_exitcode(status)}, differing: {', '.join(differing)}")
    return hits, wrong


def main() -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="kills per command (default: 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the moments (default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        tormented = commands(Path(scratch))
        print("| command | kills | ends that differ |\n|---|---|---|")
        for name, command in tormented.items():
            out = Path(scratch) / "out" / name
            hits, wrong = torment(command, out, options.kills, random.Random(options.seed))
            print(f"| {name} | {hits} | {len(wrong)} |", flush=True)
            for line in wrong:
                print(f"{name}: {line}", file=sys.stderr, flush=True)
            failed |= bool(wrong) or hits < options.kills
    return int(failed)


def musan(root: Path) -> None:
    """Write a small tree in the shape of MUSAN."""
    for kind in ("noise", "music", "speech"):
        for n in range(20):
            place = root / kind / "some" / f"{n}.wav"
            place.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(place, np.sin(np.arange(8000) * (n + 1) / 50) / 2, 16_000)


if __name__ == "__main__":
    sys.exit(main())
