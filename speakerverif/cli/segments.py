"""The command that finds speech in recordings."""

import argparse
from pathlib import Path

from speakerverif._util.files import write_atomically


def add_segments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `segments`."""
    add = command.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="recordings")
    add_vad(command, default="energy")
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
    from speakerverif.inference.speech_segments import RATE, find_speech

    lines = []
    print("recording\tstart_s\tend_s")
    for path in arguments.files:
        for segment in find_speech(reading.read(path, sample_rate=RATE), arguments.vad):
            print(f"{path}\t{segment.start_s:.3f}\t{segment.end_s:.3f}")
            span = f"{segment.start_s:.3f} {segment.end_s - segment.start_s:.3f}"
            lines.append(f"SPEAKER {'_'.join(path.stem.split())} 1 {span} <NA> <NA> <NA> <NA> <NA>\n")
    if arguments.out:
        write_atomically(arguments.out, "".join(lines))
    return 0
