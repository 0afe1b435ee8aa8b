"""The outputs of a command line, separated from its inputs: an output may not overwrite an input."""

import argparse
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speakerverif._util.outputs import Output, check_outputs
from speakerverif.errors import InputError

FILES = ("json", "out_rttm", "out_scores", "onnx", "pt2", "torchscript")
FOLDERS = ("report",)
# The modules of commands whose --out is a file; for other commands it is a folder.
OUT_IS_FILE = (
    "speakerverif.cli.embedding",
    "speakerverif.cli.calibrate",
    "speakerverif.cli.segments",
    "speakerverif.cli.store",
)


def check(arguments: argparse.Namespace) -> None:
    """Raise `InputError` where an output of the command line can't be written or is an input."""
    outputs = list(outputs_of(arguments))
    written = {output.option.removeprefix("--").replace("-", "_") for output in outputs}
    others = [value for name, value in vars(arguments).items() if name not in (*written, "command", "run")]
    for path in (path for value in others for path in (value if isinstance(value, list) else [value])):
        if isinstance(path, Path):
            _check_name(path)
    check_outputs(outputs, [path for value in others for path in _paths(value)])


def outputs_of(arguments: argparse.Namespace) -> Iterator[Output]:
    """Yield the outputs of a command line."""
    for name in (*FILES, *FOLDERS, "out"):
        path = getattr(arguments, name, None)
        if not isinstance(path, Path):
            continue
        option = f"--{name.replace('_', '-')}"
        is_folder = name in FOLDERS or (name == "out" and arguments.run.__module__ not in OUT_IS_FILE)
        yield Output(option, path, is_folder)
        if not is_folder and path.suffix == ".ark":
            yield Output(option, path.with_suffix(".scp"))


def _check_name(path: Path) -> None:
    """Raise `InputError` for a name that no file can have, such as one of 300 characters."""
    try:
        os.lstat(path)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            why = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{str(path)[:80]!r}: no file has such a name: {why}") from error


def _paths(value: Any) -> Iterator[Path]:
    """Yield possible paths in the value of an argument, also in `NAME=FILE`."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, str):
        yield Path(value)
        yield Path(value.partition("=")[2])
    elif isinstance(value, list):
        for one in value:
            yield from _paths(one)
