"""The command line: one function a subcommand, each parses, calls one library function and prints.

Imports stand inside the functions, so that `--help` and scoring a score file start at once.
"""

from speakerverif.cli.entry import main, parser

__all__ = ["main", "parser"]
