#!/usr/bin/env python3
"""Score a trial list: `speakerverif score` as a script that runs from a checkout."""

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("speakerverif") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif.cli import score
from speakerverif.errors import InputError


def main() -> int:
    """Return the exit status: 0 done, 1 failure, 2 wrong input."""
    parser = argparse.ArgumentParser(
        prog="score.py", description="Score a trial list: EER and minDCF with intervals."
    )
    score.add_arguments(parser)
    try:
        return score.run(parser.parse_args())
    except InputError as error:
        print(f"score.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
