"""The command that finds speech in recordings."""

import argparse
from pathlib import Path

from speakerverif._util.files import write_atomically
from speakerverif.cli import options


def add_segments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `segments`."""
    add = command.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="recordings")
    add_vad(command, default="energy")
    options.add_channel(command)
    add("--out", type=Path, metavar="FILE.rttm", help="write the segments as RTTM")


def add_vad(command: argparse.ArgumentParser, default: str | None) -> None:
    """Add the option for the speech detector."""
    command.add_argument(
        "--vad",
        choices=("energy", "silero"),
        default=default,
        help="energy: what is loud enough; silero: a small neural detector, pip install 'speakerverif[vad]'"
        + (f" (default: {default})" if default else " (default: embed all of a recording)"),
    )


def segments(arguments: argparse.Namespace) -> int:
    """List the speech segments of recordings."""
    from speakerverif.audio import reading
    from speakerverif.data.manifest import Utterance
    from speakerverif.inference.channels import channels_of
    from speakerverif.inference.speech_segments import RATE, find_speech

    lines = []
    print("recording\tstart_s\tend_s")
    each = arguments.channel == "each"
    whole = (Utterance(str(path), str(path), "") for path in arguments.files)
    for utterance in (part for u in whole for part in (channels_of(u, reading) if each else [u])):
        channel = utterance.channel if each else arguments.channel
        name = "_".join(Path(utterance.path).stem.split())
        number = channel if isinstance(channel, int) else 1
        for segment in find_speech(
            reading.read(utterance.path, sample_rate=RATE, channel=channel), arguments.vad
        ):
            print(f"{utterance.id}\t{segment.start_s:.3f}\t{segment.end_s:.3f}")
            span = f"{segment.start_s:.3f} {segment.end_s - segment.start_s:.3f}"
            lines.append(f"SPEAKER {name} {number} {span} <NA> <NA> <NA> <NA> <NA>\n")
    if arguments.out:
        write_atomically(arguments.out, "".join(lines))
    return 0
