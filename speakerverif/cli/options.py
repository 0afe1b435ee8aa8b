"""Options that several commands share, and the types of their values."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speakerverif._util import environment
from speakerverif.errors import InputError

MOST_THREADS = 1024
MOST_SEED = 2**32 - 1
AUDIO_ENDINGS = {
    ".wav",
    ".flac",
    ".ogg",
    ".opus",
    ".mp3",
    ".m4a",
    ".aac",
    ".mp4",
    ".aif",
    ".aiff",
    ".sph",
    ".w64",
    ".rf64",
    ".caf",
    ".au",
}
MOST_AT_ONCE = 1_000_000
MOST_CHANNELS = 1024
BUILT_IN = "model folder, ONNX file or org/name on the Hugging Face hub (default: the built-in starter model)"


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return the argparse type of a whole number from `least` to `most`, both included."""

    def number(text: str) -> int:
        try:
            value = int(text) if len(text) < 20 else None
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, found {text[:40]!r}"
            )
        return value

    return number


def channel(text: str) -> int | str:
    """Return the value of `--channel`: a channel counted from 1, `mix` or `each`."""
    return text if text in ("mix", "each") else whole_number(1, MOST_CHANNELS)(text)


def add_channel(command: argparse.ArgumentParser) -> None:
    """Add the option for the channel of multichannel recordings."""
    command.add_argument(
        "--channel",
        type=channel,
        metavar="N|mix|each",
        help="channel of recordings that have several: its number, from 1; mix averages them; each takes every "
        "channel as a recording of its own, FILE#1 and FILE#2 (default: average channels that hold the same voice, "
        "refuse others)",
    )


def single_channel(arguments: argparse.Namespace, command: str) -> Any:
    """Return the value of `--channel` for a command that uses one channel per recording.

    Raises:
        InputError: the value is `each`.
    """
    if arguments.channel == "each":
        raise InputError(
            f"--channel each gives an embedding for every channel, and {command} takes one for every recording: "
            "name a channel"
        )
    return arguments.channel


def add_compute(command: argparse.ArgumentParser) -> None:
    """Add the options for device and number of threads."""
    command.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add_threads(command)


def add_threads(command: argparse.ArgumentParser) -> None:
    """Add the option for the number of threads."""
    command.add_argument(
        "--threads",
        type=whole_number(1, MOST_THREADS),
        metavar="N",
        help="number of CPU threads (default: as many as this process may use)",
    )


def add_seed(command: argparse.ArgumentParser) -> None:
    """Add the option for the seed of a training."""
    command.add_argument(
        "--seed",
        type=whole_number(0, MOST_SEED),
        metavar="N",
        help="seed of every random choice (default: the recipe's)",
    )


def add_batch_size(command: argparse.ArgumentParser) -> None:
    """Add the option for the number of recordings in a batch."""
    command.add_argument(
        "--batch-size",
        type=whole_number(1, MOST_AT_ONCE),
        metavar="N",
        help="largest number of recordings that go through the encoder together",
    )


def add_assignments(command: argparse.ArgumentParser) -> None:
    """Add the option that changes keys of a recipe."""
    command.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the recipe, as in train.epochs=5; may be repeated",
    )


def add_places(command: argparse.ArgumentParser) -> None:
    """Add the options for VoxCeleb's folders and trial lists."""
    for name in ("vox1", "vox2"):
        command.add_argument(
            f"--{name}",
            type=Path,
            metavar="DIR",
            help=f"folder of VoxCeleb{name[-1]}, for the corpus voxceleb",
        )
    command.add_argument(
        "--trials",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="trial lists that are not in the folder of VoxCeleb1",
    )


def places(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the given folders and trial lists of VoxCeleb, by the option's name."""
    return {name: value for name in ("vox1", "vox2", "trials") if (value := getattr(arguments, name))}


def recordings(paths: list[Path]) -> list[Path]:
    """Return the recordings given as files or folders; a folder gives all recordings anywhere in it, sorted.

    Raises:
        InputError: a folder contains no recordings.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            within = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_ENDINGS and p.is_file())
            if not within:
                endings = ", ".join(sorted(AUDIO_ENDINGS))
                raise InputError(f"{path}: the folder holds no recordings ({endings})")
            files.extend(within)
        else:
            files.append(path)
    return files


def hub_cache() -> Path | None:
    """Return the cache folder of the Hugging Face hub's client, or None if there is none."""
    named, home, cache = os.environ.get("HF_HUB_CACHE"), os.environ.get("HF_HOME"), environment.cache_home()
    if named:
        folder = Path(named)
    elif home:
        folder = Path(home) / "hub"
    elif cache:
        folder = cache / "huggingface" / "hub"
    else:
        return None
    return folder if folder.is_dir() else None
