"""The command line: one file per group of commands, combined in `entry`."""

from speakerverif.cli.entry import main, parser

__all__ = ["main", "parser"]
