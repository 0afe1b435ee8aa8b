"""An argument parser whose errors are one line, and the list of commands in groups."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from speakerverif import __version__

WRONG_INPUT = 2
AddArguments = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class Command:
    """A command: its name, summary, example, arguments, and the function that runs it."""

    name: str
    summary: str
    example: str
    arguments: tuple[AddArguments, ...]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Group:
    """A group of commands under a heading."""

    heading: str
    commands: tuple[Command, ...]


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` with one-line errors that suggest the nearest option or command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse; unknown options are reported before missing ones, since one may be the other, mistyped."""
        words = sys.argv[1:] if args is None else list(args)
        if self._subparsers is None:
            self._refuse_unknown_options(words)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line on standard error."""
        self.exit(WRONG_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        options = [name for name in self._option_string_actions if name.startswith("--")]
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if word.startswith("--") and not any(option.startswith(name) for option in options):
                self.error(f"unknown option {name}{suggestion(name, options)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            names = list(action.choices)
            hint = suggestion(str(value), names) or f": expected {', '.join(names)}"
            raise argparse.ArgumentError(None, f"unknown command {value!r}{hint}")
        super()._check_value(action, value)


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" for a mistyped name; empty if no known name is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def parser_of(groups: Sequence[Group]) -> Parser:
    """Return the parser of all commands; `run` in its result is the function to call."""
    width = max(len(command.name) for group in groups for command in group.commands)
    lists = [
        "\n".join([f"{group.heading}:", *(f"  {c.name:{width}}  {c.summary}" for c in group.commands)])
        for group in groups
    ]
    top = Parser(
        prog="speakerverif",
        usage="speakerverif [-h] [--version] [-v | -q] COMMAND ...",
        description="Speaker verification: is this the same person speaking?",
        epilog="\n\n".join([*lists, "`speakerverif COMMAND --help` lists the options of one command."]),
    )
    top.add_argument("--version", action="version", version=f"speakerverif {__version__}")
    _add_verbosity(top, 0)
    subparsers = top.add_subparsers(
        prog="speakerverif", metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )
    for command in (command for group in groups for command in group.commands):
        sentence = f"{command.summary[0].upper()}{command.summary[1:]}."
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=sentence,
            epilog=f"example:\n  {command.example}",
        )
        for add_arguments in command.arguments:
            add_arguments(subparser)
        _add_verbosity(subparser, argparse.SUPPRESS)
        subparser.set_defaults(run=command.run)
    return top


def _add_verbosity(parser: argparse.ArgumentParser, default: Any) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="store_const",
        const=1,
        default=default,
        help="show more messages",
    )
    either.add_argument(
        "-q",
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=-1,
        default=default,
        help="show only warnings and errors",
    )
