#!/usr/bin/env python3
"""Score a trial list: `speakerverif score` as a script for a checkout."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("speakerverif") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif.cli.entry import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
